"""Full training steps of Lockstep and of PyTorch on this machine, in turn.

    lockstep bench engine --arch resnet50-v1.5 --batch 32 --threads 2 --compare > compare.py
    python3 compare.py [ROUNDS] [LOCKSTEP]        5 rounds, and lockstep from the PATH, if not given

needs Python 3 with torch, and torchvision for the ImageNet networks. Each round starts one process of either: A B A B ..., so
that a machine that grows warm or busy does so for both. A process does one step to warm up, then STEPS timed ones, and reports
their median; what counts at the end is the median over the rounds, and the ratio of the two. By hand, the same is:

    lockstep bench engine --arch resnet50-v1.5 --batch 32 --threads 2 --json       images_per_second
    python3 compare.py torch                                                       images_per_second

What to watch:

  * a quiet machine: nothing else running (uptime shows a load near 0 before you begin), power and cooling that hold the clock. Beside
    other work PyTorch's threads wait for one another far longer than Lockstep's: such a ratio flatters Lockstep and is worth nothing;
  * the same cores: equal thread counts, no more of them than the machine has cores, and the same ones for both where there
    are more (taskset -c 0,1 python3 compare.py pins both, for child processes inherit it);
  * the same work: one batch size, one precision (float32 here), forward + loss + backward + SGD with momentum and weight decay;
    loading of data is no part of it on either side;
  * the same network: resnet50-v1.5 is what torchvision calls resnet50. The paper's resnet50 has a bottleneck's stride in its first
    1x1, and below torchvision's is changed to that;
  * PyTorch at its best: channels_last, gradients set to None, as many threads as told. A distribution whose torch comes without
    oneDNN (print(torch.__config__.show())) is no fair opponent. TORCH_COMPILE=1 tries torch.compile; compiling is not timed;
  * enough steps: --steps so that a process times several seconds, and rounds until the medians of two sittings agree within 2 %.
    Quote ratios of one sitting; figures of two days or two machines do not compare.
"""
import json, os, re, statistics, subprocess, sys, time

ARCH, BATCH, THREADS, STEPS = 'cifar-resnet20', 128, 1, 7


def cifar(depth):
    """The paper's network for CIFAR: 6n+2 layers, identity shortcuts, new channels zero, half of them before and half behind."""
    import torch
    from torch import nn

    class Block(nn.Module):
        def __init__(self, inputs, outputs, stride):
            super().__init__()
            self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
            self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
            self.stride, self.pad = stride, (outputs - inputs) // 2

        def forward(self, x):
            y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
            if self.pad:
                x = nn.functional.pad(x[:, :, ::self.stride, ::self.stride], (0, 0, 0, 0, self.pad, self.pad))
            return torch.relu(y + x)

    layers, inputs = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()], 16
    for outputs in (16, 32, 64):
        for _ in range((depth - 2) // 6):
            layers.append(Block(inputs, outputs, outputs // inputs))
            inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


def network():
    """ARCH in PyTorch, its resolution and its classes."""
    if m := re.fullmatch(r'cifar-resnet(\d+)(-A)?', ARCH):
        return cifar(int(m[1])), 32, 10
    m = re.fullmatch(r'(resnet(?:18|34|50|101|152))(-B)?(-v1\.5)?', ARCH)
    if not m:
        sys.exit(f'{ARCH} has no counterpart in torchvision: choose cifar-resnet..., resnet18, resnet34, or resnet50-v1.5 and deeper')
    import torchvision
    net = torchvision.models.__dict__[m[1]]()
    for block in net.modules():
        if isinstance(block, torchvision.models.resnet.Bottleneck) and not m[3]:
            block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride
    return net, 224, 1000


def pytorch():
    """Times PyTorch in this process and prints images a second."""
    import torch
    torch.set_num_threads(THREADS)
    net, resolution, classes = network()
    net = net.to(memory_format=torch.channels_last).train()
    if os.environ.get('TORCH_COMPILE'):
        net = torch.compile(net)
    images = torch.randn(BATCH, 3, resolution, resolution).to(memory_format=torch.channels_last)
    labels = torch.randint(0, classes, (BATCH,))
    loss, sgd = torch.nn.CrossEntropyLoss(), torch.optim.SGD(net.parameters(), lr=1e-4, momentum=0.9, weight_decay=1e-4)
    took = []
    for _ in range(STEPS + 1):
        begun = time.perf_counter()
        sgd.zero_grad(set_to_none=True)
        loss(net(images), labels).backward()
        sgd.step()
        took.append(time.perf_counter() - begun)
    print(json.dumps({'images_per_second': BATCH / statistics.median(took[1:])}))


def rate(*command):
    """Runs a command that ends with a line of JSON."""
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f'{" ".join(command)} failed')
    return json.loads(done.stdout.splitlines()[-1])['images_per_second']


def main():
    if sys.argv[1:] == ['torch']:
        return pytorch()
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    lockstep = sys.argv[2] if len(sys.argv) > 2 else 'lockstep'
    ours, theirs = [], []
    for i in range(rounds):
        ours.append(rate(lockstep, 'bench', 'engine', '--arch', ARCH, '--batch', str(BATCH), '--threads', str(THREADS), '--steps', str(STEPS), '--json'))
        theirs.append(rate(sys.executable, os.path.abspath(__file__), 'torch'))
        print(f'round {i + 1}: Lockstep {ours[-1]:.2f} img/s, PyTorch {theirs[-1]:.2f} img/s', flush=True)
    a, b = statistics.median(ours), statistics.median(theirs)
    print(f'{ARCH}, batch {BATCH}, {THREADS} threads, medians of {rounds}: Lockstep {a:.2f} img/s, PyTorch {b:.2f} img/s, ratio {a / b:.2f}')


if __name__ == '__main__':
    main()
