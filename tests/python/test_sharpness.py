"""Sharpness-aware optimizers on users' own modules, optimizers, scalers, schedulers and processes."""

import copy
import io
import pickle

import glyptic
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from glyptic.sharpness import ASAM, ESAM, GSAM, S2SAM, SAM, WSAM, ZOSAM, FriendlySAM, LookSAM, MomentumSAM
from torch import nn

F = nn.functional
ALL = [  # FairSAM's steps need the groups of the batch: test_fair_sam.py
    getattr(glyptic.sharpness, n)
    for n in glyptic.sharpness.__all__
    if isinstance(getattr(glyptic.sharpness, n), type) and n not in ("SharpnessOptimizer", "FairSAM")
]


def keywords(cls):
    return {"total_steps": 50} if cls.method == "aesam" else {}


class Net(nn.Module):
    """What users have: convolution, BatchNorm, dropout, a linear head."""

    def __init__(self, dropout=0.0):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.drop, self.head = nn.Dropout(dropout), nn.Linear(4 * 16, 3)

    def forward(self, x):
        return self.head(self.drop(F.relu(self.norm(self.conv(x)))).flatten(1))


def batch(seed=0, n=8):
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, 1, 4, 4, generator=g), torch.randint(0, 3, (n,), generator=g)


def make(cls=SAM, base=torch.optim.SGD, dropout=0.0, seed=0, with_model=True, **options):
    torch.manual_seed(seed)
    model = Net(dropout)
    options = {"lr": 0.1, **({"momentum": 0.9} if base in (torch.optim.SGD, glyptic.optim.SGD) else {}), **options}
    return model, cls(model.parameters(), base, model=model if with_model else None, **keywords(cls), **options)


def closure_of(model, x, y, reduction="none"):
    return lambda: F.cross_entropy(model(x), y, reduction=reduction)


def weights(model):
    return [p.detach().clone() for p in model.parameters()]


def assert_same(a, b):
    for x, y in zip(a, b, strict=True):
        assert torch.equal(x, y)


# ------------------------------------------------------------------------------------------------------- the plain loop


def by_hand(model, optimizer, x, y, rho):
    """SAM as its paper has it, in ten lines of torch."""
    params = list(model.parameters())
    loss = F.cross_entropy(model(x), y)
    grads = torch.autograd.grad(loss, params)
    statistics = [b.clone() for b in model.buffers()]
    norm = torch.sqrt(sum(g.double().square().sum() for g in grads))
    saved = weights(model)
    with torch.no_grad():
        for p, g in zip(params, grads, strict=True):
            p += (rho / (norm + 1e-12)).float() * g
    optimizer.zero_grad()
    F.cross_entropy(model(x), y).backward()
    with torch.no_grad():
        for p, w in zip(params, saved, strict=True):
            p.copy_(w)
        for b, s in zip(model.buffers(), statistics, strict=True):
            b.copy_(s)
    optimizer.step()
    return loss.detach()


