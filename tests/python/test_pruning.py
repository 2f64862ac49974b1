"""The pruning interface on small modules: what a plan says, what it refuses, and what stays untouched."""

from __future__ import annotations

import copy
import json

import glyptic
import pytest
import torch
import torch.nn.functional as F
from torch import nn


def convnet() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 12, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12 * 16, 5)
    )


X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(1))


class Attention(nn.Module):
    """Sizes as attributes, the scale of attention left to its default."""

    def __init__(self, heads: int = 4, size: int = 6, width: int = 16) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.heads, self.size = heads, size
        self.qkv = nn.Linear(width, 3 * heads * size)
        self.out = nn.Linear(heads * size, width)
        self.head = nn.Linear(width, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, n, _ = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, self.size).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, self.heads * self.size)
        return self.head(self.out(y)).mean(1)


class Literal(nn.Module):
    """A size in the code itself, and layers that behave otherwise in train mode."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Dropout(0.5))
        self.head = nn.Linear(12, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(F.dropout(self.body(x).view(-1, 12), 0.25, self.training))


def untouched(model: nn.Module, before: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(t, before[n]) for n, t in model.state_dict().items())


def snapshot(model: nn.Module) -> dict[str, torch.Tensor]:
    return {n: t.clone() for n, t in model.state_dict().items()}


def test_plan_is_data_and_changes_nothing() -> None:
    model = convnet()
    before, modes = snapshot(model), [m.training for m in model.modules()]
    plan = glyptic.pruning.plan(model, X, ratio=0.5)
    assert untouched(model, before) and modes == [m.training for m in model.modules()]
    assert all(not m._forward_hooks and not m._forward_pre_hooks for m in model.modules())
    assert [(g.name, g.size, len(g.kept)) for g in plan.groups] == [("0.weight", 8, 4), ("3.weight", 12, 6)]
    assert "4 / 8" in str(plan) and "3.weight[1]" in str(plan)
    again = glyptic.pruning.Plan.from_json(plan.to_json())
    assert again.kept == plan.kept
    small, other = (glyptic.pruning.apply(model, p, X) for p in (plan, again))
    assert small.kind == "class" and type(small.model) is nn.Sequential
    assert all(torch.equal(a, b) for a, b in zip(small.model.state_dict().values(), other.model.state_dict().values()))
    assert small.model[3].in_channels == 4 and small.model[6].in_features == 6 * 16 and small.model[1].num_features == 4
    assert untouched(model, before)


def test_it_equals_the_masked_model() -> None:
    model = convnet().double()
    with torch.no_grad():
        model[1].running_mean.normal_()
        model[1].running_var.uniform_(0.5, 2)
    x = X.double()
    plan = glyptic.pruning.plan(model, x, ratio=0.4)
    small = glyptic.pruning.apply(model, plan, x).model
    fresh = torch.randn(3, 3, 8, 8, dtype=torch.float64)
    twin = glyptic.pruning.masked(model, plan)
    # float64 sums in another order: a few units of 1e-16 on values near 1.
    assert (twin.eval()(fresh) - small.eval()(fresh)).abs().max() < 1e-12
    assert (model.eval()(fresh) - small(fresh)).abs().max() > 1e-3


def test_by_hand_and_step_by_step() -> None:
    model = convnet()
    plan = glyptic.pruning.plan(model, X, ratio=0)
    assert all(len(g.kept) == g.size for g in plan.groups)
    plan = plan.remove("0.weight", [1, 5]).keep("3.weight", [0, 2, 4])
    small = glyptic.pruning.apply(model, plan, X).model
    assert torch.equal(small[0].weight, model[0].weight[[0, 2, 3, 4, 6, 7]])
    assert small[3].weight.shape == (3, 6, 3, 3)
    # Again, on the result.
    smaller = glyptic.pruning.prune(small, X, ratio=0.5).model
    assert smaller[0].out_channels == 3
    with pytest.raises(glyptic.ArgumentError, match="no group is called '0.bias'"):
        plan.remove("0.bias", [0])
    with pytest.raises(glyptic.ArgumentError, match="units 0 to 7, not 8"):
        plan.remove("0.weight", [8])
    with pytest.raises(glyptic.ArgumentError, match="would lose all"):
        plan.keep("0.weight", [])


def test_importances_and_scopes() -> None:
    model = convnet()
    kept = {}
    for importance in ("l1", "l2", "bn_scale", "umm", "lamp", "random"):
        for scope in ("local", "global", "isomorphic"):
            result = glyptic.pruning.prune(model, X, 0.5, importance=importance, scope=scope, seed=3)
            kept[importance, scope] = [tuple(g.kept) for g in result.plan.groups]
            assert sum(len(k) for k in kept[importance, scope]) <= 11  # half of 20, and one more by rounding down twice
    assert kept["random", "local"] != kept["l2", "local"]
    with pytest.raises(glyptic.ArgumentError, match="has no gradient"):
        glyptic.pruning.plan(model, X, importance="taylor")
    F.cross_entropy(model(X), torch.tensor([0, 1])).backward()
    plan = glyptic.pruning.plan(model, X, importance="taylor")
    rows = (model[0].weight * model[0].weight.grad).abs().flatten(1).sum(1)
    columns = (model[3].weight * model[3].weight.grad).abs().sum((0, 2, 3))
    vectors = [(v * v.grad).abs() for v in (model[0].bias, model[1].weight, model[1].bias)]
    score = (rows + columns + sum(vectors)) / 5
    assert plan.groups[0].kept == sorted(score.topk(4).indices.tolist())


def test_ratios_and_ignored_parts() -> None:
    model = convnet()
    plan = glyptic.pruning.plan(model, X, 0.5, ratios={"3": 0.75}, ignore=["0"], round_to=2)
    assert [len(g.kept) for g in plan.groups] == [8, 4]
    assert plan.groups[0].note == "ignored"
    with pytest.raises(glyptic.ArgumentError, match="no group has a tensor called '7'"):
        glyptic.pruning.plan(model, X, 0.5, ratios={"7": 0.5})
    for bad, message in (({"ratio": 1.0}, "ratio is 1"), ({"importance": "l3"}, "did you mean 'l1'|expected l1"), ({"scope": "locl"}, "local")):
        with pytest.raises(glyptic.ArgumentError, match=message):
            glyptic.pruning.plan(model, X, **bad)


@pytest.mark.parametrize("factor", ["inner", "outer"])
def test_attention_keeps_its_class_and_scale(factor: str) -> None:
    model, x = Attention(), torch.randn(2, 5, 16)
    plan = glyptic.pruning.plan(model, x, 0.5, factor=factor)
    result = glyptic.pruning.apply(model, plan, x)
    assert result.kind == "class" and isinstance(result.model, Attention)
    assert (result.model.heads, result.model.size) == ((4, 3) if factor == "inner" else (2, 6))
    assert type(result.model.heads) is int and type(model.heads) is int and (model.heads, model.size) == (4, 6)
    assert result.max_difference < 1e-5


def test_sizes_in_the_code_give_a_graph_that_follows_the_mode() -> None:
    model, x = Literal(), torch.randn(4, 6)
    result = glyptic.pruning.prune(model, x, 0.5)
    assert result.kind == "graph" and "forward fails" in result.why
    small = result.model
    assert isinstance(small, torch.fx.GraphModule) and small.training
    assert set(small.state_dict()) == set(model.state_dict())
    assert not torch.equal(small(x), small(x))  # dropout
    mean = small.body.get_submodule("1").running_mean.clone()
    small(x + 1)
    assert not torch.equal(mean, small.body.get_submodule("1").running_mean)
    small.eval()
    assert torch.equal(small(x), small(x))
    assert small(torch.randn(7, 6)).shape == (7, 3)  # the batch stays open
    loss = small.train()(x).square().mean()
    loss.backward()
    assert all(p.grad is not None for p in small.parameters())


@pytest.mark.parametrize("make", [convnet, Literal, Attention])
def test_files_without_code(make: type, tmp_path: object) -> None:
    x = {"convnet": X, "Literal": torch.randn(4, 6), "Attention": torch.randn(2, 5, 16)}[make.__name__]
    result = glyptic.pruning.prune(make(), x, 0.5)
    folder = str(tmp_path) + "/a folder/ü"
    glyptic.pruning.save(result, folder)
    loaded = glyptic.pruning.load(make(), folder)
    assert torch.equal(loaded.eval()(x), result.model.eval()(x))
    with pytest.raises(glyptic.MissingFileError, match="plan.json"):
        glyptic.pruning.load(make(), str(tmp_path) + "/nowhere")
    other = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 3))
    with pytest.raises(glyptic.Error):
        glyptic.pruning.load(other, folder)
    path = f"{folder}/pruned.json"
    text = open(path).read()
    open(path, "w").write(text[: len(text) // 2])
    with pytest.raises(glyptic.DataError, match="damaged"):
        glyptic.pruning.load(make(), folder)


def test_a_refusal_leaves_the_model_as_it_was() -> None:
    class Breaks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(torch.relu(self.a(x))) * torch.rand(())  # another function at every call

    model, x = Breaks(), torch.randn(3, 4)
    before = snapshot(model)
    plan = glyptic.pruning.plan(model, x, 0.5)
    with pytest.raises(glyptic.Error, match="not handed out|apart"):
        glyptic.pruning.apply(model, plan, x)
    assert untouched(model, before)
    with pytest.raises(glyptic.ArgumentError, match="does not run on the example inputs"):
        glyptic.pruning.plan(convnet(), torch.randn(2, 4, 8, 8))
    with pytest.raises(glyptic.ArgumentError, match="holds no tensor"):
        glyptic.pruning.plan(convnet(), ())
    with pytest.raises(TypeError, match="expected a torch.nn.Module"):
        glyptic.pruning.plan(lambda x: x, X)  # type: ignore[arg-type]
    with pytest.raises(glyptic.ArgumentError, match="prune model.module"):
        glyptic.pruning.plan(nn.DataParallel(convnet()), X)
    with pytest.raises(glyptic.ArgumentError, match="another model"):
        glyptic.pruning.apply(Attention(), plan, torch.randn(2, 5, 16))


def test_operations_without_a_rule_hold_what_they_touch() -> None:
    class Spectrum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.c(torch.relu(self.b(torch.fft.fft(self.a(x)).real)))

    plan = glyptic.pruning.plan(Spectrum(), torch.randn(3, 4), 0.5)
    assert [g.name for g in plan.groups] == ["b.weight"]
    assert any("fft" in note for note in plan.notes)


def test_writing_into_a_view_is_not_guessed() -> None:
    class Views(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.a(x)
            x[:, :4] += 1.0
            return self.b(x)

    result = glyptic.pruning.prune(Views(), torch.randn(3, 4), 0.5)
    assert result.plan.groups == [] and result.max_difference == 0


def test_train_mode_keys_compiled_models_and_ties() -> None:
    model = convnet()
    compiled = torch.compile(model, backend="eager")
    plan = glyptic.pruning.plan(compiled, X, 0.5)
    assert plan.groups[0].name == "0.weight"
    assert type(glyptic.pruning.apply(compiled, plan, X).model) is nn.Sequential

    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.mid, self.head = nn.Embedding(10, 8), nn.Linear(8, 8), nn.Linear(8, 10, bias=False)
            self.head.weight = self.embed.weight

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.head(torch.relu(self.mid(self.embed(ids))))

    small = glyptic.pruning.prune(Tied(), torch.randint(0, 10, (2, 3)), 0.5).model
    assert small.head.weight is small.embed.weight and small.embed.embedding_dim == 4 and small.head.in_features == 4


def test_slices_follow_the_plan() -> None:
    model = convnet()
    plan = glyptic.pruning.plan(model, X, 0.5)
    momentum = torch.randn_like(model[3].weight)
    kept = plan.kept["3.weight"]
    assert torch.equal(plan.apply("3.weight", momentum), momentum[kept[0]][:, kept[1]])
    document = json.loads(plan.to_json())
    assert document["format"] == "glyptic pruning plan" and document["version"] == 1


def test_half_precision_and_copies() -> None:
    model = convnet().to(torch.bfloat16)
    result = glyptic.pruning.prune(model, X.to(torch.bfloat16), 0.5, check=False)
    assert result.model[0].weight.dtype == torch.bfloat16
    twin = copy.deepcopy(result.model)
    assert twin[0].weight is not result.model[0].weight


@pytest.mark.parametrize("name", glyptic.nn.model_names())
def test_our_own_networks(name: str, tmp_path: object) -> None:
    options = {"width": 0.25} if name not in ("mlp", "lenet300") else {}
    try:
        model = glyptic.nn.build(name, **options)
    except glyptic.Error:
        model = glyptic.nn.build(name)
    shape = model.graph.node_shapes()[0]
    if len(shape) == 3 and shape[1] > 64:
        pytest.skip("an ImageNet-sized input: the CIFAR form of the same network is here")
    x = torch.randn(2, *shape)
    result = glyptic.pruning.prune(model, x, 0.5)
    assert result.kind == "class" and result.max_difference < 1e-5
    assert result.model.graph.cost()["macs"] < 0.6 * model.graph.cost()["macs"]
    folder = str(tmp_path)
    result.model.save(folder)
    assert torch.equal(glyptic.nn.load(folder).eval()(x), result.model.eval()(x))


def test_what_one_example_could_hide() -> None:
    class Closed(nn.Module):
        """A branch behind a gate of zero, whose attention would have another scale if only its sizes changed."""

        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.a, self.qkv, self.o, self.head = nn.Linear(6, 16), nn.Linear(16, 48), nn.Linear(16, 16), nn.Linear(16, 3)
            self.gate = nn.Parameter(torch.zeros(16))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.a(x)
            b, n, _ = x.shape
            q, k, v = (t.view(b, n, 2, -1).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
            y = ((q @ k.transpose(-2, -1)) / q.shape[-1] ** 0.5).softmax(-1) @ v
            return self.head(x + self.gate * self.o(y.transpose(1, 2).reshape(b, n, -1)))

    for x in (torch.randn(2, 5, 6), torch.zeros(2, 5, 6)):
        model = Closed()
        result = glyptic.pruning.prune(model, x, 0.5)
        opened, twin = result.model, glyptic.pruning.masked(model, result.plan)
        with torch.no_grad():
            opened.gate.fill_(1.0)
            twin.gate.copy_(torch.ones(16))
        fresh = torch.randn(2, 5, 6)
        # The gate of what is gone stays zero in the twin: what it multiplies is zero there anyway.
        assert (opened.eval()(fresh) - twin.eval()(fresh)).abs().max() < 1e-5


def test_graphs_copy_pickle_and_refuse_other_sizes(tmp_path: object) -> None:
    model, x = Literal(), torch.randn(1, 6)  # a batch of one is not taken for a constant
    small = glyptic.pruning.prune(model, x, 0.5).model.eval()
    assert small(torch.randn(5, 6)).shape == (5, 3)
    y = torch.randn(4, 6)
    path = str(tmp_path) + "/small.pt"
    torch.save(small, path)
    for twin in (copy.deepcopy(small), torch.load(path, weights_only=False)):
        assert torch.equal(twin(y), small(y))
    with pytest.raises(AssertionError, match="Guard failed"):
        small(torch.randn(4, 7))


def test_a_forward_leaves_nothing_behind() -> None:
    class Caches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.calls, self.last = nn.Linear(4, 8), nn.Linear(8, 2), 5, None
            self.register_buffer("cache", torch.zeros(3, 4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.calls += 1
            self.last = x
            self.cache.copy_(x.detach())
            return self.b(torch.relu(self.a(x)))

    model = Caches()
    result = glyptic.pruning.prune(model, torch.randn(3, 4), 0.5)
    assert (model.calls, model.last) == (5, None) and not model.cache.any()
    assert (result.model.calls, result.model.last) == (5, None)


def test_outputs_that_number_or_hold_things() -> None:
    class Holder:
        def __init__(self, parts: list[torch.Tensor]) -> None:
            self.parts = parts

    class Model(nn.Module):
        def __init__(self, kind: str) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.a, self.b, self.kind = nn.Linear(4, 8), nn.Linear(8, 2), kind

        def forward(self, x: torch.Tensor) -> object:
            h = self.a(x)
            if self.kind == "indices":
                return self.b(h), h.max(-1).indices
            if self.kind == "holder":
                return Holder([h, self.b(h)])
            return torch.complex(self.b(h), h[:, :2])

    for kind in ("indices", "holder", "complex"):
        result = glyptic.pruning.prune(Model(kind), torch.randn(3, 4), 0.5)
        kept = [len(g.kept) for g in result.plan.groups if g.name == "a.weight"]
        assert result.max_difference < 1e-5 and kept in ([], [8], [3]), (kind, kept)


def test_option_values_are_checked() -> None:
    for bad in ({"ratio": "a"}, {"ignore": [0]}, {"seed": -1}, {"ratios": {"0": "q"}}, {"round_to": "x"}):
        with pytest.raises(glyptic.ArgumentError, match="cannot be"):
            glyptic.pruning.plan(convnet(), X, **bad)
    with pytest.raises(glyptic.ArgumentError, match="no module, tensor or group called 'nowhere'"):
        glyptic.pruning.plan(convnet(), X, ignore="nowhere")
    with pytest.raises(TypeError, match="expected what glyptic.pruning.plan gave"):
        glyptic.pruning.apply(convnet(), None, X)  # type: ignore[arg-type]
