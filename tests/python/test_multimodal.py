"""M-SAM, Shapley values over modalities and the modulators, against formulas written out and against invariants."""

import copy
import itertools
import math
import pathlib
import pickle
import random
import re

import glyptic
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from glyptic.multimodal import (
    AGM,
    MSLR,
    OGMGE,
    PMR,
    JointTraining,
    LateFusion,
    MMPareto,
    ModalityAwareSAM,
    ModalityMask,
    mono_modal_logits,
    ogm_ge_coefficients,
    shapley_values,
)
from glyptic.sharpness import SAM
from torch import nn

F = nn.functional
CE = F.cross_entropy
SIZES = {"a": 6, "v": 4, "t": 3}
MODES = ("eval", "agm", "cached")


def network(names=("a", "v"), dropout=0.0, norm=False, seed=0, dtype=torch.float32, **options):
    torch.manual_seed(seed)

    def encoder(width):
        layers = [nn.Linear(width, 8), *([nn.BatchNorm1d(8)] if norm else []), nn.ReLU(), nn.Dropout(dropout)]
        return nn.Sequential(*layers, nn.Linear(8, 5))

    return LateFusion({n: encoder(SIZES[n]) for n in names}, dict.fromkeys(names, 5), 3, **options).to(dtype)


def batch(names=("a", "v"), n=16, seed=0, dtype=torch.float32):
    """The first modality tells the class better than the others."""
    g = torch.Generator().manual_seed(seed)
    y = torch.randint(0, 3, (n,), generator=g)
    x = {}
    for k, name in enumerate(names):
        x[name] = torch.randn(n, SIZES[name], generator=g)
        x[name][:, :3] += (2.0 - k) * F.one_hot(y, 3)
    return {k: v.to(dtype) for k, v in x.items()}, y


def make(names=("a", "v"), base=torch.optim.SGD, dropout=0.0, norm=False, seed=0, dtype=torch.float32, **options):
    model = network(names, dropout, norm, seed, dtype)
    options = {"lr": 0.1, "rho": 0.2, **({"momentum": 0.9} if base is torch.optim.SGD else {}), **options}
    return model, ModalityAwareSAM(model.parameters(), base, model=model, **options)


def weights(model):
    return [p.detach().clone() for p in model.parameters()]


def assert_same(a, b):
    for x, y in zip(a, b, strict=True):
        assert torch.equal(x, y)


def assert_near(a, b, tolerance):
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, rtol=tolerance, atol=tolerance)


# --------------------------------------------------------------------------------------------------------------- Shapley


@pytest.mark.parametrize("m", range(1, 7))
def test_exact_shapley_values_are_the_mean_over_all_orders(m):
    draw = random.Random(m)
    v = {s: draw.uniform(-1, 1) for k in range(1, m + 1) for s in itertools.combinations(range(m), k)}
    v[()] = 0.3
    asked = []

    def value(subset):
        asked.append(subset)
        return v[subset]

    found = shapley_values(value, m, empty_value=0.3)
    mean = [0.0] * m
    for order in itertools.permutations(range(m)):
        for k, i in enumerate(order):
            mean[i] += (v[tuple(sorted(order[: k + 1]))] - v[tuple(sorted(order[:k]))]) / math.factorial(m)
    assert found == pytest.approx(mean, abs=1e-12)
    assert sum(found) == pytest.approx(v[tuple(range(m))] - 0.3, abs=1e-12)
    assert sorted(asked) == sorted(s for s in v if s)  # each once, nobody never


def test_three_modalities_by_the_formula():
    v = {(0,): 0.5, (1,): 0.3, (2,): 0.1, (0, 1): 0.7, (0, 2): 0.6, (1, 2): 0.35, (0, 1, 2): 0.8}
    first = (v[0, 1, 2] - v[1, 2] + v[(0,)]) / 3 + (v[0, 1] - v[(1,)] + v[0, 2] - v[(2,)]) / 6
    assert shapley_values(v.__getitem__, 3)[0] == pytest.approx(first, abs=1e-15)


def test_sampled_above_six():
    share = [0.5, -1.0, 2.0, 0.0, 0.25, 3.0, 1.5, -0.5]
    asked = set()

    def value(subset):
        assert subset not in asked
        asked.add(subset)
        return sum(share[i] for i in subset) ** 3

    state = torch.get_rng_state()
    found = shapley_values(value, 8, shapley_samples=40)
    assert torch.equal(state, torch.get_rng_state())
    assert sum(found) == pytest.approx(sum(share) ** 3, abs=1e-9)  # holds for every single order
    assert len(asked) < 2**8 - 1
    additive = shapley_values(lambda s: sum(share[i] for i in s), 8, shapley_samples=2)
    assert additive == pytest.approx(share, abs=1e-12)
    asked.clear()
    assert found == shapley_values(value, 8, shapley_samples=40)
    asked.clear()
    assert found != shapley_values(value, 8, shapley_samples=40, seed=1)
    # with many orders the estimate comes near the exact values of all 40,320
    asked.clear()
    many = shapley_values(value, 8, shapley_samples=6000)
    cubes = [3 * sum(share) ** 2 * share[i] for i in range(8)]  # leading term: only its sign and size are compared
    assert max(range(8), key=lambda i: many[i]) == max(range(8), key=lambda i: cubes[i]) == 5


def test_antithetic_pairs_are_exact_where_only_pairs_interact():
    def value(s):
        return sum((i + 1) * (j + 2) for i, j in itertools.combinations(s, 2))

    exact = [sum((min(i, j) + 1) * (max(i, j) + 2) for j in range(7) if j != i) / 2 for i in range(7)]
    assert shapley_values(value, 7, shapley_samples=2) == pytest.approx(exact)


def test_mono_modal_logits_sum_to_the_logits():
    model, (x, _) = network(tuple(SIZES), norm=True).eval(), batch(tuple(SIZES))
    parts = mono_modal_logits(model, x)
    assert list(parts) == list(SIZES)
    torch.testing.assert_close(sum(parts.values()), model(x))
    # concatenated features and a linear head: a modality's share is its columns on (feature - masked feature), and of the
    # constant rest an equal part
    zero = {n: model.encode(n, torch.zeros_like(v)) for n, v in x.items()}
    rest = model.fuse(zero) / 3
    for k, n in enumerate(x):
        columns = model.head.weight[:, 5 * k : 5 * k + 5]
        torch.testing.assert_close(parts[n], (model.encode(n, x[n]) - zero[n]) @ columns.T + rest, rtol=1e-4, atol=1e-5)
    calls = []
    full = model(x)
    again = mono_modal_logits(lambda b: calls.append(b) or model(b), x, full=full)
    assert len(calls) == 2**3 - 2 and all(len(b.keep) < 3 for b in calls)
    torch.testing.assert_close(again["a"], parts["a"])


