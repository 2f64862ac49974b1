"""Small networks in plain torch, one for every way in which channels of two layers can hang together.

Each entry of `ZOO` builds a model (random weights, random affine parameters, BatchNorm statistics that matter), its
example inputs, and names the parameters that pruning must make narrower, so that a network left as it was does not
pass for a pruned one. `installed()` adds networks of torchvision and transformers, without weights, where those can
be imported; the three big builders at the end are what the benchmark times.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Variant:
    """`build` and `inputs` give the same thing at every call; `narrower` are names of the state dict.

    `may_refuse`: a network whose channels cannot go without changing the rest. Leaving it wide is right, and so is
    refusing it; only a network that computes something else is wrong.
    """

    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[], tuple[Tensor, ...]]
    narrower: tuple[str, ...] = ()
    may_refuse: bool = False
    note: str = ""

    def __str__(self) -> str:
        return self.name


ZOO: list[Variant] = []


def _seed(name: str) -> int:
    return zlib.crc32(name.encode())


def _snake(name: str) -> str:
    return "".join("_" + c.lower() if c.isupper() else c for c in name).lstrip("_")


@torch.no_grad()
def randomise(model: nn.Module) -> nn.Module:
    """No parameter at a value that hides a mistake: no zero bias, no unit scale, no standard running statistics."""
    norms = {
        f"{name}.weight" if name else "weight"
        for name, module in model.named_modules()
        if isinstance(getattr(module, "weight", None), Tensor) and module.weight.dim() == 1
    }
    for name, parameter in model.named_parameters():
        leaf = name.rsplit(".", 1)[-1]
        if name in norms or leaf in ("scale", "gamma", "original0"):
            parameter.uniform_(0.5, 1.5)
        elif parameter.dim() == 1:
            parameter.normal_(0, 0.3)
    for name, buffer in model.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_(0, 0.3)
        elif name.endswith("running_var"):
            buffer.uniform_(0.5, 2.0)
    return model


def randn(*shape: int) -> Callable[[torch.Generator], Tensor]:
    return lambda g: torch.randn(*shape, generator=g)


def tokens(*shape: int, vocabulary: int = 20) -> Callable[[torch.Generator], Tensor]:
    return lambda g: torch.randint(0, vocabulary, shape, generator=g)


IMAGE = randn(2, 3, 8, 8)
SEQUENCE = randn(2, 5, 16)


def register(name, make, inputs, narrower="", may_refuse=False, note=""):
    def build():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_seed(name))
            return randomise(make())

    def example():
        generator = torch.Generator().manual_seed(_seed(name) + 1)
        return tuple(one(generator) for one in inputs)

    ZOO.append(Variant(name, build, example, tuple(narrower.split()), may_refuse, note))


def variant(*inputs, narrower="", may_refuse=False, note="", **sizes):
    """Registers a module class under its name; `sizes` are passed to its constructor."""

    def decorate(cls):
        register(sizes.pop("name", _snake(cls.__name__)), lambda: cls(**sizes), inputs, narrower, may_refuse, note)
        return cls

    return decorate


def conv(cin: int, cout: int, k: int = 3, **rest) -> nn.Conv2d:
    return nn.Conv2d(cin, cout, k, padding=rest.pop("padding", k // 2), **rest)


def conv_bn(cin: int, cout: int, k: int = 3, act: bool = True, **rest) -> nn.Sequential:
    layers = [conv(cin, cout, k, bias=False, **rest), nn.BatchNorm2d(cout)]
    return nn.Sequential(*layers, nn.ReLU()) if act else nn.Sequential(*layers)


# --- convolutions in a row, flattening, reshaping ---------------------------------------------------------------------


@variant(IMAGE, narrower="0.weight 1.running_mean 3.weight 6.weight")
class SequentialConv(nn.Sequential):
    def __init__(self):
        super().__init__(
            conv(3, 16), nn.BatchNorm2d(16), nn.ReLU(), conv(16, 12), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 5)
        )


@variant(randn(4, 10), narrower="0.weight 2.weight 2.bias 4.weight")
class Mlp(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(10, 16), nn.GELU(), nn.Linear(16, 12), nn.Sigmoid(), nn.Linear(12, 5))


@variant(IMAGE, narrower="a.weight fc.weight")
class FlattenToLinear(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.fc = conv(3, 8), nn.Linear(8 * 16, 5)

    def forward(self, x):
        return self.fc(torch.flatten(F.max_pool2d(F.relu(self.a(x)), 2), 1))


@variant(IMAGE, narrower="a.weight bn.weight bn.running_var fc.weight")
class FlattenBatchNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.bn, self.fc = conv(3, 8), nn.BatchNorm1d(8 * 4), nn.Linear(8 * 4, 5)

    def forward(self, x):
        return self.fc(F.relu(self.bn(F.avg_pool2d(self.a(x), 4).flatten(1))))


@variant(IMAGE, narrower="a.weight fc.weight")
class PermuteFlatten(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.fc = conv(3, 8), nn.Linear(8 * 16, 5)

    def forward(self, x):
        return self.fc(F.avg_pool2d(torch.tanh(self.a(x)), 2).permute(0, 2, 3, 1).flatten(1))


@variant(IMAGE, narrower="a.weight b.weight fc.weight")
class TwoFlattened(nn.Module):
    """Two maps of unlike size, flattened and put behind each other."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.fc = conv(3, 8), conv(3, 6, stride=2), nn.Linear(8 * 4 + 6 * 16, 5)

    def forward(self, x):
        a, b = F.max_pool2d(self.a(x), 4).flatten(1), F.relu(self.b(x)).flatten(1)
        return self.fc(torch.cat([a, b], 1))