@pytest.mark.parametrize("base", [torch.optim.SGD, torch.optim.AdamW, torch.optim.RMSprop, torch.optim.NAdam])
def test_sam_is_the_loop_of_its_paper(base):
    model, optimizer = make(SAM, base, rho=0.2)
    torch.manual_seed(0)
    other = Net()
    plain = base(other.parameters(), **{"lr": 0.1, **({"momentum": 0.9} if base is torch.optim.SGD else {})})
    for step in range(4):
        x, y = batch(step)
        loss = optimizer.step(closure_of(model, x, y, "mean"))
        expected = by_hand(other, plain, x, y, 0.2)
        assert torch.equal(loss, expected)
        for a, b in zip(weights(model), weights(other), strict=True):
            # the norm is summed in another order: a last bit of eps, which the steps carry along
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
        for a, b in zip(model.buffers(), other.buffers(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("cls", ALL, ids=lambda c: c.method)
@pytest.mark.parametrize("with_model", [True, False], ids=["model", "found"])
def test_statistics_and_storage(cls, with_model):
    model, optimizer = make(cls, with_model=with_model)
    pointers = [p.data_ptr() for p in model.parameters()]
    other = copy.deepcopy(model)
    x, y = batch()
    optimizer.step(closure_of(model, x, y))
    assert [p.data_ptr() for p in model.parameters()] == pointers
    if cls.method == "zosgd":  # takes no gradient at all, so nothing moves
        assert int(model.norm.num_batches_tracked) == 0
        return
    assert int(model.norm.num_batches_tracked) == 1
    if cls.method not in ("zosam", "rand", "momentum_sam", "s2sam"):  # their one pass is at the moved weights
        other(x)
        assert_same(list(model.buffers()), list(other.buffers()))


def test_a_module_with_buffers_of_its_own_class():
    class Mine(nn.Module):
        def __init__(self):
            super().__init__()
            self.register_buffer("running_mean", torch.zeros(3))

        def forward(self, x):
            if self.training:
                self.running_mean.lerp_(x.detach().mean(0), 0.5)
            return x - self.running_mean

    model = nn.Sequential(nn.Linear(2, 3), Mine(), nn.Linear(3, 1))
    optimizer = SAM(model.parameters(), torch.optim.SGD, rho=0.5, lr=0.1)
    first = copy.deepcopy(model)
    x = torch.randn(4, 2)
    optimizer.step(lambda: model(x).square())
    first(x)
    assert torch.equal(model[1].running_mean, first[1].running_mean)


def test_dropout_is_the_same_in_both_passes():
    model, optimizer = make(dropout=0.5)
    seen = []
    model.drop.register_forward_hook(lambda m, a, out: seen.append(out.detach() == 0))
    x, y = batch()
    with torch.no_grad():
        model.conv.weight.abs_()
    optimizer.step(closure_of(model, x, y))
    optimizer.step(closure_of(model, x, y))
    same = [bool((seen[0] == seen[1]).float().mean() > 0.97), bool((seen[1] == seen[2]).float().mean() > 0.97)]
    assert same == [True, False]  # a ReLU may flip at w + eps, a mask does not


# ------------------------------------------------------------------------------------------------- closures of all kinds


def test_several_losses_and_own_backward():
    runs = []
    for kind in ("sum", "list", "backward"):
        model, optimizer = make()
        x, y = batch()

        def closure(model=model, x=x, y=y, kind=kind):
            out = model(x)
            parts = [F.cross_entropy(out, y), 0.1 * out.square().mean()]
            if kind == "list":
                return parts
            if kind == "backward":
                parts[0].backward(retain_graph=True)
                parts[1].backward()
                return parts[0].detach() + parts[1].detach()
            return parts[0] + parts[1]

        optimizer.step(closure)
        optimizer.step(closure)
        runs.append(weights(model))
    for a, b in zip(runs[0], runs[1], strict=True):
        assert torch.equal(a, b)
    for a, b in zip(runs[0], runs[2], strict=True):  # two backward calls add up in another order
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_closures_that_cannot_be_repeated_are_refused():
    model, optimizer = make()
    x, y = batch()
    before = weights(model)
    loss = F.cross_entropy(model(x), y)
    with pytest.raises(ValueError, match="must run the forward pass again"):
        optimizer.step(lambda: loss)
    assert_same(weights(model), before)
    out = model(x)
    with pytest.raises(ValueError, match="run the whole forward pass each time"):
        optimizer.step(lambda: F.cross_entropy(out, y))
    assert_same(weights(model), before)
    for bad, text in [
        (lambda: None, "returned a NoneType"),
        (lambda: 3.0, "returned a float"),
        (lambda: [], "empty list"),
        (lambda: F.cross_entropy(model(x), y).detach(), "does not depend on the parameters"),
    ]:
        with pytest.raises(ValueError, match=text):
            optimizer.step(bad)
        assert_same(weights(model), before)
    with pytest.raises(ValueError, match="needs a closure"):
        optimizer.step()
    assert torch.isfinite(optimizer.step(closure_of(model, x, y)))


def test_an_exception_in_the_second_pass_leaves_everything():
    model, optimizer = make()
    x, y = batch()
    optimizer.step(closure_of(model, x, y))
    before, buffers, calls = weights(model), [b.clone() for b in model.buffers()], []

    def closure():
        calls.append(1)
        out = F.cross_entropy(model(x), y)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return out

    with pytest.raises(KeyboardInterrupt):
        optimizer.step(closure)
    assert_same(weights(model), before)
    # pass 1 had moved the statistics by the batch, as one forward pass does; pass 2 left them
    other = copy.deepcopy(model)
    for b, old in zip(other.buffers(), buffers, strict=True):
        b.copy_(old)
    other(x)
    assert_same(list(model.buffers()), list(other.buffers()))
    optimizer.step(closure_of(model, x, y))


@pytest.mark.parametrize("accumulation", ["full", "micro"])
def test_micro_batches(accumulation):
    """full is SAM on the large batch; micro is the mean of SAM gradients, one ascent each."""
    torch.manual_seed(0)
    model = nn.Linear(6, 3)
    x, y = torch.randn(8, 6), torch.randint(0, 3, (8,))
    parts = [(x[i : i + 4], y[i : i + 4]) for i in (0, 4)]
    optimizer = SAM(model.parameters(), torch.optim.SGD, rho=0.3, lr=1.0, accumulation=accumulation)
    before = weights(model)
    optimizer.step(lambda part: F.cross_entropy(model(part[0]), part[1]), batches=parts)
    got = [b - a for a, b in zip(weights(model), before, strict=True)]
    expected = [torch.zeros_like(w) for w in before]
    for chunk in [[(x, y)], parts][accumulation == "micro"]:
        one = nn.Linear(6, 3)
        one.load_state_dict(dict(zip(("weight", "bias"), before, strict=True)))
        single = SAM(one.parameters(), torch.optim.SGD, rho=0.3, lr=1.0)
        single.step(lambda one=one, chunk=chunk: F.cross_entropy(one(chunk[0]), chunk[1]))
        for e, a, b in zip(expected, before, weights(one), strict=True):
            e += (a - b) / (1 if accumulation == "full" else 2)
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)  # differences of float32 weights


def test_esam_runs_the_second_pass_on_some_rows():
    model, optimizer = make(ESAM, gamma=0.5)
    x, y = batch()
    sizes = []

    def closure(rows=None):
        xs, ys = (x, y) if rows is None else (x[rows], y[rows])
        sizes.append(len(xs))
        return F.cross_entropy(model(xs), ys, reduction="none")

    optimizer.step(closure)
    assert sizes == [8, 8, 4]  # gradient, losses at w + eps, gradient of the half that rose most


# --------------------------------------------------------------------------------------- optimizers, schedulers, scalers


@pytest.mark.parametrize("held", ["sam", "base"])
def test_schedulers_on_either_object(held):
    model, optimizer = make()
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer if held == "sam" else optimizer.base_optimizer, 1, gamma=0.5)
    x, y = batch()
    rates = []
    for _ in range(3):
        optimizer.step(closure_of(model, x, y))
        scheduler.step()
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == [0.05, 0.025, 0.0125]
    assert optimizer.base_optimizer.param_groups[0]["lr"] == 0.0125