def test_mask():
    x = {"a": torch.ones(3, 2), "v": torch.full((3, 1, 2), 5.0)}
    masked = ModalityMask(x, ["a"], {"v": torch.tensor([[1.0, 2.0]])})
    assert masked["a"] is x["a"]
    assert masked["v"].tolist() == [[[1.0, 2.0]]] * 3
    assert ModalityMask(x, [], 0.5)["v"].unique().tolist() == [0.5]
    assert ModalityMask({"i": torch.ones(2, dtype=torch.long)}, [])["i"].dtype == torch.long
    with pytest.raises(glyptic.ArgumentError, match="'x'.*a, v"):
        ModalityMask(x, ["x"])


# ----------------------------------------------------------------------------------------------------------------- M-SAM


def test_least_squares_by_hand():
    """sharpness.md's four rows, rho 0.1; contributions .75 and .25 make nu .75."""
    x = torch.tensor([[1.0, 2.0], [0.0, 1.0], [3.0, -1.0], [1.0, 1.0]], dtype=torch.float64)
    y = torch.tensor([1.0, 0.0, 2.0, -1.0], dtype=torch.float64)
    w = nn.Parameter(torch.tensor([0.5, -0.25], dtype=torch.float64))
    of_subset = {(True, True): 1.0, (True, False): 0.75, (False, True): 0.25}

    def forward(inputs):
        present = tuple(bool(v.any()) for v in inputs.values())
        forward.value = of_subset[present]
        return inputs["a"] * w[0] + inputs["b"] * w[1]

    values = []

    def run(inputs):
        z = forward(inputs)
        values.append((z.detach(), forward.value))
        return z

    def value(logits, targets):
        return torch.full_like(targets, next(v for z, v in reversed(values) if torch.equal(z, logits)))

    optimizer = ModalityAwareSAM([w], torch.optim.SGD, rho=0.1, lr=1.0, value=value)
    before = w.detach().clone()
    stats = optimizer.step(run, {"a": x[:, 0], "b": x[:, 1]}, y, lambda z, t: (z - t).square() / 2)
    assert stats.nu == {"a": 0.75, "b": 0.25} and stats.dominant == "a"
    # the printed digits of the worked case
    assert (before - w).tolist() == pytest.approx([-0.2394069, -0.2967066], abs=5e-8)


def naive_step(model, optimizer, x, y, rho, value, allow_negative=False):
    """M-SAM as its equations stand, in plain torch."""
    params, names = list(model.parameters()), list(x)
    g = torch.autograd.grad(CE(model(x), y), params)
    model.eval()
    with torch.no_grad():

        def v(subset):
            z = model({n: t if i in subset else torch.zeros_like(t) for i, (n, t) in enumerate(x.items())})
            if value == "accuracy":
                return (z.argmax(1) == y).double().mean().item()
            if value == "true_prob":
                return z.softmax(1)[torch.arange(len(y)), y].double().mean().item()
            if value == "true_logit":
                return z[torch.arange(len(y)), y].double().mean().item()
            return math.log(3) - CE(z, y).item()

        phi = [0.0] * len(names)
        for order in itertools.permutations(range(len(names))):
            for k, i in enumerate(order):
                gain = v(order[: k + 1]) - (v(order[:k]) if k else 0.0)
                phi[i] += gain / math.factorial(len(names))
    model.train()
    kept = phi if allow_negative else [max(p, 0) for p in phi]
    nu = [p / sum(kept) for p in kept] if sum(kept) > 1e-12 else [1 / len(kept)] * len(kept)
    saved, statistics = weights(model), [b.clone() for b in model.buffers()]
    norm = torch.sqrt(sum(t.square().sum() for t in g))
    with torch.no_grad():
        for p, t in zip(params, g, strict=True):
            p += rho * t / norm
    gs = torch.autograd.grad(CE(model(x), y), params)
    with torch.no_grad():
        for p, w in zip(params, saved, strict=True):
            p.copy_(w)
        for b, s in zip(model.buffers(), statistics, strict=True):
            b.copy_(s)
    for p, s, t in zip(params, gs, g, strict=True):
        p.grad = max(nu) * s + (1 - max(nu)) * t
    optimizer.step()
    return phi, nu


@pytest.mark.parametrize("value", ["accuracy", "true_prob", "true_logit", "neg_loss_gain"])
@pytest.mark.parametrize("names", [("a", "v"), ("a", "v", "t")], ids=len)
@pytest.mark.parametrize("base", [torch.optim.SGD, torch.optim.AdamW, glyptic.optim.SGD])
def test_step_is_that_of_the_equations(value, names, base):
    negative = value == "true_logit"  # at first the logits of the truth are as often below 0: the literal formula
    model, optimizer = make(names, base, norm=True, dtype=torch.float64, value=value, allow_negative=negative)
    other = copy.deepcopy(model)
    plain = base(other.parameters(), lr=0.1, **({"momentum": 0.9} if base is torch.optim.SGD else {}))
    for step in range(4):
        x, y = batch(names, seed=step, dtype=torch.float64)
        stats = optimizer.step(model, x, y, CE)
        phi, nu = naive_step(other, plain, x, y, 0.2, value, negative)
        # Adam divides by the root of squares, which makes rounding larger where a gradient is tiny
        tolerance = 1e-9 if base is torch.optim.AdamW else 1e-12
        assert list(stats.phi.values()) == pytest.approx(phi, abs=tolerance)
        assert list(stats.nu.values()) == pytest.approx(nu, rel=1e-8)  # the sum of contributions may be small
        assert_near(weights(model), weights(other), tolerance)
        assert_near(list(model.buffers()), list(other.buffers()), tolerance)


@pytest.mark.parametrize("mode", MODES)
def test_one_modality_is_sam_bit_for_bit(mode):
    model, optimizer = make(("a",), dropout=0.3, norm=True, shapley_mode=mode)
    other = copy.deepcopy(model)
    sam = SAM(other.parameters(), torch.optim.SGD, model=other, rho=0.2, lr=0.1, momentum=0.9)
    for step in range(3):
        x, y = batch(("a",), seed=step)
        torch.manual_seed(step)
        stats = optimizer.step(model, x, y)
        after = torch.get_rng_state()
        torch.manual_seed(step)
        loss = sam.step(lambda x=x, y=y: CE(other(x), y))
        assert torch.equal(after, torch.get_rng_state())
        assert torch.equal(loss, stats.loss) and stats.nu == {"a": 1.0}
        assert_same(model.state_dict().values(), other.state_dict().values())


