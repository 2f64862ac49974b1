"""Every network of the zoo, pruned at three ratios and held against its masked self in float64.

The reference (masked_reference.py) knows nothing of the library's graph, groups or plans beyond the list of slices that
went. `GLYPTIC_FULL_TESTS=1` adds the networks of torchvision and transformers and the ONNX export of every network.
"""

from __future__ import annotations

import copy
import functools
import math
import os

import glyptic
import masked_reference
import pytest
import torch
import zoo
from masked_reference import difference, flatten

FULL = bool(os.environ.get("GLYPTIC_FULL_TESTS"))
RATIOS = (0.25, 0.5, 0.75)
# Of the largest output. The small network runs in float32 (24 bits: 6e-8 a rounding); the zoo's sums have at most a few
# hundred terms and some ten layers, which in practice keeps it below 2e-6. A channel in the wrong place, a statistic
# over one channel too many or a wrong scale is above 1e-3 in every network here.
TOLERANCE = 1e-5
# Together they have every kind of layer that ONNX has to express; the exporter takes seconds, so not all.
ONNX = {"sequential_conv", "unet", "split_literal", "channel_shuffle_grouped", "grouped_transposed", "vit", "gqa_4q_2kv", "gru"}

VARIANTS = zoo.ZOO + (zoo.installed() if FULL else [])


@functools.lru_cache(maxsize=1)
def prepared(variant):
    """One model's tests follow each other, so what its ratios share is made once."""
    model, inputs = variant.build().eval(), variant.inputs()
    return model, inputs, masked_reference.Reference(model, inputs)


def state(model):
    return dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers(remove_duplicate=False))


def bits(model):
    return {name: tensor.detach().clone() for name, tensor in state(model).items()}


def same_bits(one, two):
    return one.keys() == two.keys() and all(a.shape == two[n].shape and torch.equal(a, two[n]) for n, a in one.items())


def outputs_of(model, inputs):
    with torch.no_grad():
        return flatten(model.eval()(*inputs))


def sliced(tensor, dims):
    for dim, indices in enumerate(dims):
        if indices is not None:
            tensor = tensor.index_select(dim, torch.tensor(list(indices)))
    return tensor


def scaled_rows(got, want):
    """Some leading rows by one factor, the root of a ratio of head sizes (at most 16 here), the others as they are."""
    quotient = (got.double() / want.double()).flatten(1) if got.dim() > 1 else (got.double() / want.double())[:, None]
    factor = float(quotient[0, 0])
    roots = {math.sqrt(m / n) for n in range(2, 17) for m in range(1, n)}
    if min(abs(factor - root) for root in roots) > 1e-6:
        return False
    # The factor and the product are rounded to float32.
    scaled = ((quotient - factor).abs() < 1e-6).all(1)
    return bool((scaled | (quotient == 1).all(1)).all()) and int(scaled.long().diff().abs().sum()) <= 1


def planned(variant, ratio):
    """Plan and result, or None where the network may be, and is, refused. The model must not notice either."""
    model, inputs, _ = prepared(variant)
    before, modes = bits(model), [m.training for m in model.modules()]
    try:
        plan = glyptic.pruning.plan(model, inputs, ratio=ratio)
        result = glyptic.pruning.apply(model, plan, inputs)
    except glyptic.ArgumentError:
        assert same_bits(before, bits(model)), "a refused model was changed"
        if not variant.may_refuse:
            raise
        return None
    assert same_bits(before, bits(model)), "the model was changed"
    assert modes == [m.training for m in model.modules()], "a module is in another mode than before"
    assert all(p.grad is None for p in model.parameters())
    return plan, result


