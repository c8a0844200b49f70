package main

import (
	"fmt"
	"maps"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/lockstep-ml/lockstep/checkpoint"
	"github.com/lockstep-ml/lockstep/checkpoint/onnx"
	"github.com/lockstep-ml/lockstep/core"
	"github.com/lockstep-ml/lockstep/internal/vfs"
)

// The formats of an export.
const (
	formatSafetensors = "safetensors"
	formatONNX        = "onnx"
)

// exportOptions are the flags of lockstep checkpoint export.
type exportOptions struct {
	settings *settings // arch, mean, std, resolution
	format   string
	fold     bool
	asJSON   bool
}

type exportResult struct {
	File       string `json:"file"`
	Format     string `json:"format"`
	Arch       string `json:"arch"`
	Step       uint64 `json:"step"`
	Parameters int    `json:"parameters"`
	Hash       string `json:"hash"`
}

func checkpointExport() *cobra.Command {
	o := exportOptions{settings: newSettings()}
	cmd := &cobra.Command{Use: "export FILE|DIR OUT", Short: "Write weights for other programs: safetensors under torchvision's names, or ONNX", Args: cobra.ExactArgs(2),
		Long: `Writes the weights and BN statistics of a checkpoint, of a run's newest checkpoint, or of a file of weights.
safetensors: names and shapes as torchvision's load_state_dict(strict=True) takes them.
ONNX: opset 17, any batch, input "images" (normalised, NCHW), output "logits".`,
		Example: `  lockstep checkpoint export runs/mine weights.safetensors
  lockstep checkpoint export runs/mine model.onnx --fold-bn
  lockstep checkpoint export resnet50-11ad3fa6.pth model.onnx --arch resnet50-v1.5`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := loadSettings(cmd.Flags()); err != nil {
				return err
			}
			return o.run(cmd, args[0], args[1])
		}}
	for _, name := range metaSettings {
		cmd.Flags().AddFlag(o.settings.flags.Lookup(name))
	}
	cmd.Flags().StringVar(&o.format, "format", "", "safetensors or onnx; empty: by the name of OUT")
	cmd.Flags().BoolVar(&o.fold, "fold-bn", false, "onnx: make batch normalisation part of the convolutions' weights")
	cmd.Flags().BoolVar(&o.asJSON, "json", false, "print one JSON object")
	return cmd
}

func (o *exportOptions) run(cmd *cobra.Command, from, to string) error {
	if o.format == "" {
		o.format = formatSafetensors
		if filepath.Ext(to) == ".onnx" {
			o.format = formatONNX
		}
	}
	if o.format != formatSafetensors && o.format != formatONNX {
		return fmt.Errorf("--format %s: the formats are %s and %s", o.format, formatSafetensors, formatONNX)
	}
	if o.fold && o.format != formatONNX {
		return fmt.Errorf("--fold-bn is for --format %s: a file of weights keeps the layers that the network has", formatONNX)
	}
	t, err := openTrained(cmd, from, o.settings)
	if err != nil {
		return err
	}
	if t.settings.pixelMean {
		fmt.Fprintln(cmd.ErrOrStderr(), "note: the run subtracted the mean of its training images at every pixel (--pixel-mean), which is not in the export: lockstep.mean is not the whole of it")
	}
	if o.format == formatONNX {
		err = t.writeONNX(to, o.fold)
	} else {
		err = t.writeSafetensors(to)
	}
	if err != nil {
		return err
	}
	r := exportResult{File: to, Format: o.format, Arch: t.settings.arch, Step: t.state.Step, Parameters: t.net.ParamLen(), Hash: t.state.Hash()}
	if o.asJSON {
		return printJSON(cmd.OutOrStdout(), r)
	}
	_, err = fmt.Fprintf(cmd.OutOrStdout(), "%s: %s after %d steps, %d parameters\n", r.File, r.Arch, r.Step, r.Parameters)
	return err
}

func (t *trained) writeSafetensors(path string) error {
	meta, err := t.metadata()
	if err != nil {
		return err
	}
	arrays, err := checkpoint.ExportWeights(t.state, tableFor(t.net))
	if err != nil {
		return err
	}
	return checkpoint.SaveSafetensors(vfs.OS{}, path, arrays, meta)
}

// layerKinds gives core's operations as ONNX export names them.
var layerKinds = map[core.Op]onnx.Kind{
	core.OpInput: onnx.Input, core.OpConv: onnx.Conv, core.OpBatchNorm: onnx.BatchNorm, core.OpReLU: onnx.ReLU, core.OpMaxPool: onnx.MaxPool,
	core.OpAdd: onnx.Add, core.OpPadShortcut: onnx.PadShortcut, core.OpGlobalAvgPool: onnx.GlobalAvgPool, core.OpLinear: onnx.Linear,
}

func (t *trained) writeONNX(path string, fold bool) error {
	m, err := t.onnxModel(fold)
	if err != nil {
		return err
	}
	return vfs.WriteAtomic(vfs.OS{}, path, 0o644, m.Write)
}

func (t *trained) onnxModel(fold bool) (*onnx.Model, error) {
	meta, err := t.metadata()
	if err != nil {
		return nil, err
	}
	maps.DeleteFunc(meta, func(k, _ string) bool { return k == "format" })
	m := &onnx.Model{Name: t.net.Name, Resolution: t.transform().Resolution, Epsilon: core.BNEpsilon, FoldNorm: fold, Version: buildVersion(), Metadata: meta}
	for _, n := range t.net.Nodes {
		kind, known := layerKinds[n.Op]
		if !known {
			return nil, fmt.Errorf("%s has a layer %s of kind %s, which has no counterpart in ONNX here", t.net.Name, n.Name, n.Op)
		}
		m.Layers = append(m.Layers, onnx.Layer{Kind: kind, Name: n.Name, Inputs: n.Inputs, Channels: n.Channels, Kernel: n.Kernel, Stride: n.Stride, Pad: n.Pad})
	}
	m.Weights, err = checkpoint.ExportWeights(t.state, tableFor(t.net))
	return m, err
}
