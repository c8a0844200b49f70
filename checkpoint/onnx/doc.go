// Package onnx writes residual networks as ONNX models, for runtimes that know neither this program nor PyTorch.
//
// A model is a graph of standard operators (opset 17, IR version 8) with its weights inside: input "images", float32 [batch, 3, side, side]
// of normalised pixels, output "logits", float32 [batch, classes]; the batch may be of any size. Batch normalisation is an operator of
// its own, or is folded into the weights of the convolution before it. The file is Protocol Buffers' wire format, written by hand after
// onnx.proto (https://github.com/onnx/onnx/blob/main/onnx/onnx.proto): a dozen messages do not pay for generated code, and weights go out
// without a copy.
//
// The caller hands over the network as layers, and the weights under torchvision's names:
//
//	m := &onnx.Model{Name: "resnet50", Resolution: 224, Layers: layers, Weights: arrays, FoldNorm: true}
//	err := vfs.WriteAtomic(vfs.OS{}, "resnet50.onnx", 0o644, m.Write)
package onnx