@pytest.mark.parametrize("ratio", RATIOS)
@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_the_small_network_is_the_masked_one(variant, ratio):
    model, inputs, reference = prepared(variant)
    found = planned(variant, ratio)
    if found is None:
        return
    plan, result = found
    assert result.kind in ("class", "graph")
    if result.kind == "class":
        assert type(result.model) is type(model)

    # Narrower where it must be, and nowhere empty.
    narrow = masked_reference.alive_masks(model, plan.kept)
    wide = [name for name in variant.narrower if name not in narrow]
    assert not wide, f"left as wide as before: {wide}"
    assert all(indices is None or len(indices) for dims in plan.kept.values() for indices in dims)
    if variant.narrower:
        before, after = (sum(p.numel() for p in m.parameters()) for m in (model, result.model))
        assert after < before

    # The same function as the original without those slices.
    small = outputs_of(result.model, inputs)
    assert difference(small, reference(plan.kept)) <= TOLERANCE

    # What stays is taken over bit for bit, into storage of its own. Queries may be scaled: the small attention divides
    # by the root of its own head size, and must weigh as the large one does.
    original = state(model)
    for name, tensor in state(result.model).items():
        if name in plan.kept:
            want = sliced(original[name], plan.kept[name])
            assert torch.equal(tensor, want) or scaled_rows(tensor, want), name
    assert not {t.data_ptr() for t in original.values()} & {t.data_ptr() for t in state(result.model).values() if t.numel()}


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_a_plan_is_text_and_a_saved_network_loads_into_the_original_class(variant, tmp_path):
    found = planned(variant, 0.5)
    if found is None:
        return
    plan, result = found
    model, inputs, _ = prepared(variant)
    assert "|" in str(plan) or "\n" in str(plan) or not plan.groups

    again = glyptic.pruning.Plan.from_json(plan.to_json())
    assert again.to_json() == plan.to_json()
    assert {n: [None if i is None else list(i) for i in d] for n, d in again.kept.items()} == {
        n: [None if i is None else list(i) for i in d] for n, d in plan.kept.items()
    }
    small = outputs_of(result.model, inputs)

    glyptic.pruning.save(result, tmp_path / "small")
    assert not [f for f in (tmp_path / "small").rglob("*") if f.suffix in (".pkl", ".pt", ".pth", ".bin")], "pickled"
    fresh = variant.build().eval()
    with torch.no_grad():
        for tensor in fresh.parameters():
            tensor.fill_(0.125)  # whatever is read from here and not from the folder shows
    loaded = glyptic.pruning.load(fresh, tmp_path / "small")
    for got, want in zip(outputs_of(loaded, inputs), small):
        assert torch.equal(got, want), "not the same bits after saving and loading"


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
def test_a_pruned_network_trains_and_exports(variant):
    found = planned(variant, 0.5)
    if found is None:
        return
    _, result = found
    _, inputs, _ = prepared(variant)
    eager = outputs_of(result.model, inputs)

    exported = torch.export.export(result.model.eval(), inputs, strict=False)
    with torch.no_grad():
        for got, want in zip(flatten(exported.module()(*inputs)), eager):
            # The same operators in the same order; a fused kernel may be taken on one side only.
            torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)

    small = copy.deepcopy(result.model).train()
    optimizer = torch.optim.SGD(small.parameters(), lr=1e-3)
    before = bits(small)

    def loss():
        return sum(out.square().mean() for out in flatten(small(*inputs)))

    first = loss()
    assert torch.isfinite(first)
    first.backward()
    missing = [n for n, p in small.named_parameters() if p.grad is None or not torch.isfinite(p.grad).all()]
    assert not missing, f"no gradient, or not a finite one: {missing}"
    optimizer.step()
    assert torch.isfinite(loss())
    after = bits(small)
    still = [n for n in before if n.endswith(("running_mean", "running_var")) and torch.equal(before[n], after[n])]
    assert not still, f"statistics that training does not update: {still}"


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v.narrower], ids=str)
def test_masked_is_the_original_with_zeros(variant):
    model, inputs, _ = prepared(variant)
    plan = glyptic.pruning.plan(model, inputs, ratio=0.5)
    masked = glyptic.pruning.masked(model, plan)
    alive = masked_reference.alive_masks(model, plan.kept)
    original, result = state(model), state(masked)
    assert original.keys() == result.keys()
    for name, tensor in original.items():
        want = tensor * alive[name] if name in alive else tensor
        assert torch.equal(result[name], want), name


@pytest.mark.parametrize("variant", [v for v in VARIANTS if FULL or v.name in ONNX], ids=str)
def test_onnx_runs_without_the_library(variant, tmp_path):
    pytest.importorskip("onnxscript", reason="the exporter of torch.onnx needs onnx and onnxscript")
    runtime = pytest.importorskip("onnxruntime", reason="runs the exported network")
    found = planned(variant, 0.5)
    if found is None:
        return
    _, inputs, _ = prepared(variant)
    small = found[1].model.eval()
    try:
        torch.onnx.export(prepared(variant)[0], inputs, dynamo=True, verbose=False)
    except Exception as error:  # the exporter's own limit: the original does not pass either
        pytest.skip(f"torch.onnx cannot export the original: {str(error)[:80]}")
    program = torch.onnx.export(small, inputs, dynamo=True, verbose=False)
    program.save(tmp_path / "small.onnx")
    session = runtime.InferenceSession(str(tmp_path / "small.onnx"), providers=["CPUExecutionProvider"])
    feed = {given.name: x.numpy() for given, x in zip(session.get_inputs(), inputs)}
    # Another implementation of every operator (and of erf and tanh) in float32.
    for got, want in zip(session.run(None, feed), outputs_of(small, inputs)):
        torch.testing.assert_close(torch.from_numpy(got), want, rtol=1e-4, atol=1e-4)