def test_all_of_the_value_in_one_modality_is_sam_bit_for_bit():
    model, optimizer = make(value=lambda z, y: (z - zero).abs().sum(1))
    with torch.no_grad():
        model.head.weight[:, 5:] = 0  # nothing of the second modality is seen
        model.head.bias.zero_()
        for p in model.encoders["a"].parameters():
            if p.dim() == 1:
                p.zero_()  # a masked first modality gives nothing
    zero = 0.0
    other = copy.deepcopy(model)
    sam = SAM(other.parameters(), torch.optim.SGD, rho=0.2, lr=0.1, momentum=0.9)
    x, y = batch()
    assert optimizer.step(model, x, y).nu == {"a": 1.0, "v": 0.0}
    sam.step(lambda: CE(other(x), y))
    assert_same(weights(model), weights(other))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("batch_subsets", [False, True])
def test_modes_agree_where_training_and_evaluation_do(mode, batch_subsets):
    """Without dropout and BatchNorm the three ways see the same logits."""
    names = ("a", "v", "t")
    one, first = make(names)
    two, second = make(names, shapley_mode=mode, batch_subsets=batch_subsets)
    for step in range(3):
        x, y = batch(names, seed=step)
        a, b = first.step(one, x, y), second.step(two, x, y)
        assert a.phi == b.phi
        assert_same(weights(one), weights(two))


