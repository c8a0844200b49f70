"""The other side of TestPeersAgree, one step a process: onnx and onnxruntime do not always bear being loaded into one.

make ARCH DIR        torchvision's network with random weights and statistics, as .pth (zip and older) and safetensors, and its logits of
                     DIR/images.bin (float32, 16 x 3 x 224 x 224) as DIR/made.bin
torch ARCH FILE DIR  load_state_dict(strict=True) of FILE (safetensors); logits as DIR/torch.bin
check FILE           onnx's checker, with shape inference
run FILE DIR         onnxruntime; logits as DIR/onnx.bin
"""
import sys

import numpy


def images(folder):
    return numpy.fromfile(folder + '/images.bin', 'float32').reshape(16, 3, 224, 224)


def save(net, folder, name):
    import torch
    net.eval()
    with torch.no_grad():
        net(torch.from_numpy(images(folder))).numpy().tofile(folder + '/' + name)


def make(arch, folder):
    import torch, torchvision
    from safetensors.torch import save_file
    torch.manual_seed(1)
    net = torchvision.models.__dict__[arch](num_classes=10).train()
    with torch.no_grad():
        for p in net.parameters():
            if p.dim() == 1:
                p.add_(torch.randn_like(p) / 8)
        for _ in range(3):
            net(torch.randn(8, 3, 64, 64))
    state = net.state_dict()
    torch.save(state, folder + '/zip.pth')
    torch.save({'state_dict': {'module.' + k: v for k, v in state.items()}}, folder + '/legacy.pth', _use_new_zipfile_serialization=False)
    save_file(state, folder + '/st.safetensors')
    save(net, folder, 'made.bin')


def torch_(arch, path, folder):
    import torchvision
    from safetensors.torch import load_file
    net = torchvision.models.__dict__[arch](num_classes=10)
    net.load_state_dict(load_file(path), strict=True)
    save(net, folder, 'torch.bin')


def check(path):
    import onnx
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)


def run(path, folder):
    import onnxruntime
    session = onnxruntime.InferenceSession(path, providers=['CPUExecutionProvider'])
    x = images(folder)
    logits = session.run(None, {'images': x})[0]
    one = session.run(None, {'images': x[:1]})[0]
    assert abs(one - logits[:1]).max() < 1e-3, 'a batch of one gives other logits'
    logits.tofile(folder + '/onnx.bin')


{'make': make, 'torch': torch_, 'check': check, 'run': run}[sys.argv[1]](*sys.argv[2:])