def test_class_instance_and_groups():
    torch.manual_seed(0)
    model = Net()
    groups = [{"params": model.conv.parameters(), "rho": 0.0}, {"params": model.head.parameters(), "lr": 0.2}]
    optimizer = SAM(groups, torch.optim.SGD, lr=0.1, rho=0.5)
    moved = []
    before = weights(model)
    x, y = batch()

    def closure():
        moved.append([not torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True)])
        return F.cross_entropy(model(x), y)

    optimizer.step(closure)
    assert moved[0] == [False] * 6
    assert moved[1] == [False, False, False, False, True, True]  # rho 0, not held, rho 0.5
    base = torch.optim.SGD(model.parameters(), lr=0.1)
    assert SAM(model.parameters(), base).base_optimizer is base
    with pytest.raises(ValueError, match="different parameters"):
        SAM(model.head.parameters(), base)
    with pytest.raises(ValueError, match="did you mean 'rho'"):
        SAM(model.parameters(), base, rhoo=0.1)
    with pytest.raises(ValueError, match="LBFGS"):
        SAM(model.parameters(), torch.optim.LBFGS)
    with pytest.raises(ValueError, match="sharpness-aware itself"):
        SAM(model.parameters(), optimizer)
    with pytest.raises(ValueError, match="rho"):
        SAM(model.parameters(), torch.optim.SGD, lr=0.1, rho=-1)
    with pytest.raises(TypeError, match="subclass"):
        glyptic.sharpness.SharpnessOptimizer(model.parameters(), torch.optim.SGD, lr=0.1)