# --- the reference itself, against networks made small by hand --------------------------------------------------------


def test_reference_of_layer_norm_after_a_sigmoid_by_hand():
    a, norm, b = torch.nn.Linear(6, 8), torch.nn.LayerNorm(8), torch.nn.Linear(8, 3)
    model = zoo.randomise(torch.nn.Sequential(a, torch.nn.Sigmoid(), norm, b))
    x, keep = torch.randn(4, 6), [1, 2, 5]
    kept = {"0.weight": [keep, None], "0.bias": [keep], "2.weight": [keep], "2.bias": [keep], "3.weight": [None, keep]}
    with torch.no_grad():
        h = torch.sigmoid(torch.nn.functional.linear(x.double(), a.weight[keep].double(), a.bias[keep].double()))
        h = torch.nn.functional.layer_norm(h, [3], norm.weight[keep].double(), norm.bias[keep].double())
        want = torch.nn.functional.linear(h, b.weight[:, keep].double(), b.bias.double())
    (got,) = masked_reference.reference(model, kept, (x,))
    assert difference([got], [want]) < 1e-13  # float64, the same sums in another order


def test_reference_of_statistics_over_channels_by_hand():
    class Statistics(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.norm, self.b = torch.nn.Conv2d(2, 8, 1), torch.nn.GroupNorm(2, 8), torch.nn.Linear(8, 3)

        def forward(self, x):
            x = self.norm(torch.sigmoid(self.a(x)))
            x = x * x.softmax(1) + x.mean(1, keepdim=True) - x.amax(1, keepdim=True) + x.std(1, keepdim=True)
            return self.b(x.mean((2, 3)))

    model = zoo.randomise(Statistics())
    x, keep = torch.randn(2, 2, 3, 3), [0, 3, 5, 6]  # other places in the second group than in the first
    kept = {"a.weight": [keep, None, None, None], "a.bias": [keep], "norm.weight": [keep], "norm.bias": [keep]}
    kept["b.weight"] = [None, keep]
    small = Statistics().double()
    small.norm.num_groups = 2
    with torch.no_grad():
        for name, parameter in small.named_parameters():
            parameter.data = sliced(dict(model.named_parameters())[name], kept.get(name, [])).double()
        small.norm.num_channels = 4
        want = small(x.double())
    (got,) = masked_reference.reference(model, kept, (x,))
    assert difference([got], [want]) < 1e-13


@pytest.mark.parametrize("name", ["attention_packed", "channel_shuffle", "group_norm_concat", "gru", "two_flattened"])
def test_a_network_with_two_channels_swapped_is_told_apart(name):
    variant = next(v for v in zoo.ZOO if v.name == name)
    model, inputs, reference = prepared(variant)
    result = glyptic.pruning.apply(model, plan := glyptic.pruning.plan(model, inputs, ratio=0.5), inputs)
    wrong = copy.deepcopy(result.model)
    last = [p for _, p in wrong.named_parameters() if p.dim() >= 2][-1]
    with torch.no_grad():
        last[:, [0, 1]] = last[:, [1, 0]].clone()
    assert difference(outputs_of(wrong, inputs), reference(plan.kept)) > 100 * TOLERANCE


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_a_forward_that_looks_at_numbers_is_refused_and_stays():
    """Which layers read `h` depends on the data: one run does not show the other branch."""

    class Branch(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b, self.c = torch.nn.Linear(4, 8), torch.nn.Linear(8, 3), torch.nn.Linear(8, 3)

        def forward(self, x):
            h = torch.relu(self.a(x))
            return self.b(h) if bool(h.sum() > 1.0) else self.c(h)

    model = Branch()
    before = bits(model)
    with pytest.raises(glyptic.ArgumentError):
        glyptic.pruning.prune(model, torch.randn(2, 4))
    assert same_bits(before, bits(model))


def test_an_ignored_layer_is_left_alone():
    variant = next(v for v in zoo.ZOO if v.name == "dense_concat")
    model, inputs, reference = prepared(variant)
    plan = glyptic.pruning.plan(model, inputs, ratio=0.5, ignore=["b"])
    small = glyptic.pruning.apply(model, plan, inputs).model
    assert torch.equal(state(small)["b.weight"], model.b.weight)
    assert state(small)["d.weight"].shape[0] < model.d.weight.shape[0]
    assert difference(outputs_of(small, inputs), reference(plan.kept)) <= TOLERANCE


def test_kept_names_every_dimension():
    variant = next(v for v in zoo.ZOO if v.name == "sequential_conv")
    model, inputs, _ = prepared(variant)
    plan = glyptic.pruning.plan(model, inputs, ratio=0.5)
    assert all(len(dims) == state(model)[name].dim() for name, dims in plan.kept.items())
