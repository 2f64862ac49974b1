"""Networks and tracing."""

import copy
import pickle

import glyptic
import pytest
import torch
from glyptic._trace import trace
from torch import nn


@pytest.mark.parametrize("name", ["mlp", "lenet", "vgg_small", "resnet20", "wrn_22_2"])
def test_graph_module_is_a_module(name, tmp_path):
    model = glyptic.nn.build(name, width=0.25, seed=4) if name != "lenet" else glyptic.nn.build(name, seed=4)
    x = torch.randn(3, *model.graph.node_shapes()[0])
    model(x).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    model.eval()
    expected = model(x)
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(twin(x), expected)
    model.save(tmp_path)
    assert torch.equal(glyptic.nn.load(tmp_path).eval()(x), expected)
    moved = model.to(torch.float64)
    assert torch.allclose(moved(x.double()), expected.double(), atol=1e-4)


def test_same_seed_same_network():
    a, b, c = (glyptic.nn.build("resnet20", seed=s) for s in (1, 1, 2))
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    assert not torch.equal(next(a.parameters()), next(c.parameters()))


def test_batch_norm_moves_once_per_forward():
    model = glyptic.nn.build("vgg_small", width=0.125)
    model(torch.randn(4, 1, 28, 28))
    counts = [b for n, b in model.named_buffers() if n.endswith("num_batches_tracked")]
    assert counts and all(int(c) == 1 for c in counts)


def test_load_names_what_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="graph.json"):
        glyptic.nn.load(tmp_path)


def sequential():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 6, 3), nn.ReLU(),
        nn.Flatten(), nn.Linear(6 * 36, 10), nn.Tanh(), nn.Linear(10, 2),
    )  # fmt: skip


class Functional(nn.Module):
    def __init__(self):
        super().__init__()
        self.c1, self.c2, self.c3 = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1), nn.Conv2d(12, 5, 1)
        self.fc = nn.Linear(5, 2)

    def forward(self, x):
        a = nn.functional.relu(self.c1(x))
        b = torch.sigmoid(self.c2(a)) * a
        y = torch.cat([a, b], dim=1)
        y = nn.functional.avg_pool2d(self.c3(y), 2)
        return self.fc(nn.functional.adaptive_avg_pool2d(y, 1).view(x.size(0), -1))


class Mean(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 6, 3), nn.Linear(6, 2)

    def forward(self, x):
        return self.fc(self.conv(x).relu().mean((2, 3)))


@pytest.mark.parametrize("build", [sequential, Functional, Mean])
def test_the_traced_graph_computes_what_the_module_does(build):
    model = build().eval()
    with torch.no_grad():
        for m in model.modules():
            if isinstance(m, nn.BatchNorm2d):
                m.running_mean.normal_()
                m.running_var.uniform_(0.5, 2)
    x = torch.randn(2, 3, 16, 16)
    graph = trace(model, x)
    tensors = dict([*model.named_parameters(), *model.named_buffers()])
    ours = glyptic.nn.GraphModule(graph, [(n, tensors[n].detach().clone()) for n, _ in graph.tensor_shapes()]).eval()
    # The same ATen operations in the same order; view and flatten differ in name only.
    assert torch.equal(ours(x), model(x))


def test_input_side_is_found():
    graph = trace(sequential())
    assert graph.node_shapes()[0] == [3, 16, 16]  # the one at which 6 * 36 features come out


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.PixelShuffle(2)), "PixelShuffle"),
        (nn.Sequential(nn.Conv2d(3, 4, 3, padding="same")), "padding"),
        (nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(3)), "adaptive pooling"),
    ],
)
def test_refusals_name_the_module(model, text):
    before = {n: p.clone() for n, p in model.named_parameters()}
    with pytest.raises(ValueError, match=text):
        glyptic.sparsity.extract(model)
    assert all(torch.equal(before[n], p) for n, p in model.named_parameters())
