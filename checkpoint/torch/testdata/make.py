"""Writes the files of this folder: make.py DIR. README.md says what they hold."""
import collections, os, sys
import numpy, torch

out = sys.argv[1]


def tiny(prefix='', head='fc'):
    """The state dict of a network of three channels in, two features, four classes. Values are multiples of 1/8, exact in every type."""
    count = iter(range(1000))
    fill = lambda *shape: torch.tensor([next(count) / 8 for _ in range(torch.Size(shape).numel())]).reshape(shape)
    d = collections.OrderedDict()
    d[prefix + 'conv1.weight'] = fill(2, 3, 3, 3)
    for name in 'weight', 'bias', 'running_mean', 'running_var':
        d[prefix + 'bn1.' + name] = fill(2)
    d[prefix + 'bn1.num_batches_tracked'] = torch.tensor(7)
    d[prefix + head + '.weight'] = fill(4, 2)
    d[prefix + head + '.bias'] = fill(4)
    return d


def save(name, value, **options):
    torch.save(value, os.path.join(out, name), **options)


class Evil:
    def __reduce__(self):
        return os.system, ('touch executed',)


old = dict(_use_new_zipfile_serialization=False)
save('tiny.pth', tiny())
save('tiny-legacy.pth', tiny(), **old)
save('tiny-protocol4.pth', tiny(), pickle_protocol=4)
save('tiny-nested.pth', {'epoch': 3, 'best_prec1': torch.tensor(91.7), 'state_dict': tiny('module.', 'linear')})
save('tiny-nested-legacy.pth', {'model': tiny(), 'optimizer': {'lr': .1, 'state': {0: [None, True, -5, 2**40]}}}, **old)
save('tiny-parameters.pth', collections.OrderedDict((k, torch.nn.Parameter(v) if v.is_floating_point() else v) for k, v in tiny().items()))
save('tiny-half.pth', collections.OrderedDict((k, v.half() if v.is_floating_point() else v) for k, v in tiny().items()))
save('tiny-bfloat16.pth', collections.OrderedDict((k, v.bfloat16() if v.is_floating_point() else v) for k, v in tiny().items()))
save('tiny-double-legacy.pth', collections.OrderedDict((k, v.double() if v.is_floating_point() else v) for k, v in tiny().items()), **old)

flat = torch.cat([v.flatten() for v in tiny().values() if v.is_floating_point()])
views, at = collections.OrderedDict(), 0
for k, v in tiny().items():
    if v.is_floating_point():
        views[k], at = flat[at:at + v.numel()].view(v.shape), at + v.numel()
    else:
        views[k] = v
views['fc.weight'] = tiny()['fc.weight'].t().contiguous().t()
save('tiny-views.pth', views)
save('tiny-channels-last-legacy.pth', collections.OrderedDict((k, v.contiguous(memory_format=torch.channels_last) if v.dim() == 4 else v) for k, v in tiny().items()), **old)

save('evil.pth', {'state_dict': tiny(), 'x': Evil()})
save('evil-legacy.pth', {'state_dict': tiny(), 'x': Evil()}, **old)
save('module.pth', torch.nn.Linear(2, 2))
save('numpy.pth', {'state_dict': tiny(), 'acc': numpy.float64(1)})
save('tied.pth', collections.OrderedDict(a=flat[:9], b=flat[8:]))
save('expanded.pth', collections.OrderedDict(a=torch.zeros(1).expand(1000)))
save('nothing.pth', {'epoch': 3, 'lr': .1})