@variant(IMAGE, narrower="a.weight b.weight fc.weight")
class ConcatFlatten(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.fc = conv(3, 8), conv(3, 6), nn.Linear(14 * 4, 5)

    def forward(self, x):
        return self.fc(F.adaptive_avg_pool2d(F.relu(torch.cat([self.a(x), self.b(x)], 1)), 2).flatten(1))


@variant(IMAGE, narrower="a.weight b.weight fc.weight")
class ReshapeKeep(nn.Module):
    """[N, C, H, W] to [N, C, HW] and back: the channels stay where they are."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.fc = conv(3, 8), conv(8, 12), nn.Linear(12, 5)

    def forward(self, x):
        x = F.relu(self.a(x))
        n, c, h, w = x.shape
        x = x.reshape(n, c, h * w).softmax(-1).reshape(n, c, h, w)
        return self.fc(self.b(x).view(n, 12, -1).mean(-1))


@variant(IMAGE, narrower="a.weight b.weight", note="fully convolutional")
class Upsampling(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = conv(3, 8, stride=2), conv(8, 12, dilation=2, padding=2), conv(12, 3)

    def forward(self, x):
        x = F.leaky_relu(self.b(F.hardswish(self.a(x))), 0.1)
        return self.c(F.interpolate(F.pad(x, (1, 1, 1, 1)), size=(8, 8), mode="bilinear", align_corners=False))


@variant(randn(2, 3, 12), narrower="a.weight b.weight bn.running_mean fc.weight")
class Conv1d(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv1d(3, 12, 3, padding=1), nn.Conv1d(12, 8, 3, stride=2)
        self.bn, self.fc = nn.BatchNorm1d(8), nn.Linear(8, 5)

    def forward(self, x):
        return self.fc(F.relu(self.bn(self.b(F.relu(self.a(x))))).mean(-1))


@variant(randn(2, 2, 4, 6, 6), narrower="a.weight b.weight bn.running_mean fc.weight")
class Conv3d(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.bn, self.b = nn.Conv3d(2, 8, 3, padding=1), nn.BatchNorm3d(8), nn.Conv3d(8, 12, 3, padding=1)
        self.fc = nn.Linear(12, 5)

    def forward(self, x):
        x = F.max_pool3d(F.relu(self.bn(self.a(x))), 2)
        return self.fc(F.adaptive_avg_pool3d(F.relu(self.b(x)), 1).flatten(1))


# --- sums, products, concatenations, slices ---------------------------------------------------------------------------


class BasicBlock(nn.Module):
    def __init__(self, cin: int, cout: int, stride: int = 1):
        super().__init__()
        self.a = conv_bn(cin, cout, stride=stride)
        self.b = conv_bn(cout, cout, act=False)
        self.skip = nn.Identity() if cin == cout and stride == 1 else conv_bn(cin, cout, 1, act=False, stride=stride)

    def forward(self, x):
        return F.relu(self.b(self.a(x)) + self.skip(x))


@variant(IMAGE, narrower="stem.0.weight one.a.0.weight one.b.0.weight two.skip.0.weight two.b.0.weight fc.weight")
class ResidualAdd(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.one, self.two = conv_bn(3, 8), BasicBlock(8, 8), BasicBlock(8, 16, 2)
        self.fc = nn.Linear(16, 5)

    def forward(self, x):
        return self.fc(self.two(self.one(self.stem(x))).mean((2, 3)))


@variant(randn(2, 6, 8, 8), narrower="a.weight b.weight")
class InputResidual(nn.Module):
    """`x + f(x)` on the network's own input: what the input carries stays."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.fc = conv(6, 16), conv(16, 6), nn.Linear(6, 5)

    def forward(self, x):
        return self.fc((x + self.b(F.relu(self.a(x)))).mean((2, 3)))


@variant(IMAGE, narrower="a.weight b.weight c.weight fc.weight")
class MulGate(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.fc = conv(3, 12), conv(3, 12), conv(12, 8), nn.Linear(8, 5)

    def forward(self, x):
        return self.fc(F.relu(self.c(self.a(x) * torch.sigmoid(self.b(x)))).mean((2, 3)))


@variant(IMAGE, narrower="a.0.weight down.weight up.weight fc.weight")
class SqueezeExcitation(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.down, self.up, self.fc = conv_bn(3, 16), conv(16, 6, 1), conv(6, 16, 1), nn.Linear(16, 5)

    def forward(self, x):
        x = self.a(x)
        x = x * torch.sigmoid(self.up(F.relu(self.down(F.adaptive_avg_pool2d(x, 1)))))
        return self.fc(x.mean((2, 3)))


@variant(IMAGE, narrower="a.weight gate.weight fc.weight")
class OneChannelGate(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.gate, self.fc = conv(3, 16), conv(16, 1), nn.Linear(16, 5)

    def forward(self, x):
        x = F.relu(self.a(x))
        return self.fc((x * torch.sigmoid(self.gate(x))).mean((2, 3)))


@variant(randn(2, 10), narrower="inside.weight t.weight h.weight fc.weight")
class Highway(nn.Module):
    """`t * h + (1 - t) * x`: where a pruned gate is not zero but a half."""

    def __init__(self):
        super().__init__()
        self.inside, self.t, self.h, self.fc = nn.Linear(10, 16), nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 5)

    def forward(self, x):
        x = torch.tanh(self.inside(x))
        t = torch.sigmoid(self.t(x))
        return self.fc(t * torch.tanh(self.h(x)) + (1 - t) * x)


@variant(IMAGE, narrower="a.weight b.weight c.weight d.weight fc.weight")
class DenseConcat(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d, self.fc = conv(3, 8), conv(8, 6), conv(14, 10), conv(24, 8, 1), nn.Linear(8, 5)

    def forward(self, x):
        a = F.relu(self.a(x))
        ab = torch.cat([a, F.relu(self.b(a))], 1)
        abc = torch.cat([ab, F.relu(self.c(ab))], 1)
        return self.fc(self.d(abc).mean((2, 3)))


class DenseLayer(nn.Module):
    def __init__(self, cin: int, growth: int):
        super().__init__()
        self.n1, self.c1 = nn.BatchNorm2d(cin), conv(cin, 2 * growth, 1, bias=False)
        self.n2, self.c2 = nn.BatchNorm2d(2 * growth), conv(2 * growth, growth, bias=False)

    def forward(self, parts: list[Tensor]):
        x = torch.cat(parts, 1)
        return self.c2(F.relu(self.n2(self.c1(F.relu(self.n1(x))))))


@variant(IMAGE, narrower="stem.weight layers.0.c2.weight layers.1.n1.running_mean layers.1.c1.weight norm.weight fc.weight")
class DensenetBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = conv(3, 8)
        self.layers = nn.ModuleList(DenseLayer(8 + 6 * i, 6) for i in range(3))
        self.norm, self.transition, self.fc = nn.BatchNorm2d(26), conv(26, 12, 1), nn.Linear(12, 5)

    def forward(self, x):
        parts = [self.stem(x)]
        for layer in self.layers:
            parts.append(layer(parts))
        return self.fc(F.avg_pool2d(self.transition(F.relu(self.norm(torch.cat(parts, 1)))), 2).mean((2, 3)))


@variant(IMAGE, narrower="down1.0.weight down2.0.weight middle.0.weight up2.weight up1.weight dec1.0.weight")
class Unet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down1, self.down2, self.middle = conv_bn(3, 8), conv_bn(8, 12), conv_bn(12, 16)
        self.up2, self.dec2 = nn.ConvTranspose2d(16, 12, 2, stride=2), conv_bn(24, 12)
        self.up1, self.dec1 = nn.ConvTranspose2d(12, 8, 2, stride=2), conv_bn(16, 8)
        self.out = conv(8, 2, 1)

    def forward(self, x):
        one = self.down1(x)
        two = self.down2(F.max_pool2d(one, 2))
        x = self.middle(F.max_pool2d(two, 2))
        x = self.dec2(torch.cat([self.up2(x), two], 1))
        return self.out(self.dec1(torch.cat([one, self.up1(x)], 1)))


@variant(IMAGE, narrower="a.weight b.weight c.weight")
class ChunkConcat(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.fc = conv(3, 16), conv(8, 6), conv(14, 10), nn.Linear(10, 5)

    def forward(self, x):
        x, y = F.relu(self.a(x)).chunk(2, 1)
        return self.fc(self.c(torch.cat([self.b(x), y], 1)).mean((2, 3)))


@variant(IMAGE, narrower="a.weight b.weight c.weight")
class SplitLiteral(nn.Module):
    """Sizes written out: a forward that says 6 and 10 must say less afterwards."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.fc = conv(3, 16), conv(6, 8), conv(18, 10), nn.Linear(10, 5)

    def forward(self, x):
        x, y = torch.split(F.relu(self.a(x)), [6, 10], dim=1)
        return self.fc(self.c(torch.cat([y, self.b(x)], 1)).mean((2, 3)))


@variant(IMAGE, narrower="a.weight b.weight c.weight fc.weight")
class SplitCsp(nn.Module):
    """As in C2f: halves, one of them worked on again and again, all put together."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.d, self.fc = conv(3, 16), conv(8, 8), conv(8, 8), conv(32, 12, 1), nn.Linear(12, 5)

    def forward(self, x):
        parts = list(F.silu(self.a(x)).split((8, 8), 1))
        parts.append(F.silu(self.b(parts[-1])))
        parts.append(parts[-1] + self.c(parts[-1]))
        return self.fc(self.d(torch.cat(parts, 1)).mean((2, 3)))


@variant(IMAGE, narrower="a.weight b.weight c.weight")
class ChannelSlice(nn.Module):
    """Slices that overlap: channels 4 and 5 have two readers, each at another offset."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.fc = conv(3, 16), conv(6, 8), conv(12, 8), nn.Linear(8, 5)

    def forward(self, x):
        x = F.relu(self.a(x))
        return self.fc((self.b(x[:, :6]) * self.c(x[:, 4:])).mean((2, 3)))


@variant(IMAGE, narrower="a.weight b.weight c.weight fc.weight")
class StackMean(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.fc = conv(3, 10), conv(3, 10), conv(10, 8), nn.Linear(8, 5)

    def forward(self, x):
        x = torch.stack([self.a(x), self.b(x), F.relu(self.b(x))], 0)
        one, two, three = x.unbind(0)
        return self.fc(self.c(x.mean(0) + one * two - three).mean((2, 3)))


@variant(IMAGE, narrower="a.0.weight b.0.weight c.0.weight id.weight fc.weight", note="three parallel branches")
class RepVgg(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.c, self.id = conv_bn(3, 8), conv_bn(8, 8, act=False), conv_bn(8, 8, 1, act=False), nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, 5)

    def forward(self, x):
        x = self.a(x)
        return self.fc(F.relu(self.b(x) + self.c(x) + self.id(x)).mean((2, 3)))


@variant(IMAGE, narrower="a.weight", may_refuse=True, note="shortcut widened by zero channels")
class PaddedShortcut(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.a, self.b, self.fc = conv(3, 8), conv(8, 12), conv(12, 16), nn.Linear(16, 5)

    def forward(self, x):
        x = F.relu(self.stem(x))
        y = self.b(F.relu(self.a(x)))
        return self.fc(F.relu(y + F.pad(x, (0, 0, 0, 0, 4, 4))).mean((2, 3)))


# --- grouped, depthwise, shuffled -------------------------------------------------------------------------------------


@variant(IMAGE, narrower="a.weight dw.weight bn.running_mean pw.weight fc.weight")
class Depthwise(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.dw, self.bn = conv(3, 12), conv(12, 12, groups=12), nn.BatchNorm2d(12)
        self.pw, self.fc = conv(12, 16, 1), nn.Linear(16, 5)

    def forward(self, x):
        return self.fc(F.relu(self.pw(F.relu(self.bn(self.dw(F.relu(self.a(x))))))).mean((2, 3)))


@variant(IMAGE, narrower="a.weight dw.weight fc.weight", note="two filters for each channel")
class DepthwiseMultiplier(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.dw, self.fc = conv(3, 8), conv(8, 16, groups=8), nn.Linear(16, 5)

    def forward(self, x):
        return self.fc(F.relu(self.dw(F.relu(self.a(x)))).mean((2, 3)))


@variant(IMAGE, narrower="a.weight g.weight bn.weight b.weight")
class GroupedConv(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.g, self.bn, self.b = conv(3, 16), conv(16, 24, groups=4), nn.BatchNorm2d(24), conv(24, 5)

    def forward(self, x):
        return self.b(F.relu(self.bn(self.g(F.relu(self.a(x)))))).mean((2, 3))


@variant(IMAGE, narrower="a.weight up.weight b.weight")
class GroupedTransposed(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = conv(3, 16), conv(12, 3)
        self.up = nn.ConvTranspose2d(16, 12, 4, stride=2, padding=1, groups=4)

    def forward(self, x):
        return self.b(F.relu(self.up(F.relu(self.a(x)))))


def shuffle(x: Tensor, groups: int) -> Tensor:
    n, c, h, w = x.shape
    return x.view(n, groups, c // groups, h, w).transpose(1, 2).contiguous().view(n, c, h, w)


@variant(IMAGE, narrower="a.weight b.weight fc.weight")
class ChannelShuffle(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.fc = conv(3, 12), conv(12, 8), nn.Linear(8, 5)

    def forward(self, x):
        return self.fc(F.relu(self.b(shuffle(F.relu(self.a(x)), 3))).mean((2, 3)))


@variant(IMAGE, narrower="a.weight g.weight h.weight fc.weight")
class ChannelShuffleGrouped(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.g, self.h, self.fc = conv(3, 16), conv(16, 16, groups=2), conv(16, 16, 1, groups=2), nn.Linear(16, 5)

    def forward(self, x):
        x = shuffle(F.relu(self.g(F.relu(self.a(x)))), 2)
        return self.fc(F.relu(self.h(x)).mean((2, 3)))


@variant(IMAGE, narrower="a.0.weight left.0.weight right.0.0.weight right.1.0.weight right.2.0.weight fc.weight")
class ShufflenetUnit(nn.Module):
    def __init__(self):
        super().__init__()
        self.a = conv_bn(3, 16)
        self.left = conv_bn(8, 8, 1)
        self.right = nn.Sequential(conv_bn(8, 8, 1), conv_bn(8, 8, act=False, groups=8), conv_bn(8, 8, 1))
        self.fc = nn.Linear(16, 5)

    def forward(self, x):
        one, two = self.a(x).chunk(2, 1)
        return self.fc(shuffle(torch.cat([self.left(one), self.right(two)], 1), 2).mean((2, 3)))


@variant(IMAGE, narrower="a.weight b.weight c.weight")
class PixelShuffle(nn.Module):
    """Four neighbours of the wide map are one channel of the large one: they stay or go together."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = conv(3, 8), conv(8, 24), conv(6, 3)

    def forward(self, x):
        return self.c(F.relu(F.pixel_shuffle(self.b(F.relu(self.a(x))), 2)))


@variant(IMAGE, narrower="a.weight b.weight fc.weight")
class PixelUnshuffle(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.fc = conv(3, 6), conv(24, 10), nn.Linear(10, 5)

    def forward(self, x):
        return self.fc(F.relu(self.b(F.pixel_unshuffle(self.a(x), 2))).mean((2, 3)))


@variant(IMAGE, narrower="a.weight b.weight fc.weight")
class Glu(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.fc = conv(3, 16), conv(8, 20), nn.Linear(10, 5)

    def forward(self, x):
        return self.fc(F.glu(self.b(F.glu(self.a(x), 1)), 1).mean((2, 3)))


# --- normalisation ----------------------------------------------------------------------------------------------------


@variant(IMAGE, narrower="a.weight norm.weight b.weight fc.weight")
class GroupNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b, self.fc = conv(3, 16), nn.GroupNorm(4, 16), conv(16, 8), nn.Linear(8, 5)

    def forward(self, x):
        return self.fc(F.relu(self.b(F.relu(self.norm(self.a(x))))).mean((2, 3)))


@variant(IMAGE, narrower="a.weight b.weight norm.weight c.weight")
class GroupNormConcat(nn.Module):
    """The first group of the norm spans both halves of the concatenation."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.norm, self.c = conv(3, 8), conv(3, 16), nn.GroupNorm(2, 24), conv(24, 5)

    def forward(self, x):
        return self.c(F.relu(self.norm(torch.cat([self.a(x), self.b(x)], 1)))).mean((2, 3))


@variant(IMAGE, narrower="a.weight norm.weight b.weight", note="one group: LayerNorm over channels and pixels")
class GroupNormOne(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b = conv(3, 16), nn.GroupNorm(1, 16), conv(16, 5)

    def forward(self, x):
        return self.b(torch.sigmoid(self.norm(torch.sigmoid(self.a(x))))).mean((2, 3))


@variant(SEQUENCE, narrower="a.weight norm.weight norm.bias b.weight")
class LayerNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(16, 12), nn.LayerNorm(12), nn.Linear(12, 5)

    def forward(self, x):
        return self.b(F.gelu(self.norm(torch.sigmoid(self.a(x)))))


@variant(IMAGE, narrower="a.weight norm.weight b.weight", note="normalised over a permuted axis")
class LayerNormChannels(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b = conv(3, 12), nn.LayerNorm(12), conv(12, 5)

    def forward(self, x):
        return self.b(self.norm(self.a(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)).mean((2, 3))


@variant(SEQUENCE, narrower="a.weight norm.weight b.weight")
class RmsNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(16, 12), nn.RMSNorm(12, eps=1e-6), nn.Linear(12, 5)

    def forward(self, x):
        return self.b(F.silu(self.norm(self.a(x))))


class HandRms(nn.Module):
    """As the decoders of the field write it: out of pow, mean and rsqrt."""

    def __init__(self, width: int):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * self.scale


@variant(SEQUENCE, narrower="a.weight norm.scale b.weight")
class RmsNormByHand(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.norm, self.b = nn.Linear(16, 12), HandRms(12), nn.Linear(12, 5)

    def forward(self, x):
        return self.b(F.silu(self.norm(self.a(x))))


@variant(IMAGE, narrower="a.weight norm.weight norm.running_mean b.weight")
class InstanceNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = conv(3, 12), conv(12, 5)
        self.norm = nn.InstanceNorm2d(12, affine=True, track_running_stats=True)

    def forward(self, x):
        return self.b(F.relu(self.norm(self.a(x)))).mean((2, 3))


@variant(IMAGE, narrower="a.weight norm.weight act.weight b.weight", note="statistics of the instance")
class PreluPerChannel(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = conv(3, 12), conv(12, 5)
        self.norm, self.act = nn.InstanceNorm2d(12, affine=True), nn.PReLU(12)

    def forward(self, x):
        return self.b(self.act(self.norm(self.a(x)))).mean((2, 3))


@variant(IMAGE, narrower="a.weight gate.weight fc.weight", note="CBAM: mean and maximum over channels")
class ChannelStatistics(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.gate, self.fc = conv(3, 12), conv(12, 8), nn.Linear(8, 5)
        self.spatial = conv(2, 1)

    def forward(self, x):
        x = F.relu(self.gate(F.relu(self.a(x))))
        both = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        return self.fc((x * torch.sigmoid(self.spatial(both))).mean((2, 3)))


@variant(IMAGE, narrower="", may_refuse=True, note="a convolution along the channels: they cannot go")
class ChannelConvolution(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.mix, self.fc = conv(3, 12), nn.Conv1d(1, 1, 3, padding=1), nn.Linear(12, 5)

    def forward(self, x):
        x = F.relu(self.a(x))
        gate = torch.sigmoid(self.mix(x.mean((2, 3)).unsqueeze(1))).transpose(1, 2).unsqueeze(-1)
        return self.fc((x * gate).mean((2, 3)))


@variant(IMAGE, narrower="", may_refuse=True, note="a running sum along the channels")
class ChannelCumsum(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = conv(3, 12), conv(12, 5)

    def forward(self, x):
        return self.b(torch.cumsum(torch.sigmoid(self.a(x)), 1)).mean((2, 3))


# --- attention --------------------------------------------------------------------------------------------------------


def heads(x: Tensor, count: int) -> Tensor:
    n, t, c = x.shape
    return x.view(n, t, count, c // count).transpose(1, 2)


def together(x: Tensor) -> Tensor:
    n, h, t, d = x.shape
    return x.transpose(1, 2).reshape(n, t, h * d)


@variant(SEQUENCE, narrower="q.weight k.weight v.weight o.weight")
class AttentionSeparate(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(16, 16) for _ in range(4))

    def forward(self, x):
        q, k, v = heads(self.q(x), 4), heads(self.k(x), 4), heads(self.v(x), 4)
        return x + self.o(together((q @ k.transpose(-2, -1) / math.sqrt(4)).softmax(-1) @ v))


@variant(SEQUENCE, narrower="q.weight k.weight v.weight o.weight", note="scaled_dot_product_attention, causal")
class AttentionFused(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(16, 16) for _ in range(4))

    def forward(self, x):
        q, k, v = heads(self.q(x), 2), heads(self.k(x), 2), heads(self.v(x), 2)
        return self.o(together(F.scaled_dot_product_attention(q, k, v, is_causal=True)))


@variant(SEQUENCE, narrower="qkv.weight qkv.bias o.weight")
class AttentionPacked(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.o = nn.Linear(16, 48), nn.Linear(16, 16)

    def forward(self, x):
        q, k, v = (heads(part, 4) for part in self.qkv(x).chunk(3, -1))
        return x + self.o(together(F.scaled_dot_product_attention(q, k, v)))


@variant(SEQUENCE, narrower="qkv.weight qkv.bias o.weight", note="[N, T, 3, H, D] at once")
class AttentionPackedReshape(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.o, self.scale = nn.Linear(16, 48), nn.Linear(16, 16), 4**-0.5

    def forward(self, x):
        n, t, c = x.shape
        q, k, v = self.qkv(x).reshape(n, t, 3, 4, c // 4).permute(2, 0, 3, 1, 4).unbind(0)
        a = ((q * self.scale) @ k.transpose(-2, -1)).softmax(-1)
        return self.o((a @ v).transpose(1, 2).reshape(n, t, c))


@variant(SEQUENCE, randn(2, 7, 12), narrower="q.weight kv.weight o.weight", note="two inputs, keys from the other")
class CrossAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.kv, self.o = nn.Linear(16, 16), nn.Linear(12, 32), nn.Linear(16, 16)

    def forward(self, x, memory):
        k, v = self.kv(memory).split(16, -1)
        return self.o(together(F.scaled_dot_product_attention(heads(self.q(x), 2), heads(k, 2), heads(v, 2))))


@variant(SEQUENCE, narrower="inside.weight attention.in_proj_weight attention.in_proj_bias attention.out_proj.weight")
class MultiheadAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.inside, self.attention = nn.Linear(16, 16), nn.MultiheadAttention(16, 4, batch_first=True)
        self.fc = nn.Linear(16, 5)

    def forward(self, x):
        x = self.inside(x)
        return self.fc(self.attention(x, x, x, need_weights=False)[0])


class EncoderLayer(nn.Module):
    def __init__(self, norm_first: bool):
        super().__init__()
        self.inside = nn.Linear(16, 16)
        self.layer = nn.TransformerEncoderLayer(16, 4, 24, 0.0, batch_first=True, norm_first=norm_first)
        self.fc = nn.Linear(16, 5)

    def forward(self, x):
        return self.fc(self.layer(self.inside(x)))


_ENCODER = "layer.self_attn.in_proj_weight layer.self_attn.out_proj.weight layer.linear1.weight layer.linear2.weight"
register("encoder_layer_post", lambda: EncoderLayer(False), [SEQUENCE], _ENCODER)
register("encoder_layer_pre", lambda: EncoderLayer(True), [SEQUENCE], _ENCODER)


class VitBlock(nn.Module):
    def __init__(self, width: int, count: int, hidden: int):
        super().__init__()
        self.count = count
        self.n1, self.qkv, self.o = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.n2, self.up, self.down = nn.LayerNorm(width), nn.Linear(width, hidden), nn.Linear(hidden, width)

    def forward(self, x):
        n, t, c = x.shape
        q, k, v = self.qkv(self.n1(x)).reshape(n, t, 3, self.count, c // self.count).permute(2, 0, 3, 1, 4).unbind(0)
        x = x + self.o(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, t, c))
        return x + self.down(F.gelu(self.up(self.n2(x))))


class VisionTransformer(nn.Module):
    def __init__(self, size=8, patch=4, width=16, count=4, depth=2, hidden=24, classes=5):
        super().__init__()
        self.patch = nn.Conv2d(3, width, patch, patch)
        self.cls = nn.Parameter(torch.randn(1, 1, width) * 0.5)
        self.position = nn.Parameter(torch.randn(1, (size // patch) ** 2 + 1, width) * 0.5)
        self.blocks = nn.Sequential(*(VitBlock(width, count, hidden) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, classes)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1) + self.position
        return self.head(self.norm(self.blocks(x))[:, 0])


register(
    "vit",
    VisionTransformer,
    [IMAGE],
    "patch.weight cls position blocks.0.qkv.weight blocks.0.o.weight blocks.1.up.weight blocks.1.down.weight head.weight",
)


class GqaAttention(nn.Module):
    def __init__(self, width: int, queries: int, keys: int, size: int):
        super().__init__()
        self.queries, self.keys, self.size = queries, keys, size
        self.q, self.o = nn.Linear(width, queries * size, bias=False), nn.Linear(queries * size, width, bias=False)
        self.k, self.v = nn.Linear(width, keys * size, bias=False), nn.Linear(width, keys * size, bias=False)

    def rotate(self, x, cos, sin):
        half = self.size // 2
        return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin

    def forward(self, x, cos, sin):
        n, t, _ = x.shape
        q = self.q(x).view(n, t, self.queries, self.size).transpose(1, 2)
        k = self.k(x).view(n, t, self.keys, self.size).transpose(1, 2)
        v = self.v(x).view(n, t, self.keys, self.size).transpose(1, 2)
        q, k = self.rotate(q, cos[:t], sin[:t]), self.rotate(k, cos[:t], sin[:t])
        repeat = self.queries // self.keys
        k = k[:, :, None].expand(n, self.keys, repeat, t, self.size).reshape(n, self.queries, t, self.size)
        v = v[:, :, None].expand(n, self.keys, repeat, t, self.size).reshape(n, self.queries, t, self.size)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o(y.transpose(1, 2).reshape(n, t, self.queries * self.size))


class DecoderBlock(nn.Module):
    def __init__(self, width: int, queries: int, keys: int, size: int, hidden: int, norm=HandRms):
        super().__init__()
        self.n1, self.attention, self.n2 = norm(width), GqaAttention(width, queries, keys, size), norm(width)
        self.gate, self.up = nn.Linear(width, hidden, bias=False), nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)

    def forward(self, x, cos, sin):
        x = x + self.attention(self.n1(x), cos, sin)
        y = self.n2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


class Decoder(nn.Module):
    """Grouped queries, rotary positions, SwiGLU, RMSNorm: a decoder of today."""

    def __init__(self, queries=4, keys=2, size=4, depth=2, hidden=24, vocabulary=20, length=16, norm=HandRms):
        super().__init__()
        width = queries * size
        self.embed = nn.Embedding(vocabulary, width)
        self.blocks = nn.ModuleList(DecoderBlock(width, queries, keys, size, hidden, norm) for _ in range(depth))
        self.norm, self.head = norm(width), nn.Linear(width, vocabulary, bias=False)
        angle = torch.arange(length)[:, None] * 100.0 ** (-torch.arange(0, size, 2) / size)
        self.register_buffer("cos", torch.cat([angle, angle], -1).cos(), persistent=False)
        self.register_buffer("sin", torch.cat([angle, angle], -1).sin(), persistent=False)

    def forward(self, ids):
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x, self.cos, self.sin)
        return self.head(self.norm(x))


_DECODER = " ".join(f"blocks.0.{n}.weight" for n in "attention.q attention.k attention.v attention.o gate up down".split())
register("gqa_4q_2kv", Decoder, [tokens(2, 6)], _DECODER + " embed.weight head.weight norm.scale")
register(
    "gqa_8q_2kv",
    lambda: Decoder(8, 2, 4, norm=lambda width: nn.RMSNorm(width, eps=1e-6)),
    [tokens(2, 6)],
    _DECODER + " embed.weight head.weight norm.weight",
)


@variant(randn(2, 4, 16), narrower="qkv.weight o.weight", note="biases of attention looked up in a table of offsets")
class RelativeBias(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.o, self.table = nn.Linear(16, 48), nn.Linear(16, 16), nn.Parameter(torch.randn(7, 4))
        place = torch.arange(4)
        self.register_buffer("index", (place[:, None] - place[None, :] + 3).flatten())

    def forward(self, x):
        q, k, v = (heads(part, 4) for part in self.qkv(x).chunk(3, -1))
        bias = self.table[self.index].view(4, 4, -1).permute(2, 0, 1)
        return self.o(together((q @ k.transpose(-2, -1) * 0.5 + bias).softmax(-1) @ v))


@variant(tokens(2, 6), narrower="q.weight k.weight v.weight o.weight", note="enable_gqa of the fused operator")
class GqaFused(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.q, self.k, self.v = nn.Embedding(20, 16), nn.Linear(16, 16), nn.Linear(16, 8), nn.Linear(16, 8)
        self.o = nn.Linear(16, 16)

    def forward(self, ids):
        x = self.embed(ids)
        q, k, v = heads(self.q(x), 4), heads(self.k(x), 2), heads(self.v(x), 2)
        return self.o(together(F.scaled_dot_product_attention(q, k, v, enable_gqa=True)))


@variant(SEQUENCE, narrower="up.weight gate.weight down.weight")
class Swiglu(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate, self.up, self.down = nn.Linear(16, 24), nn.Linear(16, 24), nn.Linear(24, 16)

    def forward(self, x):
        return x + self.down(F.silu(self.gate(x)) * self.up(x))


# --- one parameter in more than one place, parameters without a module ------------------------------------------------


@variant(tokens(2, 6), narrower="embed.weight head.weight a.weight b.weight")
class TiedEmbedding(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.a, self.b = nn.Embedding(20, 12), nn.Linear(12, 16), nn.Linear(16, 12)
        self.head = nn.Linear(12, 20, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids):
        x = self.embed(ids)
        return self.head(x + self.b(F.relu(self.a(x))))


@variant(randn(3, 10), narrower="inside.weight a.weight b.weight fc.weight")
class SharedParameter(nn.Module):
    """One weight in two linear layers, each with its own bias."""

    def __init__(self):
        super().__init__()
        self.inside, self.a, self.b, self.fc = nn.Linear(10, 12), nn.Linear(12, 8), nn.Linear(12, 8), nn.Linear(8, 5)
        self.b.weight = self.a.weight

    def forward(self, x):
        x = torch.sigmoid(self.inside(x))
        return self.fc(torch.relu(self.a(x)) + torch.tanh(self.b(x * x)))


@variant(randn(3, 10), narrower="inside.weight twice.weight norm.weight fc.weight")
class ModuleTwice(nn.Module):
    def __init__(self):
        super().__init__()
        self.inside, self.twice, self.norm, self.fc = nn.Linear(10, 12), nn.Linear(12, 12), nn.LayerNorm(12), nn.Linear(12, 5)

    def forward(self, x):
        x = F.relu(self.inside(x))
        for _ in range(2):
            x = self.norm(F.relu(self.twice(x)))
        return self.fc(x)


@variant(IMAGE, randn(2, 3, 8, 8), narrower="tower.0.weight tower.2.weight fc.weight", note="one tower over two inputs")
class Siamese(nn.Module):
    def __init__(self):
        super().__init__()
        self.tower = nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 12), nn.ReLU())
        self.fc = nn.Linear(24, 5)

    def forward(self, x, y):
        x, y = self.tower(x).mean((2, 3)), self.tower(y).mean((2, 3))
        return self.fc(torch.cat([x * y, (x - y).abs()], 1))


@variant(IMAGE, narrower="kernel bias kernel2 fc.weight")
class FunctionalConv(nn.Module):
    def __init__(self):
        super().__init__()
        self.kernel, self.bias = nn.Parameter(torch.randn(10, 3, 3, 3) / 5), nn.Parameter(torch.randn(10))
        self.kernel2, self.fc = nn.Parameter(torch.randn(8, 10, 1, 1) / 3), nn.Linear(8, 5)

    def forward(self, x):
        x = F.relu(F.conv2d(x, self.kernel, self.bias, padding=1))
        return self.fc(F.conv2d(x, self.kernel2).mean((2, 3)))


@variant(randn(3, 10), narrower="w1 b1 w2")
class FunctionalLinear(nn.Module):
    def __init__(self):
        super().__init__()
        self.w1, self.b1 = nn.Parameter(torch.randn(12, 10) / 3), nn.Parameter(torch.randn(12))
        self.w2, self.b2 = nn.Parameter(torch.randn(5, 12) / 3), nn.Parameter(torch.randn(5))

    def forward(self, x):
        return F.linear(F.softplus(F.linear(x, self.w1, self.b1)), self.w2, self.b2)


@variant(randn(3, 10), narrower="w1 shift w2")
class MatmulParameter(nn.Module):
    def __init__(self):
        super().__init__()
        self.w1, self.shift = nn.Parameter(torch.randn(10, 12) / 3), nn.Parameter(torch.randn(12))
        self.w2 = nn.Parameter(torch.randn(12, 5) / 3)

    def forward(self, x):
        return F.elu(x @ self.w1 + self.shift) @ self.w2


@variant(IMAGE, narrower="a.weight scale shift b.weight", note="affine parameters of the module's own")
class OwnAffine(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b = conv(3, 12), conv(12, 5)
        self.scale, self.shift = nn.Parameter(torch.rand(12, 1, 1) + 0.5), nn.Parameter(torch.randn(1, 12, 1, 1))

    def forward(self, x):
        return self.b(F.relu(self.a(x) * self.scale + self.shift)).mean((2, 3))


@variant(randn(3, 10), narrower="0.parametrizations.weight.original0 0.parametrizations.weight.original1 0.bias 2.weight")
class WeightNorm(nn.Sequential):
    def __init__(self):
        norm = torch.nn.utils.parametrizations.weight_norm
        super().__init__(norm(nn.Linear(10, 12)), nn.ReLU(), nn.Linear(12, 5))


@variant(randn(3, 10), narrower="0.bias 0.parametrizations.weight.original 2.weight")
class SpectralNorm(nn.Sequential):
    def __init__(self):
        norm = torch.nn.utils.parametrizations.spectral_norm
        super().__init__(norm(nn.Linear(10, 12)), nn.ReLU(), nn.Linear(12, 5))


class _Positive(nn.Module):
    def forward(self, x):
        return F.softplus(x)


@variant(randn(3, 10), narrower="1.weight 3.weight", may_refuse=True, note="a parametrization of the user's own")
class OwnParametrization(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Linear(10, 12), nn.Linear(12, 12), nn.ReLU(), nn.Linear(12, 5))
        torch.nn.utils.parametrize.register_parametrization(self[0], "weight", _Positive())


# --- recurrent --------------------------------------------------------------------------------------------------------


class Recurrent(nn.Module):
    def __init__(self, kind: type, layers: int = 1, bidirectional: bool = False):
        super().__init__()
        self.rnn = kind(8, 12, layers, batch_first=True, bidirectional=bidirectional)
        self.fc = nn.Linear(12 * (1 + bidirectional), 5)

    def forward(self, x):
        return self.fc(self.rnn(x)[0])


_STEPS = randn(2, 6, 8)
_ONE = "rnn.weight_ih_l0 rnn.weight_hh_l0 rnn.bias_hh_l0 fc.weight"
_TWO = _ONE + " rnn.weight_ih_l1 rnn.weight_hh_l1"
register("gru", lambda: Recurrent(nn.GRU), [_STEPS], _ONE)
register("gru_two_layers", lambda: Recurrent(nn.GRU, 2), [_STEPS], _TWO)
register("lstm", lambda: Recurrent(nn.LSTM), [_STEPS], _ONE)
register("lstm_two_layers", lambda: Recurrent(nn.LSTM, 2), [_STEPS], _TWO)
register("gru_bidirectional", lambda: Recurrent(nn.GRU, 1, True), [_STEPS], "", True, "both directions")


@variant(randn(2, 3, 8, 8), narrower="a.0.weight b.weight rnn.weight_ih_l0 rnn.weight_hh_l0 fc.weight")
class GruHead(nn.Module):
    """Rows of a map are steps; a step's features are channels times height."""

    def __init__(self):
        super().__init__()
        self.a, self.b = conv_bn(3, 8), conv(8, 6)
        self.rnn, self.fc = nn.GRU(6 * 4, 10, batch_first=True), nn.Linear(10, 5)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.b(self.a(x))), 2)
        y, last = self.rnn(x.permute(0, 3, 1, 2).flatten(2))
        return self.fc(y[:, -1]) + self.fc(last[-1])


# --- whole blocks of known networks -----------------------------------------------------------------------------------


class Bottleneck(nn.Module):
    def __init__(self, cin: int, width: int, stride: int = 1):
        super().__init__()
        self.a, self.b, self.c = conv_bn(cin, width, 1), conv_bn(width, width, stride=stride), conv_bn(width, 4 * width, 1, False)
        self.skip = nn.Identity() if cin == 4 * width and stride == 1 else conv_bn(cin, 4 * width, 1, False, stride=stride)

    def forward(self, x):
        return F.relu(self.c(self.b(self.a(x))) + self.skip(x))


class ResNet(nn.Module):
    """Bottleneck ResNet, v1.5 (the stride in the 3x3)."""

    def __init__(self, blocks=(2, 2), width=4, classes=5, large_stem=False):
        super().__init__()
        self.stem = conv_bn(3, width, 7 if large_stem else 3, stride=2 if large_stem else 1)
        self.pool = nn.MaxPool2d(3, 2, 1) if large_stem else nn.Identity()
        layers, cin = [], width
        for stage, count in enumerate(blocks):
            for block in range(count):
                layers.append(Bottleneck(cin, width << stage, 2 if stage and block == 0 else 1))
                cin = 4 * (width << stage)
        self.blocks, self.fc = nn.Sequential(*layers), nn.Linear(cin, classes)

    def forward(self, x):
        return self.fc(F.adaptive_avg_pool2d(self.blocks(self.pool(self.stem(x))), 1).flatten(1))


register(
    "resnet_bottleneck",
    ResNet,
    [IMAGE],
    "stem.0.weight blocks.0.a.0.weight blocks.0.b.0.weight blocks.0.c.0.weight blocks.3.c.1.running_var fc.weight",
)


class InvertedResidual(nn.Module):
    def __init__(self, width: int, expand: int):
        super().__init__()
        self.up, self.dw = conv(width, expand, 1, bias=False), conv(expand, expand, groups=expand, bias=False)
        self.n1, self.n2, self.n3 = nn.BatchNorm2d(expand), nn.BatchNorm2d(expand), nn.BatchNorm2d(width)
        self.squeeze, self.excite = conv(expand, 4, 1), conv(4, expand, 1)
        self.down = conv(expand, width, 1, bias=False)

    def forward(self, x):
        y = F.relu6(self.n2(self.dw(F.hardswish(self.n1(self.up(x))))))
        y = y * F.hardsigmoid(self.excite(F.relu(self.squeeze(y.mean((2, 3), keepdim=True)))))
        return x + self.n3(self.down(y))


@variant(IMAGE, narrower="stem.0.weight a.up.weight a.dw.weight a.down.weight b.excite.weight b.n2.running_mean fc.weight")
class MobileNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.a, self.b, self.fc = conv_bn(3, 8), InvertedResidual(8, 16), InvertedResidual(8, 12), nn.Linear(8, 5)

    def forward(self, x):
        return self.fc(self.b(self.a(self.stem(x))).mean((2, 3)))


class ConvNextBlock(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.dw, self.norm = conv(width, width, 7, groups=width), nn.LayerNorm(width, eps=1e-6)
        self.up, self.down = nn.Linear(width, 3 * width), nn.Linear(3 * width, width)
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x):
        y = self.norm(self.dw(x).permute(0, 2, 3, 1))
        return x + (self.gamma * self.down(F.gelu(self.up(y)))).permute(0, 3, 1, 2)


@variant(IMAGE, narrower="stem.weight a.dw.weight a.norm.weight a.up.weight a.gamma b.down.weight norm.weight fc.weight")
class ConvNext(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.a, self.b = nn.Conv2d(3, 12, 2, 2), ConvNextBlock(12), ConvNextBlock(12)
        self.norm, self.fc = nn.LayerNorm(12), nn.Linear(12, 5)

    def forward(self, x):
        return self.fc(self.norm(self.b(self.a(self.stem(x))).mean((2, 3))))


@variant(IMAGE, narrower="a.weight up.weight gamma beta down.weight", note="ConvNeXt V2's response norm, by hand")
class GlobalResponseNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.up, self.down = conv(3, 8), nn.Linear(8, 16), nn.Linear(16, 5)
        self.gamma, self.beta = nn.Parameter(torch.ones(16)), nn.Parameter(torch.zeros(16))

    def forward(self, x):
        x = F.gelu(self.up(self.a(x).permute(0, 2, 3, 1)))
        g = x.square().sum((1, 2), keepdim=True).sqrt()
        x = self.gamma * (x * (g / (g.mean(-1, keepdim=True) + 1e-6))) + self.beta + x
        return self.down(x).mean((1, 2))


@variant(IMAGE, narrower="a.weight up.weight down.weight fc.weight", note="global pooling of a map in channels-last strides")
class ChannelsLastPool(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.up, self.down, self.fc = conv(3, 8), nn.Linear(8, 12), nn.Linear(12, 8), nn.Linear(8, 5)

    def forward(self, x):
        x = self.a(x)
        x = self.down(F.gelu(self.up(x.permute(0, 2, 3, 1)))).permute(0, 3, 1, 2) + x  # strides of the first
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


class MixerBlock(nn.Module):
    def __init__(self, length: int, width: int):
        super().__init__()
        self.n1, self.t1, self.t2 = nn.LayerNorm(width), nn.Linear(length, 12), nn.Linear(12, length)
        self.n2, self.c1, self.c2 = nn.LayerNorm(width), nn.Linear(width, 20), nn.Linear(20, width)

    def forward(self, x):
        x = x + self.t2(F.gelu(self.t1(self.n1(x).transpose(1, 2)))).transpose(1, 2)
        return x + self.c2(F.gelu(self.c1(self.n2(x))))


@variant(IMAGE, narrower="patch.weight a.t1.weight a.t2.weight a.c1.weight a.c2.weight b.n2.weight fc.weight")
class Mixer(nn.Module):
    def __init__(self):
        super().__init__()
        self.patch, self.a, self.b = nn.Conv2d(3, 12, 2, 2), MixerBlock(16, 12), MixerBlock(16, 12)
        self.norm, self.fc = nn.LayerNorm(12), nn.Linear(12, 5)

    def forward(self, x):
        x = self.patch(x).flatten(2).transpose(1, 2)
        return self.fc(self.norm(self.b(self.a(x))).mean(1))


@variant(IMAGE, narrower="p1.weight p2.weight l1.weight l2.weight smooth.weight", note="feature pyramid, two outputs")
class FeaturePyramid(nn.Module):
    def __init__(self):
        super().__init__()
        self.p1, self.p2 = conv(3, 8, stride=2), conv(8, 12, stride=2)
        self.l1, self.l2, self.smooth = conv(8, 10, 1), conv(12, 10, 1), conv(10, 10)
        self.box, self.score = conv(10, 4), conv(10, 2)

    def forward(self, x):
        one = F.relu(self.p1(x))
        two = self.l2(F.relu(self.p2(one)))
        one = self.smooth(self.l1(one) + F.interpolate(two, scale_factor=2.0, mode="nearest"))
        return self.box(F.relu(one)), self.score(F.relu(two))


@variant(IMAGE, narrower="a.weight b.weight classes.weight place.weight")
class TwoHeads(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.classes, self.place = conv(3, 8), conv(8, 12), nn.Linear(12, 5), nn.Linear(12, 2)

    def forward(self, x):
        x = F.relu(self.b(F.relu(self.a(x)))).mean((2, 3))
        return self.classes(x), torch.sigmoid(self.place(x))


@variant(IMAGE, randn(2, 6), narrower="a.weight b.weight fc.weight")
class TwoInputs(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.fc = conv(3, 8), nn.Linear(6, 10), nn.Linear(18, 5)

    def forward(self, image, table):
        return self.fc(torch.cat([F.relu(self.a(image)).mean((2, 3)), torch.tanh(self.b(table))], -1))


# --- what may be installed --------------------------------------------------------------------------------------------


def installed() -> list[Variant]:
    """Networks of torchvision and transformers from their own code, small, with random weights."""
    before, extra = len(ZOO), []
    try:
        try:
            from torchvision import models
        except ImportError:
            models = None
        if models is not None:
            big, small = randn(2, 3, 64, 64), randn(2, 3, 32, 32)
            for name, image, narrower in (
                ("resnet18", small, "conv1.weight layer1.0.conv1.weight layer2.0.downsample.0.weight fc.weight"),
                ("mobilenet_v3_small", small, "features.0.0.weight classifier.3.weight"),
                ("densenet121", small, "features.conv0.weight features.denseblock1.denselayer1.conv2.weight classifier.weight"),
                ("convnext_tiny", small, "features.0.0.weight features.1.0.block.3.weight classifier.2.weight"),
                ("shufflenet_v2_x0_5", small, "conv1.0.weight stage2.1.branch2.0.weight fc.weight"),
                ("regnet_y_400mf", small, "stem.0.weight fc.weight"),
                ("efficientnet_b0", small, "features.0.0.weight classifier.1.weight"),
                ("squeezenet1_1", big, "features.0.weight features.3.squeeze.weight"),
                ("googlenet", big, "conv1.conv.weight inception3a.branch1.conv.weight fc.weight"),
                ("swin_t", small, "features.1.0.mlp.0.weight"),
            ):
                more = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
                make = lambda name=name, more=more: getattr(models, name)(weights=None, num_classes=10, **more)
                register(f"torchvision.{name}", make, [image], narrower)

            def vgg():
                model = models.vgg11_bn(weights=None)  # its own classifier has 120 M parameters
                model.classifier = nn.Sequential(nn.Linear(512 * 49, 32), nn.ReLU(), nn.Linear(32, 10))
                return model

            register("torchvision.vgg11_bn", vgg, [small], "features.0.weight classifier.0.weight classifier.2.weight")
            register(
                "torchvision.vit",
                lambda: models.VisionTransformer(32, 8, 2, 4, 32, 48, num_classes=10),
                [small],
                "conv_proj.weight encoder.layers.encoder_layer_0.mlp.0.weight heads.head.weight",
            )
            register(
                "torchvision.deeplabv3_head",
                lambda: models.segmentation.deeplabv3.DeepLabHead(16, 5, (2, 3)),
                [randn(2, 16, 12, 12)],
                "0.convs.0.0.weight 4.weight",
            )
        try:
            import transformers
        except ImportError:
            transformers = None
        if transformers is not None:
            ids = tokens(2, 6)

            class Logits(nn.Module):
                """A tensor out instead of a dictionary."""

                def __init__(self, model):
                    super().__init__()
                    self.model = model

                def forward(self, ids):
                    out = self.model(ids, return_dict=False, use_cache=False)
                    return out[0]

            class Seq2Seq(Logits):
                def forward(self, ids, target):
                    return self.model(input_ids=ids, decoder_input_ids=target, return_dict=False, use_cache=False)[0]

            class Encoder(Logits):
                def forward(self, ids):
                    return self.model(ids, return_dict=False)[0]

            t = transformers
            tiny = {"vocab_size": 20, "attn_implementation": "sdpa"}
            bert = dict(hidden_size=16, num_hidden_layers=2, num_attention_heads=4, intermediate_size=24, max_position_embeddings=16, **tiny)
            register(
                "transformers.bert",
                lambda: Encoder(t.BertForSequenceClassification(t.BertConfig(**bert, num_labels=3))),
                [ids],
                "model.bert.encoder.layer.0.attention.self.value.weight model.bert.encoder.layer.0.intermediate.dense.weight",
            )
            register(
                "transformers.gpt2",
                lambda: Logits(t.GPT2LMHeadModel(t.GPT2Config(n_embd=16, n_layer=2, n_head=4, n_positions=16, **tiny))),
                [ids],
                "model.transformer.h.0.attn.c_attn.weight model.transformer.h.0.mlp.c_fc.weight",
            )
            llama = dict(hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=16, **tiny)
            narrower = "model.model.layers.0.self_attn.v_proj.weight model.model.layers.0.mlp.gate_proj.weight model.model.layers.0.self_attn.q_proj.weight"
            register(
                "transformers.llama",
                lambda: Logits(t.LlamaForCausalLM(t.LlamaConfig(num_key_value_heads=2, **llama))),
                [ids],
                narrower,
            )
            register(
                "transformers.qwen2",
                lambda: Logits(t.Qwen2ForCausalLM(t.Qwen2Config(num_key_value_heads=2, **llama))),
                [ids],
                narrower,
            )
            register(
                "transformers.t5",
                lambda: Seq2Seq(
                    t.T5ForConditionalGeneration(
                        t.T5Config(vocab_size=20, d_model=16, d_kv=4, d_ff=24, num_layers=2, num_heads=4, decoder_start_token_id=0)
                    )
                ),
                [ids, tokens(2, 5)],
                "model.encoder.block.0.layer.1.DenseReluDense.wi.weight model.encoder.block.0.layer.0.SelfAttention.v.weight",
            )
        extra = ZOO[before:]
    finally:
        del ZOO[before:]
    return extra


# --- what the benchmark times -----------------------------------------------------------------------------------------


def resnet50() -> nn.Module:
    """25.6 M parameters."""
    return ResNet((3, 4, 6, 3), 64, 1000, True)


def vit_base() -> nn.Module:
    """86 M parameters: 12 blocks of width 768, 16x16 patches of 224x224."""
    return VisionTransformer(224, 16, 768, 12, 12, 3072, 1000)


def decoder_base() -> nn.Module:
    """A decoder of 12 blocks, 12 query heads and 4 key heads of 64."""
    return Decoder(12, 4, 64, 12, 2048, 8000, 256)