def test_adaptive_true_is_davda54s_and_asam_the_official_one():
    for cls, options, scale in [
        (SAM, {"adaptive": True}, lambda p: p.abs()),
        (ASAM, {}, lambda p: p.abs() + 0.01 if p.dim() > 1 else torch.ones_like(p)),
    ]:
        torch.manual_seed(0)
        model = nn.Linear(5, 3)
        x, y = torch.randn(8, 5), torch.randint(0, 3, (8,))
        before = weights(model)
        grads = torch.autograd.grad(F.cross_entropy(model(x), y), model.parameters())
        seen = []
        optimizer = cls(model.parameters(), torch.optim.SGD, lr=0.0, rho=0.7, **options)

        def closure(model=model, x=x, y=y, seen=seen):
            seen.append(weights(model))
            return F.cross_entropy(model(x), y)

        optimizer.step(closure)
        t = [scale(w) for w in before]
        norm = torch.sqrt(sum((a * g).square().sum() for a, g in zip(t, grads, strict=True)))
        for w, moved, a, g in zip(before, seen[1], t, grads, strict=True):
            torch.testing.assert_close(moved - w, 0.7 * a * a * g / norm, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("cls", [SAM, GSAM, FriendlySAM, LookSAM, WSAM, S2SAM, ZOSAM], ids=lambda c: c.method)
def test_a_scaler_changes_nothing_but_skips_overflow_once(cls):
    runs = []
    for scale in (1.0, 2.0**10, 2.0**16):
        model, optimizer = make(cls)
        scaler = torch.amp.GradScaler("cpu", init_scale=scale, growth_interval=1000)
        for step in range(3):
            x, y = batch(step)
            optimizer.step(closure_of(model, x, y, "mean"), scaler=scaler)
            scaler.update()
        assert scaler.get_scale() == scale
        runs.append(weights(model))
    for other in runs[1:]:
        for a, b in zip(runs[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)  # powers of two are exact; denormals are not
    before = weights(model)
    for bad in (1, 2) if cls not in (S2SAM, ZOSAM) else (1,):  # the gradient pass in which it overflows
        calls = []

        def closure(calls=calls, bad=bad, model=model):
            x, y = batch()
            loss = F.cross_entropy(model(x), y)
            if torch.is_grad_enabled():
                calls.append(1)
            return loss * float("inf") if len(calls) == bad and torch.is_grad_enabled() else loss

        scale = scaler.get_scale()
        if cls is LookSAM and bad == 2:
            continue  # this step has one pass
        optimizer.step(closure, scaler=scaler)
        scaler.update()
        assert scaler.get_scale() == scale / 2
        assert_same(weights(model), before)
    assert optimizer.skipped_steps >= 1
    x, y = batch()
    optimizer.step(closure_of(model, x, y, "mean"), scaler=scaler)
    scaler.update()
    assert not torch.equal(weights(model)[0], before[0])


def test_non_finite_gradients_without_a_scaler():
    model, optimizer = make()
    x, y = batch()
    before = weights(model)
    optimizer.step(lambda: F.cross_entropy(model(x), y) * float("nan"))
    assert optimizer.skipped_steps == 1
    assert_same(weights(model), before)


@pytest.mark.parametrize("cls", ALL, ids=lambda c: c.method)
def test_saved_in_the_middle_it_goes_on_to_the_same_bits(cls):
    def train(model, optimizer, first, last):
        for step in range(first, last):
            x, y = batch(step)
            torch.manual_seed(step)
            optimizer.step(closure_of(model, x, y))

    model, optimizer = make(cls, torch.optim.SGD, dropout=0.2)
    train(model, optimizer, 0, 7)
    half, half_optimizer = make(cls, torch.optim.SGD, dropout=0.2)
    train(half, half_optimizer, 0, 4)
    file = io.BytesIO()
    torch.save({"model": half.state_dict(), "optimizer": half_optimizer.state_dict()}, file)
    file.seek(0)
    saved = torch.load(file, weights_only=True)
    again, again_optimizer = make(cls, torch.optim.SGD, dropout=0.2, seed=99)
    again.load_state_dict(saved["model"])
    again_optimizer.load_state_dict(saved["optimizer"])
    train(again, again_optimizer, 4, 7)
    assert_same(weights(again), weights(model))
    both = copy.deepcopy((half, half_optimizer))
    train(*both, 4, 7)
    assert_same(weights(both[0]), weights(model))
    both = pickle.loads(pickle.dumps((half, half_optimizer)))
    train(*both, 4, 7)
    assert_same(weights(both[0]), weights(model))


def test_first_and_second_step_as_in_davda54():
    model, optimizer = make(rho=0.2)
    other, closure_optimizer = make(rho=0.2)
    for step in range(3):
        x, y = batch(step)
        glyptic.sharpness.enable_running_stats(model)
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.first_step(zero_grad=True)
        glyptic.sharpness.disable_running_stats(model)
        glyptic.sharpness.disable_running_stats(model)  # twice does no harm
        F.cross_entropy(model(x), y).backward()
        optimizer.second_step(zero_grad=True)
        closure_optimizer.step(closure_of(other, x, y, "mean"))
        assert_same(weights(model), weights(other))
        assert int(model.norm.num_batches_tracked) == step + 1
    assert_same(list(model.buffers()), list(other.buffers()))
    with pytest.raises(ValueError, match="without first_step"):
        optimizer.second_step()
    with pytest.raises(ValueError, match="no parameter has a gradient"):
        optimizer.first_step()
    F.cross_entropy(model(x), y).backward()
    optimizer.first_step()
    with pytest.raises(ValueError, match="called twice"):
        optimizer.first_step()
    with pytest.raises(ValueError, match="between the two passes"):
        optimizer.state_dict()
    with pytest.raises(ValueError, match="between first_step"):
        optimizer.step(closure_of(model, x, y))
    optimizer.second_step()
    zo = ZOSAM(model.parameters(), torch.optim.SGD, lr=0.1)
    with pytest.raises(ValueError, match="cannot be cut in two"):
        zo.first_step()


@pytest.mark.parametrize("momentum", [0.1, None])
def test_running_statistics_can_be_stopped(momentum):
    """davda54's helper stores a momentum of 0 over itself, moves the counter, and spoils cumulative averages."""
    norm = nn.BatchNorm1d(2, momentum=momentum)
    norm(torch.tensor([[1.0, 3.0], [3.0, 5.0]]))
    glyptic.sharpness.disable_running_stats(norm)
    norm(torch.full((2, 2), 100.0) + torch.randn(2, 2))
    glyptic.sharpness.enable_running_stats(norm)
    norm(torch.tensor([[11.0, 13.0], [13.0, 15.0]]))
    assert int(norm.num_batches_tracked) == 2
    expected = [7.0, 9.0] if momentum is None else [0.9 * 0.2 + 1.2, 0.9 * 0.4 + 1.4]
    torch.testing.assert_close(norm.running_mean, torch.tensor(expected))
    norm.eval()
    glyptic.sharpness.disable_running_stats(norm)
    assert torch.equal(norm(torch.zeros(1, 2)), nn.functional.batch_norm(
        torch.zeros(1, 2), norm.running_mean, norm.running_var, norm.weight, norm.bias))  # fmt: skip
    glyptic.sharpness.enable_running_stats(norm)


def test_perturbed_shows_the_loss_uphill():
    model, optimizer = make(rho=0.05)
    x, y = batch()
    before = weights(model)
    model.eval()
    loss = F.cross_entropy(model(x), y)
    loss.backward()
    with torch.no_grad(), optimizer.perturbed():
        assert F.cross_entropy(model(x), y) > loss
    assert_same(weights(model), before)
    with pytest.raises(RuntimeError), optimizer.perturbed():
        raise RuntimeError
    assert_same(weights(model), before)
    optimizer.step(closure_of(model, x, y))


def test_a_compiled_model():
    model, optimizer = make()
    compiled = torch.compile(model, backend="aot_eager")
    optimizer = SAM(compiled.parameters(), torch.optim.SGD, rho=0.2, lr=0.1)
    other, plain = make(momentum=0, rho=0.2)
    for step in range(3):
        x, y = batch(step)
        optimizer.step(lambda x=x, y=y: F.cross_entropy(compiled(x), y))
        plain.step(closure_of(other, x, y, "mean"))
    for a, b in zip(weights(model), weights(other), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)
    assert int(model.norm.num_batches_tracked) == 3


# -------------------------------------------------------------------------------------------------- with sparse training


@pytest.mark.parametrize("base", [torch.optim.SGD, glyptic.optim.SGD, torch.optim.AdamW, glyptic.optim.AdamW])
@pytest.mark.parametrize("cls", [SAM, GSAM, FriendlySAM, S2SAM, ZOSAM, MomentumSAM, WSAM], ids=lambda c: c.method)
def test_masks_hold_in_every_pass(cls, base):
    model, optimizer = make(cls, base)
    s = glyptic.sparsity.RigL(model, optimizer, density=0.3, total_steps=40, update_every=3, end=1.0)
    off = []

    def closure():
        for n, m in s.masks().items():
            off.append(float(dict(model.named_parameters())[n].detach()[~m].abs().sum()))
        return F.cross_entropy(model(x), y, reduction="none")

    for step in range(8):
        x, y = batch(step)
        s.step(closure)
    assert len(off) >= 16 and not any(off)
    assert s.stats()["events"] >= 2
    for p in model.parameters():
        for state in optimizer.state[p].values():
            if isinstance(state, torch.Tensor) and state.shape == p.shape:
                name = next(n for n, q in model.named_parameters() if q is p)
                if name in s.masks():
                    assert not state[~s.masks()[name]].any()


def test_growth_ranks_by_the_gradient_at_the_weights():
    for skips in (True, False):
        model, optimizer = make(rho=3.0, momentum=0)
        s = glyptic.sparsity.RigL(
            model, optimizer, density=0.3, total_steps=40, update_every=1, end=1.0, drop_fraction=0.5,
            skip_optimizer_on_update=skips,
        )  # fmt: skip
        x, y = batch()
        before = copy.deepcopy(model)
        mask = s.masks()["head.weight"].clone()
        calls = []
        s.step(lambda: calls.append(1) or F.cross_entropy(model(x), y))  # noqa: B023
        assert len(calls) == (1 if skips else 2)
        grad = torch.autograd.grad(F.cross_entropy(before(x), y), before.head.weight)[0].abs()
        now = s.masks()["head.weight"]
        grown = now & ~mask
        count = int(grown.sum())
        assert count > 0
        # the largest gradients at w among the positions that were free
        order = torch.where(mask, torch.full_like(grad, -1), grad).flatten().argsort(descending=True)[:count]
        assert set(order.tolist()) == set(grown.flatten().nonzero().flatten().tolist())
        if skips:
            assert torch.equal(model.head.bias, before.head.bias)


def test_attached_masks_follow_the_optimizer():
    model, optimizer = make()
    s = glyptic.sparsity.SET(model, optimizer, density=0.3, total_steps=40).attach()
    x, y = batch()
    optimizer.step(closure_of(model, x, y))
    assert s.stats()["step"] == 1
    assert not model.head.weight.detach()[~s.masks()["head.weight"]].any()
    s.detach()
    with pytest.warns(UserWarning, match="beside a SET sparsifier"):
        optimizer.step(closure_of(model, x, y))
    s.remove()
    optimizer.step(closure_of(model, x, y))


# ----------------------------------------------------------------------------------------------------- several processes


def ddp_worker(rank, port, queue):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    try:
        results = {}
        for name, cls, options in CASES:
            torch.manual_seed(0)
            model = nn.Linear(2, 1, bias=False).double()
            with torch.no_grad():
                model.weight.copy_(torch.tensor([[0.5, -0.25]]))
            ddp = nn.parallel.DistributedDataParallel(model)
            optimizer = cls(ddp.parameters(), torch.optim.SGD, model=ddp, lr=1.0, rho=0.1, **options)
            x = torch.tensor([[1.0, 2.0], [0.0, 1.0], [3.0, -1.0], [1.0, 1.0]]).double()
            y = torch.tensor([1.0, 0.0, 2.0, -1.0]).double()
            mine = slice(2 * rank, 2 * rank + 2)

            def closure(part=None, ddp=ddp, x=x, y=y, mine=mine):
                xs, ys = x[mine], y[mine]
                if part is not None:
                    xs, ys = xs[part : part + 1], ys[part : part + 1]
                return (ddp(xs)[:, 0] - ys).square() / 2

            parts = [0, 1] if "parts" in name else None
            optimizer.step(closure, batches=parts)
            first = (torch.tensor([[0.5, -0.25]]).double() - model.weight.detach())[0].tolist()
            for _ in range(3):
                optimizer.step(closure, batches=parts)
            results[name] = (first, model.weight.detach()[0].tolist())
        queue.put((rank, results))
    finally:
        dist.destroy_process_group()


CASES = [
    ("sam", SAM, {}),
    ("sam sync", SAM, {"sync_perturbation": True}),
    ("sam parts sync", SAM, {"sync_perturbation": True}),
    ("sam parts micro", SAM, {"accumulation": "micro"}),
    ("gsam", GSAM, {}),
    ("looksam", LookSAM, {"every": 2}),
    ("wsam", WSAM, {}),
    ("s2sam", S2SAM, {}),
    ("zosam", ZOSAM, {"seed": 3}),
]


@pytest.mark.skipif(not dist.is_available(), reason="this torch has no c10d")
def test_two_ranks_end_with_equal_weights(unused_port):
    context = mp.get_context("spawn")
    queue = context.Queue()
    processes = [context.Process(target=ddp_worker, args=(rank, unused_port, queue)) for rank in range(2)]
    for p in processes:
        p.start()
    results = dict(queue.get(timeout=120) for _ in range(2))
    for p in processes:
        p.join(timeout=60)
        assert p.exitcode == 0
    assert results[0] == results[1]
    first = {name: r[0] for name, r in results[0].items()}
    # Each rank ascends on its own half and the SAM gradients are averaged: micro-batches of two, by hand.
    assert first["sam"] == pytest.approx([-0.1492213, -0.2904106], abs=5e-8)
    # One gradient for both before the ascent: SAM on the whole batch, also with two micro-batches per rank.
    assert first["sam sync"] == pytest.approx([-0.2775426, -0.3331088], abs=5e-8)
    assert first["sam parts sync"] == pytest.approx([-0.2775426, -0.3331088], abs=5e-8)