class Early(nn.Module):
    """Modalities meet before the first layer: nothing to cache, no encoders."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(10, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))

    def forward(self, inputs):
        return self.net(torch.cat(list(inputs.values()), 1))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("decomposition", ["scalar", "mono_response"])
@pytest.mark.parametrize("known", [True, False], ids=["model", "found"])
def test_looks_leave_no_trace(mode, decomposition, known):
    """Statistics move by pass 1 alone, generators as far as in one forward pass, modes come back."""
    if mode == "cached" and decomposition == "mono_response":
        pytest.skip("refused")
    model = network(dropout=0.3, norm=True)
    if mode != "cached":
        model = Early()
    list(model.modules())[-1].eval()  # somebody froze a part of it
    modes = [m.training for m in model.modules()]
    optimizer = ModalityAwareSAM(
        model.parameters(),
        torch.optim.SGD,
        lr=0.1,
        model=model if known else None,
        shapley_mode=mode,
        decomposition=decomposition,
    )
    other = copy.deepcopy(model)
    x, y = batch()
    torch.manual_seed(7)
    before = [p.data_ptr() for p in model.parameters()]
    if known:
        optimizer.step(model, x, y)
    else:
        optimizer.step(lambda inputs: model(inputs), x, y)
    after = torch.get_rng_state()
    torch.manual_seed(7)
    other(x)
    assert torch.equal(after, torch.get_rng_state())
    assert_same(model.buffers(), other.buffers())
    assert [m.training for m in model.modules()] == modes
    assert [p.data_ptr() for p in model.parameters()] == before
    assert not any(torch.equal(a, b) for a, b in zip(model.parameters(), other.parameters(), strict=True) if a.dim() > 1)


@pytest.mark.parametrize("match_rng", [True, False])
def test_functional_dropout_in_masked_passes_consumes_nothing(match_rng):
    """A user's forward that draws in eval mode too: the second pass and the next step see what SAM's would."""
    model, optimizer = make(match_rng=match_rng)
    other = copy.deepcopy(model)
    sam = SAM(other.parameters(), torch.optim.SGD, model=other, rho=0.2, lr=0.1, match_rng=match_rng)
    x, y = batch()

    def noisy(net):
        return lambda inputs: net(inputs) + 0.1 * torch.randn(16, 3)

    torch.manual_seed(3)
    stats = optimizer.step(noisy(model), x, y)
    after = torch.get_rng_state()
    torch.manual_seed(3)
    loss = sam.step(lambda: CE(noisy(other)(x), y))
    assert torch.equal(loss, stats.loss) and torch.equal(after, torch.get_rng_state())


@pytest.mark.parametrize("mode", MODES)
def test_permuted_modalities_permute_the_shares(mode):
    names = ("a", "v", "t")
    one, first = make(names, shapley_mode=mode, value="true_prob")
    two, second = make(names, shapley_mode=mode, value="true_prob")
    for step in range(2):
        x, y = batch(names, seed=step)
        a = first.step(one, x, y)
        b = second.step(two, {n: x[n] for n in ("t", "a", "v")}, y)
        assert list(b.nu) == ["t", "a", "v"] and a.dominant == b.dominant
        for n in names:
            assert a.nu[n] == pytest.approx(b.nu[n], abs=1e-12)
        # the largest share, and with it the step, is rounded in another order
        assert_near(weights(one), weights(two), 1e-6)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("value", ["accuracy", "neg_loss_gain"])
def test_shares(seed, value):
    names = ("a", "v", "t")
    model, optimizer = make(names, seed=seed, value=value)
    for step in range(5):
        x, y = batch(names, seed=step + 100 * seed)
        model.eval()
        with torch.no_grad():
            z = model(x)
            whole = (z.argmax(1) == y).double().mean() if value == "accuracy" else math.log(3) - CE(z, y)
        model.train()
        stats = optimizer.step(model, x, y)
        assert sum(stats.nu.values()) == pytest.approx(1, abs=1e-6)
        assert 1 / 3 - 1e-12 <= stats.nu[stats.dominant] <= 1 and min(stats.nu.values()) >= 0
        assert sum(stats.phi.values()) == pytest.approx(float(whole), abs=1e-6)


def test_no_contribution_and_negative_ones():
    x, y = batch()
    model, optimizer = make(value=lambda z, t: torch.zeros(len(t)))
    stats = optimizer.step(model, x, y)
    assert stats.nu == {"a": 0.5, "v": 0.5} and stats.dominant == "a"  # a tie: the first

    def value_of(phi):
        v = {0: phi[0], 1: phi[1], 2: phi[0] + phi[1]}
        order = iter([0, 1, 2])
        return lambda z, t: torch.full((len(t),), v[next(order)], dtype=torch.float64)

    model, optimizer = make(value=value_of((1.5, -0.5)))
    assert optimizer.step(model, x, y).nu == {"a": 1.0, "v": 0.0}
    model, optimizer = make(value=value_of((1.5, -0.5)), allow_negative=True)
    assert optimizer.step(model, x, y).nu == {"a": 1.5, "v": -0.5}


def test_rho_zero_is_the_base_step():
    model, optimizer = make(rho=0.0)
    other = copy.deepcopy(model)
    plain = torch.optim.SGD(other.parameters(), lr=0.1, momentum=0.9)
    x, y = batch()
    optimizer.step(model, x, y)
    CE(other(x), y).backward()
    plain.step()
    assert_near(weights(model), weights(other), 1e-7)  # nu g + (1 - nu) g is g but for rounding


def test_clipping_acts_on_the_combined_gradient():
    model, optimizer = make(max_grad_norm=0.01, momentum=0.0, lr=1.0)
    before = weights(model)
    stats = optimizer.step(model, *batch())
    moved = math.sqrt(sum(float((a - b).double().square().sum()) for a, b in zip(before, weights(model), strict=True)))
    assert moved == pytest.approx(0.01, rel=1e-4)  # differences of weights of about 1 in float32
    assert float(stats.combined_norm) > 0.01


def test_shapley_interval_reuses_shares():
    calls = []
    model, optimizer = make(shapley_interval=3, value=lambda z, y: calls.append(1) or (z.argmax(1) == y))
    for step in range(7):
        stats = optimizer.step(model, *batch(seed=step))
        assert len(calls) == 3 * (step // 3 + 1)
    assert len(stats.phi) == 2


def test_steps_without_an_ascent_are_the_base_optimizers():
    model, optimizer = make(interval=2, start_step=1)
    other = copy.deepcopy(model)
    plain = torch.optim.SGD(other.parameters(), lr=0.1, momentum=0.9)
    stats = optimizer.step(model, *batch())
    CE(other(batch()[0]), batch()[1]).backward()
    plain.step()
    assert_same(weights(model), weights(other))
    assert not stats.ascended and stats.phi == {}
    assert [optimizer.step(model, *batch(seed=s)).ascended for s in (1, 2, 3)] == [True, False, True]


def test_passes_of_each_mode():
    counts = {}
    for mode in MODES:
        model, optimizer = make(("a", "v", "t"), shapley_mode=mode)
        encoded, forwards = [], []
        model.encoders["a"].register_forward_hook(lambda m, i, o, e=encoded: e.append(len(o)))
        model.register_forward_hook(lambda m, i, o, f=forwards: f.append(1))
        optimizer.step(model, *batch(("a", "v", "t")))
        counts[mode] = len(forwards), sum(encoded)
        assert "encode" not in model.__dict__
    assert counts == {"eval": (2 + 7, 9 * 16), "agm": (2 + 6, 8 * 16), "cached": (2, 2 * 16 + 1)}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("when", ["pass 1", "look", "pass 2"])
def test_exceptions(mode, when):
    model, optimizer = make(norm=True, shapley_mode=mode)
    optimizer.step(model, *batch())
    saved, state = copy.deepcopy(model.state_dict()), copy.deepcopy(optimizer.state_dict())
    training = [m.training for m in model.modules()]
    calls = {"fit": 0}

    class Broken(Exception):
        pass

    def loss_fn(z, y):
        calls["fit"] += 1
        if calls["fit"] == {"pass 1": 1, "pass 2": 2}.get(when):
            raise Broken
        return CE(z, y)

    def hook(module, _, output):
        if when == "look" and not module.training:
            raise Broken

    handles = [model.head.register_forward_hook(hook)]
    with pytest.raises(Broken):
        optimizer.step(model, *batch(seed=1), loss_fn)
    handles[0].remove()
    for (n, a), b in zip(model.state_dict().items(), saved.values(), strict=True):
        # pass 1 was a forward pass like any other: its statistics stay, weights do not move
        assert torch.equal(a, b) or "running" in n or "tracked" in n
    assert [m.training for m in model.modules()] == training
    assert optimizer.state_dict()["sharpness"]["sharpness.steps"].tolist() == [1, 0]
    assert_same([s["momentum_buffer"] for s in optimizer.state_dict()["state"].values()],
                [s["momentum_buffer"] for s in state["state"].values()])  # fmt: skip
    assert optimizer.step(model, *batch(seed=1)).ascended
    assert "encode" not in model.__dict__


def test_steps_that_are_not_finite_are_left_out():
    for value in ("accuracy", "neg_loss_gain"):
        model, optimizer = make(value=value)
        before = weights(model)
        x, y = batch()
        x["a"][0, 0] = math.inf
        stats = optimizer.step(model, x, y)
        assert stats.skipped and optimizer.skipped_steps == 1
        assert_same(before, weights(model))
        assert not optimizer.step(model, *batch()).skipped
    model, optimizer = make(value=lambda z, y: z[:, 0] * math.nan)
    before = weights(model)
    with pytest.raises(glyptic.DivergenceError, match="not finite"):
        optimizer.step(model, *batch())
    assert_same(before, weights(model))


def test_loss_scaler():
    one, first = make()
    two, second = make()
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    for step in range(3):
        first.step(one, *batch(seed=step))
        second.step(two, *batch(seed=step), scaler=scaler)
        scaler.update()
    assert_near(weights(one), weights(two), 1e-6)
    x, y = batch()
    x["v"][:] = math.inf
    before, scale = weights(two), scaler.get_scale()
    assert second.step(two, x, y, scaler=scaler).skipped
    scaler.update()
    assert_same(before, weights(two))
    assert scaler.get_scale() == scale / 2


def test_schedulers_and_groups():
    model, _ = make()
    groups = [{"params": model.encoders.parameters(), "lr": 0.2}, {"params": model.head.parameters(), "rho": 0.5}]
    optimizer = ModalityAwareSAM(groups, torch.optim.SGD, lr=0.1, rho=0.1)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, 0.5)
    for step in range(2):
        optimizer.step(model, *batch(seed=step))
        scheduler.step()
    assert [g["lr"] for g in optimizer.param_groups] == [0.05, 0.025]


@pytest.mark.parametrize("how", ["state", "pickle"])
def test_resume(how):
    options = {"shapley_interval": 3, "dropout": 0.2, "norm": True, "shapley_mode": "cached"}
    model, optimizer = make(**options)
    for step in range(4):
        optimizer.step(model, *batch(seed=step))
    if how == "state":
        other, again = make(seed=5, **options)
        other.load_state_dict(model.state_dict())
        again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    else:
        other, again = pickle.loads(pickle.dumps((model, optimizer)))
    for step in range(4, 8):
        for net, o in ((model, optimizer), (other, again)):
            torch.manual_seed(step)
            o.step(net, *batch(seed=step))
    assert_same(model.state_dict().values(), other.state_dict().values())
    assert optimizer.stats.phi == again.stats.phi


@pytest.mark.parametrize("attach", [True, False])
def test_masks_of_a_sparsifier(attach):
    model, optimizer = make(rho=0.5)
    s = glyptic.sparsity.RigL(model, optimizer, density=0.4, total_steps=20, update_every=3)
    if attach:
        s.attach()
    off_mask = []

    def forward(inputs):
        off_mask.append(max(float(model.get_parameter(n)[~m].detach().abs().max()) for n, m in s.masks().items()))
        return model(inputs)

    for step in range(8):
        x, y = batch(seed=step)
        if attach:
            stats = optimizer.step(forward, x, y)
            assert 0.5 <= stats.nu[stats.dominant] <= 1
        else:
            assert torch.isfinite(s.step(optimizer.closure(forward, x, y)))
    assert len(off_mask) > 8 * 2 and max(off_mask) == 0.0
    assert s.stats()["step"] == 8


def mono_by_hand(model, optimizer, x, y, rho):
    """L_m = CE(Phi_m, y), the masked passes in eval mode."""
    params, names = list(model.parameters()), list(x)
    assert len(names) == 2

    def responses():
        full = model(x)
        model.eval()
        one = model({names[0]: x[names[0]], names[1]: torch.zeros_like(x[names[1]])})
        two = model({names[0]: torch.zeros_like(x[names[0]]), names[1]: x[names[1]]})
        whole = model(x)
        model.train()
        return [(full - two + one) / 2, (full - one + two) / 2], [one, two, whole]

    parts, logits = responses()
    v = [z.softmax(1)[torch.arange(len(y)), y].mean().item() for z in logits]
    phi = [(v[2] - v[1] + v[0]) / 2, (v[2] - v[0] + v[1]) / 2]
    nu = [max(p, 0) / sum(max(q, 0) for q in phi) for p in phi]
    d = 0 if nu[0] >= nu[1] else 1
    g = torch.autograd.grad(nu[d] * CE(parts[d], y), params, retain_graph=True)
    rest = torch.autograd.grad(nu[1 - d] * CE(parts[1 - d], y), params)
    norm, saved = torch.sqrt(sum(t.square().sum() for t in g)), weights(model)
    with torch.no_grad():
        for p, t in zip(params, g, strict=True):
            p += rho * t / norm
    gs = torch.autograd.grad(nu[d] * CE(responses()[0][d], y), params)
    with torch.no_grad():
        for p, w in zip(params, saved, strict=True):
            p.copy_(w)
    for p, a, b in zip(params, gs, rest, strict=True):
        p.grad = a + b
    optimizer.step()
    return nu


def test_mono_responses_by_hand():
    model, optimizer = make(decomposition="mono_response", value="true_prob", dtype=torch.float64)
    other = copy.deepcopy(model)
    plain = torch.optim.SGD(other.parameters(), lr=0.1, momentum=0.9)
    seen = set()
    for step in range(4):
        x, y = batch(seed=step, dtype=torch.float64)
        with torch.no_grad():
            joint = CE(model(x), y)
        stats = optimizer.step(model, x, y)
        nu = mono_by_hand(other, plain, x, y, 0.2)
        assert list(stats.nu.values()) == pytest.approx(nu, abs=1e-12)
        assert torch.allclose(stats.loss, joint)
        assert_near(weights(model), weights(other), 1e-12)
        seen.add(stats.nu["a"])
    assert len(seen) == 4


@pytest.mark.parametrize("adaptive", ["none", "all"])
def test_dominant_scope(adaptive):
    """The ball of radius rho lies in the winner's encoder and the head; the loser's encoder stays."""
    model, optimizer = make(perturb_scope="dominant", adaptive=adaptive, rho=0.3, dtype=torch.float64)
    seen = []

    def forward(inputs):
        if model.training:
            seen.append({n: p.detach().clone() for n, p in model.named_parameters()})
        return model(inputs)

    for step in range(2):
        x, y = batch(seed=step, dtype=torch.float64)
        seen.clear()
        stats = optimizer.step(forward, x, y)
        first, second = seen
        moved = {n: second[n] - first[n] for n in first}
        loser = next(n for n in stats.nu if n != stats.dominant)
        assert all(not t.any() for n, t in moved.items() if n.startswith(f"encoders.{loser}."))
        if adaptive == "none":
            length = math.sqrt(sum(float(t.square().sum()) for t in moved.values()))
        else:  # ||T^-1 eps|| = rho
            length = math.sqrt(sum(float((moved[n] / first[n]).square().sum()) for n in moved))
        assert length == pytest.approx(0.3, rel=1e-9)
    assert optimizer._core.rho(0, 0.1) == 0.3  # as before


def test_bad_input():
    x, y = batch()
    for keywords, text in (
        ({"value": "f1"}, "value is 'f1'"),
        ({"shapley_mode": "train"}, "shapley_mode"),
        ({"shapley_interval": 0}, "shapley_interval is 0"),
        ({"shapley_samples": 1}, "shapley_samples"),
        ({"decomposition": "vector"}, "decomposition"),
        ({"perturb_scope": "head"}, "perturb_scope"),
        ({"rho": -1.0}, "rho"),
        ({"loss_weight_decay": 0.1}, "weight decay"),
        ({"decomposition": "mono_response", "shapley_mode": "cached"}, "cached"),
    ):
        with pytest.raises(glyptic.ConfigError, match=text):
            make(**keywords)
    with pytest.raises(glyptic.ArgumentError, match="at least one modality"):
        shapley_values(lambda s: 0.0, 0)
    with pytest.raises(glyptic.ArgumentError, match="shapley_samples"):
        shapley_values(lambda s: 0.0, 2, shapley_samples=1)

    def fails(text, inputs=x, targets=y, loss_fn=CE, **keywords):
        model, optimizer = make(**keywords)
        before = weights(model)
        with pytest.raises(glyptic.ArgumentError, match=text):
            optimizer.step(model, inputs, targets, loss_fn)
        assert_same(before, weights(model))

    fails("'v' has 3 samples.*16", {"a": x["a"], "v": x["v"][:3]})
    fails("at least one entry", {})
    fails("not a batch", {"a": x["a"], "v": 3})
    flat = lambda z, t: z.square().mean()
    fails("label is 3, expected 0 to 2", targets=torch.full_like(y, 3), loss_fn=flat)
    fails("label is -1", targets=torch.full_like(y, -1), loss_fn=flat)
    fails("one number per sample", value=lambda z, t: z)
    model, optimizer = make()
    optimizer.step(model, x, y)
    with pytest.raises(glyptic.ArgumentError, match="the batch has a, but training began with a, v"):
        optimizer.step(model, {"a": x["a"]}, y)
    with pytest.raises(glyptic.ArgumentError, match="closure"):
        optimizer._step(lambda: CE(model(x), y))
    with pytest.raises(glyptic.ArgumentError, match="needs .forward, inputs, targets"):
        optimizer.step()
    early = Early()
    optimizer = ModalityAwareSAM(early.parameters(), torch.optim.SGD, lr=0.1, shapley_mode="cached")
    with pytest.raises(glyptic.ArgumentError, match="declares neither"):
        optimizer.step(early, x, y)
    early.fuse = lambda f: f
    with pytest.raises(glyptic.ArgumentError, match="declares fuse.. alone"):
        optimizer.step(early, x, y)
    early.encode = lambda n, v: v
    with pytest.raises(glyptic.ArgumentError, match="did not call encode"):
        optimizer.step(early, x, y)
    optimizer = ModalityAwareSAM(early.parameters(), torch.optim.SGD, lr=0.1, perturb_scope="dominant", model=early)
    with pytest.raises(glyptic.ArgumentError, match="give encoders"):
        optimizer.step(early, x, y)
    optimizer = ModalityAwareSAM(early.parameters(), torch.optim.SGD, lr=0.1)
    CE(early(x), y).backward()
    before = weights(early)
    optimizer.first_step()
    with pytest.raises(glyptic.ArgumentError, match="no two halves"):
        optimizer.second_step()
    assert_same(before, weights(early))


RANKED = [(s, o, m) for o, m in ((False, "eval"), (True, "agm"), (False, "cached")) for s in (True, False)]


def one_rank(rank, port, path):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    results = {}
    for sync, local, mode in RANKED:
        model = network(dtype=torch.float64)
        ddp = nn.parallel.DistributedDataParallel(model)
        optimizer = ModalityAwareSAM(
            ddp.parameters(), torch.optim.SGD, model=ddp, rho=0.2, lr=0.1, momentum=0.9, shapley_mode=mode,
            sync_perturbation=sync, local_shapley=local,
        )  # fmt: skip
        for step in range(3):
            x, y = batch(seed=step, dtype=torch.float64)
            part = slice(8 * rank, 8 * rank + 8)
            stats = optimizer.step(ddp, {n: t[part] for n, t in x.items()}, y[part])
        results[sync, local, mode] = weights(model), stats.phi
    torch.save(results, path / f"{rank}.pt")
    dist.destroy_process_group()


def test_two_processes(tmp_path, unused_port):
    mp.spawn(one_rank, (unused_port, tmp_path), nprocs=2)
    a, b = (torch.load(tmp_path / f"{r}.pt") for r in range(2))
    model, optimizer = make(dtype=torch.float64)
    for step in range(3):
        stats = optimizer.step(model, *batch(seed=step, dtype=torch.float64))
    for key in RANKED:
        sync, local, _ = key
        assert_same(a[key][0], b[key][0])
        assert (a[key][1] == b[key][1]) != local
        if sync and not local:  # counts summed and gradients averaged: the whole batch in one process
            assert_near(weights(model), a[key][0], 1e-12)
            assert stats.phi == pytest.approx(a[key][1])


# ------------------------------------------------------------------------------------------------------------- baselines


def plain(model, **options):
    return torch.optim.SGD(model.parameters(), **{"lr": 0.1, **options})


def twins(cls, names=("a", "v"), dtype=torch.float64, model_options=None, **options):
    model = network(names, dtype=dtype, **(model_options or {}))
    other = copy.deepcopy(model)
    return cls(model, plain(model), **options), other


def step_by_hand(model, grads):
    with torch.no_grad():
        for p, g in zip(model.parameters(), grads, strict=True):
            p -= 0.1 * g


def test_joint_training_is_the_plain_loop():
    joint, other = twins(JointTraining)
    x, y = batch(dtype=torch.float64)
    stats = joint.step(joint.model, x, y)
    loss = CE(other(x), y)
    step_by_hand(other, torch.autograd.grad(loss, list(other.parameters())))
    assert torch.equal(stats.loss, loss.detach())
    assert_near(weights(joint.model), weights(other), 1e-15)


def test_ogm_ge_worked_case():
    k = ogm_ge_coefficients({"a": 6.0, "v": 3.0, "t": 3.0}, 0.5)
    assert list(k.values()) == pytest.approx([0.2384058, 1, 1], abs=5e-8)
    two = ogm_ge_coefficients({"a": 2.0, "v": 3.0}, 0.7)
    assert two == {"a": 1.0, "v": pytest.approx(1 - math.tanh(0.7 * 1.5))}
    assert ogm_ge_coefficients({"a": 1.0, "v": 0.0}, 0.7)["a"] == 0.0


@pytest.mark.parametrize("mode", ["ogm", "ge"])
@pytest.mark.parametrize("scope", ["all", "conv"])
def test_ogm_ge_by_hand(mode, scope):
    torch.manual_seed(0)
    encoders = {
        "a": nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 4)),
        "v": nn.Sequential(nn.Linear(4, 6), nn.ReLU()),
    }
    model = LateFusion(encoders, {"a": 4, "v": 6}, 3).double()
    other = copy.deepcopy(model)
    ogm = OGMGE(
        model, plain(model), alpha=0.4, mode=mode, scope=scope, generator=torch.Generator().manual_seed(1)
    )
    y = torch.arange(8) % 3
    x = {"a": torch.randn(8, 1, 4, 4).double() + 2 * y.view(-1, 1, 1, 1), "v": torch.randn(8, 4).double()}
    stats = ogm.step(model, x, y)
    noise = torch.Generator().manual_seed(1)
    features = {n: other.encode(n, t) for n, t in x.items()}
    w, b = other.head.weight, other.head.bias
    z = {"a": features["a"] @ w[:, :4].T + b / 2, "v": features["v"] @ w[:, 4:].T + b / 2}
    s = {n: sum(t.softmax(1)[i, y[i]].item() for i in range(8)) for n, t in z.items()}
    ratio = s["v"] / s["a"]
    k = {"a": 1.0, "v": 1 - math.tanh(0.4 * ratio)} if ratio > 1 else {"a": 1 - math.tanh(0.4 / ratio), "v": 1.0}
    assert stats.coefficients == pytest.approx(k) and stats.scores == pytest.approx(s, rel=1e-12)
    grads = torch.autograd.grad(CE(z["a"] + z["v"], y), list(other.parameters()))
    changed = []
    for (n, p), g in zip(other.named_parameters(), grads, strict=True):
        if n.startswith("encoders") and (scope == "all" or p.dim() == 4):
            more = torch.empty_like(g).normal_(generator=noise) * (g.std() + 1e-8) if mode == "ge" else 0.0
            g = k[n.split(".")[1]] * g + more
        changed.append(g)
    step_by_hand(other, changed)
    assert_near(weights(model), weights(other), 1e-12)


def test_ogm_ge_without_mono_logits_uses_shapley_logits():
    model = network(dtype=torch.float64)

    class Opaque(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoders, self.inner = model.encoders, model

        def forward(self, inputs):
            return self.inner(inputs)

    wrapped = Opaque()
    x, y = batch(dtype=torch.float64)
    parts = mono_modal_logits(model, x)
    scores = {n: z.softmax(1)[torch.arange(16), y].sum().item() for n, z in parts.items()}
    stats = OGMGE(wrapped, plain(wrapped), alpha=0.3, scope="all", mode="ogm").step(wrapped, x, y)
    assert stats.scores == pytest.approx(scores, rel=1e-12)
    with pytest.raises(glyptic.ArgumentError, match="scope='all'"):
        OGMGE(model, plain(model), alpha=0.3).step(model, x, y)


@pytest.mark.parametrize("names", [("a", "v"), ("a", "v", "t")], ids=len)
@pytest.mark.parametrize("cap", [None, 0.01])
def test_agm_by_hand(names, cap):
    agm, other = twins(AGM, names, alpha=1.5, cap=cap)
    means, m = dict.fromkeys(names, 0.0), len(names)
    for i in range(1, 5):
        x, y = batch(names, seed=i, dtype=torch.float64)
        stats = agm.step(agm.model, x, y)
        parts = mono_modal_logits(other, x)  # no BatchNorm, no dropout: one mode
        s = {n: -z.softmax(1)[torch.arange(16), y].log().mean().item() for n, z in parts.items()}
        soft = lambda v: {n: math.exp((sum(v.values()) / m - t) * m / (m - 1)) for n, t in v.items()}
        ratio, target = soft(s), soft(means)
        c = {n: math.exp(1.5 * min(target[n] - ratio[n], math.inf if cap is None else cap)) for n in names}
        means = {n: means[n] * (i - 1) / i + s[n] / i for n in names}
        assert stats.coefficients == pytest.approx(c, rel=1e-12)
        # the chain rule by hand: dL/dPhi_m is the same for all, each times its c
        logits = sum(parts.values())
        upstream = torch.autograd.grad(CE(logits, y), logits, retain_graph=True)[0]
        surrogate = sum((c[n] * upstream * z).sum() for n, z in parts.items())
        step_by_hand(other, torch.autograd.grad(surrogate, list(other.parameters())))
        assert_near(weights(agm.model), weights(other), 1e-12)
    again = AGM(other, plain(other), alpha=1.5, cap=cap)
    again.load_state_dict(copy.deepcopy(agm.state_dict()))
    other.load_state_dict(agm.model.state_dict())
    x, y = batch(names, seed=9, dtype=torch.float64)
    assert again.step(other, x, y).coefficients == agm.step(agm.model, x, y).coefficients


def test_mmpareto_by_hand():
    pareto, other = twins(MMPareto, model_options={"unimodal_heads": True})
    cases = set()
    for step in range(12):
        x, y = batch(seed=step, dtype=torch.float64)
        if step % 2:
            y = y[torch.randperm(16)]  # labels at odds with what was learnt: gradients that disagree
        other.load_state_dict(pareto.model.state_dict())
        stats = pareto.step(pareto.model, x, y)
        features = {n: other.encode(n, t) for n, t in x.items()}
        losses = {"mm": CE(other.fuse(features), y)}
        for n in x:
            losses[n] = CE(other.unimodal_heads[n](features[n]), y)
        params = dict(other.named_parameters())
        grads = {
            k: dict(zip(params, torch.autograd.grad(v, list(params.values()), retain_graph=True, allow_unused=True)))
            for k, v in losses.items()
        }
        total = {p: sum(g[p] for g in grads.values() if g[p] is not None) for p in params}
        new = []
        for name in params:
            if not name.startswith("encoders"):
                new.append(total[name])
                continue
            n = name.split(".")[1]
            mine = [p for p in params if p.startswith(f"encoders.{n}.")]
            big = torch.cat([grads["mm"][p].flatten() for p in mine])
            small = torch.cat([grads[n][p].flatten() for p in mine])
            if torch.cosine_similarity(big, small, 0) > 0:
                k = 0.5
            else:  # the shortest point of the segment, by trying
                ks = torch.linspace(0.001, 0.999, 200001, dtype=torch.float64)
                a, b, c = big @ big, big @ small, small @ small
                k = float(ks[(ks**2 * a + 2 * ks * (1 - ks) * b + (1 - ks) ** 2 * c).argmin()])
            cases.add(k == 0.5)
            assert stats.coefficients[n] == pytest.approx(k, abs=1e-5)
            k = stats.coefficients[n]
            g = 2 * k * grads["mm"][name] + 2 * (1 - k) * grads[n][name]
            if total[name].norm() > g.norm():
                g = g * (total[name].norm() / g.norm())
            new.append(1.5 * g)
        step_by_hand(other, new)
        assert_near(weights(pareto.model), weights(other), 1e-12)
    assert cases == {True, False}


def test_pmr_by_hand():
    pmr, other = twins(PMR, alpha=0.7, momentum=0.25)
    data = [batch(seed=s, dtype=torch.float64) for s in range(3)]
    x, y = data[0]
    assert pmr.step(pmr.model, x, y).coefficients == {}  # no prototypes yet
    protos = None
    for _ in range(2):
        pmr.update_prototypes(data, 3)
        labels = torch.cat([t for _, t in data])
        new = {}
        for n in x:
            f = torch.cat([pmr.model.encode(n, b[n]) for b, _ in data])
            new[n] = torch.stack([f[labels == c].mean(0) for c in range(3)]).detach()
        protos = new if protos is None else {n: 0.25 * protos[n] + 0.75 * new[n] for n in new}
        for n in x:
            torch.testing.assert_close(pmr.prototypes[n], protos[n], rtol=1e-12, atol=1e-12)
        other.load_state_dict(pmr.model.state_dict())
        stats = pmr.step(pmr.model, x, y)
        features = {n: other.encode(n, t) for n, t in x.items()}
        sim = {n: -(f[:, None] - protos[n][None]).norm(dim=2) for n, f in features.items()}
        s = {n: t.softmax(1)[torch.arange(16), y].sum().item() for n, t in sim.items()}
        weak = "v" if s["a"] / s["v"] > 1 else "a"
        assert stats.coefficients == {n: 0.7 if n == weak else 0.0 for n in x}
        loss = CE(other.fuse(features), y) + 0.7 * CE(sim[weak], y)
        step_by_hand(other, torch.autograd.grad(loss, list(other.parameters())))
        assert_near(weights(pmr.model), weights(other), 1e-12)
    again = PMR(other, plain(other), alpha=0.7, momentum=0.25)
    again.load_state_dict(pmr.state_dict())
    other.load_state_dict(pmr.model.state_dict())
    for p in (pmr, again):
        p.update_prototypes(data[:1], 3)
        p.step(p.model, x, y)
    assert_same(weights(pmr.model), weights(other))


def test_pmr_keeps_prototypes_of_classes_that_are_not_met():
    pmr, _ = twins(PMR, alpha=1.0)
    x, y = batch(dtype=torch.float64)
    pmr.update_prototypes([(x, y)], 3)
    old = pmr.prototypes["a"].clone()
    kept = y != 2
    pmr.update_prototypes([({n: 2 * t[kept] for n, t in x.items()}, y[kept])], 3)
    assert torch.equal(pmr.prototypes["a"][2], old[2]) and not torch.equal(pmr.prototypes["a"][0], old[0])
    with pytest.raises(glyptic.ArgumentError, match="no batch"):
        pmr.update_prototypes([], 3)


def test_mslr_by_hand():
    mslr, other = twins(MSLR, base={"a": 0.9, "v": 1.4})
    history = {"a": [0.2, 0.3, 0.5, 0.4, 0.6, 0.8], "v": [0.1, 0.1, 0.2, 0.2, 0.3, 0.2]}
    for epoch in range(7):
        x, y = batch(seed=epoch, dtype=torch.float64)
        c = {
            n: 1.0 if epoch < 5 else mslr.base[n] * h[epoch - 1] / (sum(h[epoch - 5 : epoch]) / 5)
            for n, h in history.items()
        }
        assert mslr.step(mslr.model, x, y).coefficients == pytest.approx(c)
        grads = []
        for n, g in zip(
            dict(other.named_parameters()), torch.autograd.grad(CE(other(x), y), list(other.parameters())), strict=True
        ):
            if n == "head.weight":
                g = torch.cat([g[:, :5] * c["a"], g[:, 5:] * c["v"]], 1)
            grads.append(g * c[n.split(".")[1]] if n.startswith("encoders") else g)
        step_by_hand(other, grads)
        assert_near(weights(mslr.model), weights(other), 1e-12)
        if epoch < 6:
            mslr.end_epoch({n: h[epoch] for n, h in history.items()})
    again = MSLR(other, plain(other), base={"a": 0.9, "v": 1.4})
    again.load_state_dict(copy.deepcopy(mslr.state_dict()))
    assert again.coefficient("a") == mslr.coefficient("a") != 1.0


def test_modulation_can_be_switched_off():
    x, y = batch(dtype=torch.float64)
    for cls, options in ((OGMGE, {"alpha": 0.5, "scope": "all"}), (AGM, {"alpha": 1.0})):
        one, other = twins(cls, **options)
        one.enabled = False
        assert one.step(one.model, x, y).coefficients == {}
        step_by_hand(other, torch.autograd.grad(CE(other(x), y), list(other.parameters())))
        assert_near(weights(one.model), weights(other), 1e-15)


def test_bad_input_of_modulators():
    model = network()
    for cls, options, error, text in (
        (OGMGE, {"alpha": -1.0}, glyptic.ConfigError, "alpha is -1"),
        (OGMGE, {"alpha": 1.0, "mode": "g"}, glyptic.ConfigError, "ge or ogm"),
        (AGM, {"alpha": math.nan}, glyptic.ConfigError, "alpha is nan"),
        (PMR, {"alpha": 1.0, "momentum": 1.0}, glyptic.ConfigError, "momentum"),
        (MMPareto, {"gamma": 0.0}, glyptic.ConfigError, "gamma"),
        (MSLR, {"base": {"a": 0.0}}, glyptic.ConfigError, "base"),
    ):
        with pytest.raises(error, match=text):
            cls(model, plain(model), **options)
    early = Early()
    with pytest.raises(glyptic.ArgumentError, match="declares encode"):
        PMR(early, plain(early), alpha=1.0)
    with pytest.raises(glyptic.ArgumentError, match="no unimodal heads"):
        MMPareto(model, plain(model)).step(model, *batch())
    with pytest.raises(glyptic.ArgumentError, match="sharpness-aware"):
        JointTraining(model, SAM(model.parameters(), torch.optim.SGD, lr=0.1))
    with pytest.raises(glyptic.ArgumentError, match="give encoders"):
        OGMGE(early, plain(early), alpha=1.0, scope="all").step(early, *batch())
    with pytest.raises(glyptic.ArgumentError, match="base has no 'v'"):
        MSLR(model, plain(model), base={"a": 1.0}).step(model, *batch())
    with pytest.raises(glyptic.ArgumentError, match="accuracy for 'a'"):
        MSLR(model, plain(model), base={"a": 1.0}).end_epoch({})
    with pytest.raises(glyptic.ArgumentError, match="same modalities"):
        LateFusion({"a": nn.Linear(1, 1)}, {"b": 1}, 2)


# ------------------------------------------------------------------------------------------------------------------ docs

PAGE = pathlib.Path(__file__).resolve().parents[2] / "docs" / "multimodal.md"


def test_snippets_of_the_page_run_in_order():
    given = {}
    snippets = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    assert len(snippets) >= 5
    for k, code in enumerate(snippets):
        exec(compile(code, f"multimodal.md, snippet {k + 1}", "exec"), given)
    assert 0 <= min(given["stats"].nu.values())
