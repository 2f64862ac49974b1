"""Every elementwise torch optimizer keeps to the masks, and the fused masked ones compute what torch computes."""

import copy
import warnings

import glyptic
import pytest
import torch
from torch import nn

optim = torch.optim

# Every optimizer of torch.optim whose step works element by element, with what is special about it switched on.
OPTIMIZERS = {
    "sgd": lambda p: optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=1e-3),
    "sgd plain": lambda p: optim.SGD(p, lr=0.05),
    "sgd dampened": lambda p: optim.SGD(p, lr=0.05, momentum=0.9, dampening=0.5),
    "nesterov": lambda p: optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True, maximize=False),
    "sgd fused": lambda p: optim.SGD(p, lr=0.05, momentum=0.9, fused=True),
    "sgd foreach": lambda p: optim.SGD(p, lr=0.05, momentum=0.9, foreach=True),
    "adam": lambda p: optim.Adam(p, lr=1e-2, weight_decay=1e-3),
    "adam fused": lambda p: optim.Adam(p, lr=1e-2, fused=True),
    "adam tensor lr": lambda p: optim.Adam(p, lr=torch.tensor(1e-2)),
    "adamw": lambda p: optim.AdamW(p, lr=1e-2, amsgrad=True),
    "adamw fused": lambda p: optim.AdamW(p, lr=1e-2, fused=True),
    "adamw foreach": lambda p: optim.AdamW(p, lr=1e-2, foreach=True),
    "adamax": lambda p: optim.Adamax(p, lr=1e-2),
    "nadam": lambda p: optim.NAdam(p, lr=1e-2, decoupled_weight_decay=True, weight_decay=1e-2),
    "radam": lambda p: optim.RAdam(p, lr=1e-2),
    "adagrad": lambda p: optim.Adagrad(p, lr=1e-2),
    "adagrad start": lambda p: optim.Adagrad(p, lr=1e-2, initial_accumulator_value=0.5, weight_decay=1e-3),
    "adagrad fused": lambda p: optim.Adagrad(p, lr=1e-2, fused=True),
    "adadelta": lambda p: optim.Adadelta(p, lr=1.0),
    "rmsprop": lambda p: optim.RMSprop(p, lr=1e-3, momentum=0.5, centered=True),
    "rprop": lambda p: optim.Rprop(p, lr=1e-3),
    "asgd": lambda p: optim.ASGD(p, lr=1e-2, t0=3),
    "glyptic sgd": lambda p: glyptic.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=1e-3),
    "glyptic sgd plain": lambda p: glyptic.optim.SGD(p, lr=0.05),
    "glyptic adam": lambda p: glyptic.optim.Adam(p, lr=1e-2),
    "glyptic adamw": lambda p: glyptic.optim.AdamW(p, lr=1e-2),
    "glyptic adamw ages": lambda p: glyptic.optim.AdamW(p, lr=1e-2, per_weight_step=True),
}


def network():
    torch.manual_seed(3)
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 3))


def loss_of(model, t):
    generator = torch.Generator().manual_seed(t)
    return nn.functional.cross_entropy(model(torch.randn(6, 1, 6, 6, generator=generator)), torch.arange(6) % 3)


def make(optimizer, method=glyptic.sparsity.RigL, total=24, **options):
    model = network()
    opt = OPTIMIZERS[optimizer](model.parameters())
    return model, opt, method(model, opt, **{"density": 0.3, "total_steps": total, "update_every": 4, **options})


def train(model, optimizer, s, first, last):
    for t in range(first, last + 1):
        optimizer.zero_grad()
        loss_of(model, t).backward()
        s.step()


def assert_zero_off_mask(model, optimizer, s):
    for name, mask in s.masks().items():
        p = model.get_parameter(name)
        assert not p[~mask].any(), name
        for key, value in optimizer.state.get(p, {}).items():
            if isinstance(value, torch.Tensor) and value.shape == p.shape:
                assert not value[~mask].any(), (name, key)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_weights_and_state_are_zero_off_mask(optimizer):
    for method in (glyptic.sparsity.SET, glyptic.sparsity.RigL):
        model, opt, s = make(optimizer, method)
        assert_zero_off_mask(model, opt, s)  # Adagrad has state before its first step
        for t in range(1, 18):
            train(model, opt, s, t, t)
            assert_zero_off_mask(model, opt, s)
        assert all(p.isfinite().all() for p in model.parameters())
        assert sum(e["grown"] for e in s.events()) > 0
        s.remove()


@pytest.mark.parametrize("optimizer", [name for name in OPTIMIZERS if not name.startswith("glyptic")])
def test_masking_after_the_step_equals_a_masked_gradient(optimizer):
    """Bit for bit on what is kept: this is what makes an optimizer elementwise."""
    model, opt, s = make(optimizer, update_every=1000)
    twin = copy.deepcopy(model)
    twin_opt = OPTIMIZERS[optimizer](twin.parameters())
    masks = s.masks()
    for t in range(1, 8):
        train(model, opt, s, t, t)
        twin_opt.zero_grad()
        loss_of(twin, t).backward()
        for name, mask in masks.items():
            twin.get_parameter(name).grad *= mask
        twin_opt.step()
        with torch.no_grad():  # adagrad's and rprop's first state is not zero, and weight decay moves nothing
            for name, mask in masks.items():
                twin.get_parameter(name).mul_(mask)
    for (name, a), b in zip(model.named_parameters(), twin.parameters(), strict=True):
        assert torch.equal(a, b), name


# What torch itself puts into the state of a parameter that it meets for the first time.
FIRST_STATE = {"rprop": {"step_size": 1e-3}, "adagrad start": {"sum": 0.5}}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_grown_weight_trains_as_a_fresh_one(optimizer):
    """The oracle: one parameter of the grown weights alone, in an optimizer of its own with the state torch begins with.

    What an optimizer keeps per tensor (the step count of bias corrections) is the tensor's, here as there.
    """
    torch.manual_seed(5)
    layer = nn.Linear(12, 6, bias=False)
    opt = OPTIMIZERS[optimizer]([layer.weight])
    s = glyptic.sparsity.SET(layer, opt, density=0.3, total_steps=100, update_every=5, drop_fraction=0.5)
    gradient = lambda: torch.randn(6, 12)
    before = None
    for _ in range(5):
        layer.weight.grad = gradient()
        before = s.masks()["weight"].clone()
        s.step()
    grown = s.masks()["weight"] & ~before
    assert grown.sum() >= 3
    fresh = nn.Parameter(layer.weight.detach()[grown].clone())
    assert not fresh.any()
    twin = OPTIMIZERS[optimizer]([fresh])
    saved = copy.deepcopy(opt.state_dict())
    for key, value in saved["state"].get(0, {}).items():
        if isinstance(value, torch.Tensor) and value.shape == layer.weight.shape:
            saved["state"][0][key] = torch.full(fresh.shape, FIRST_STATE.get(optimizer, {}).get(key, 0), dtype=value.dtype)
    twin.load_state_dict(saved)
    for _ in range(4):
        g = gradient()
        layer.weight.grad, fresh.grad = g, g[grown].clone()
        s.step()
        twin.step()
        # The same operations; a vectorised loop and its scalar tail may round differently in the last bit.
        torch.testing.assert_close(layer.weight.detach()[grown], fresh.detach(), rtol=2e-6, atol=1e-9)
    assert fresh.detach().abs().min() > 1e-5  # it really moves: Rprop with a step size of zero would not


def test_ages_make_a_grown_weight_start_like_the_first_step():
    """AdamW's first move is the learning rate whatever the gradient; with the tensor's step count it is not."""
    moves = {}
    for ages in (False, True):
        torch.manual_seed(5)
        layer = nn.Linear(12, 6, bias=False)
        opt = glyptic.optim.AdamW([layer.weight], lr=1e-3, weight_decay=0, per_weight_step=ages)
        s = glyptic.sparsity.SET(layer, opt, density=0.3, total_steps=10000, update_every=2000, drop_fraction=0.5)
        for _ in range(2000):
            layer.weight.grad = torch.randn(6, 12)
            before = s.masks()["weight"].clone()
            s.step()
        grown = s.masks()["weight"] & ~before
        layer.weight.grad = torch.randn(6, 12)
        s.step()
        moves[ages] = layer.weight.detach()[grown].abs()
    torch.testing.assert_close(moves[True], torch.full_like(moves[True], 1e-3), rtol=1e-4, atol=0)  # eps beside |g|
    # lr (1 - b1) / sqrt((1 - b2) / (1 - b2^2001)) = 2.94 lr
    torch.testing.assert_close(moves[False], torch.full_like(moves[False], 2.94e-3), rtol=0.01, atol=0)


def test_param_groups_and_a_scheduler():
    def groups(model):
        return [
            {"params": [p for p in model.parameters() if p.dim() > 1], "weight_decay": 1e-2},
            {"params": [p for p in model.parameters() if p.dim() <= 1], "lr": 1e-3},
        ]

    for kind in (optim.SGD, glyptic.optim.SGD):
        model = network()
        opt = kind(groups(model), lr=0.1, momentum=0.9)
        scheduler = optim.lr_scheduler.CosineAnnealingLR(opt, T_max=12)
        s = glyptic.sparsity.RigL(model, opt, density=0.3, total_steps=12, update_every=3)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # the scheduler sees that the optimizer steps
            for t in range(1, 13):
                train(model, opt, s, t, t)
                scheduler.step()
        assert opt.param_groups[0]["lr"] == pytest.approx(0, abs=1e-12)
        assert_zero_off_mask(model, opt, s)


@pytest.mark.parametrize("kind", ["Muon", "Adafactor", "LBFGS", "SparseAdam"])
def test_not_elementwise_ones_are_refused(kind):
    model = nn.Linear(8, 4, bias=False)
    with pytest.raises(glyptic.ArgumentError, match=f"^{kind} does not update each weight by itself.*use SGD") as caught:
        glyptic.sparsity.RigL(model, getattr(optim, kind)(list(model.parameters())), density=0.5, total_steps=10)
    assert "\n" not in str(caught.value)


def test_a_differentiable_optimizer_is_refused():
    model = nn.Linear(8, 4)
    with pytest.raises(glyptic.ArgumentError, match="differentiable=True"):
        glyptic.sparsity.RigL(model, optim.SGD(model.parameters(), lr=0.1, differentiable=True), density=0.5, total_steps=10)


TWINS = {
    "sgd": (lambda p, m: m.SGD(p, lr=0.05), {}),
    "momentum": (lambda p, m: m.SGD(p, lr=0.05, momentum=0.9, dampening=0.3, weight_decay=1e-2), {}),
    "nesterov": (lambda p, m: m.SGD(p, lr=0.05, momentum=0.9, nesterov=True, maximize=True), {}),
    "adam": (lambda p, m: m.Adam(p, lr=1e-2, weight_decay=1e-2), {}),
    "adamw": (lambda p, m: m.AdamW(p, lr=1e-2, betas=(0.8, 0.99), eps=1e-6), {}),
    "adamw tensor": (lambda p, m: m.AdamW(p, lr=torch.tensor(1e-2), maximize=True), {}),
}


@pytest.mark.parametrize("name", TWINS)
@pytest.mark.parametrize("masked", [False, True])
def test_fused_ones_compute_what_torch_does(name, masked):
    make_one, _ = TWINS[name]
    torch.manual_seed(0)
    shapes = (7, 5), (3, 4, 3, 3), (6,)
    ours = [nn.Parameter(torch.randn(s)) for s in shapes]
    masks = {p: torch.rand(p.shape) < 0.4 for p in ours[:2]} if masked else {}
    with torch.no_grad():
        for p, mask in masks.items():
            p.mul_(mask)
    theirs = [nn.Parameter(p.detach().clone()) for p in ours]
    a, b = make_one(ours, glyptic.optim), make_one(theirs, optim)
    a.set_masks(masks)
    for _ in range(6):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn(p.shape)
            q.grad = p.grad * masks[p] if p in masks else p.grad.clone()
        a.step()
        b.step()
    for p, q in zip(ours, theirs, strict=True):
        # Six steps of rounding once per product and sum against fused multiply-adds: a few units in the last place.
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)
        if p in masks:
            assert not p.detach()[~masks[p]].any()
        for key, value in b.state[q].items():
            if value is not None:
                torch.testing.assert_close(a.state[p][key], value, rtol=1e-5, atol=1e-6)
    assert a.state_dict().keys() == b.state_dict().keys()
    own = set(a.param_groups[0]) - set(b.param_groups[0])
    assert own <= {"per_weight_step"} and set(b.param_groups[0]) <= set(a.param_groups[0])
    # Either loads from the other and goes on alike.
    swapped_a, swapped_b = make_one(ours, glyptic.optim), make_one(theirs, optim)
    swapped_a.load_state_dict(copy.deepcopy(b.state_dict()))  # torch shares the tensors otherwise
    swapped_b.load_state_dict(copy.deepcopy(a.state_dict()))
    swapped_a.set_masks(masks)
    for p, q in zip(ours, theirs, strict=True):
        p.grad = torch.randn(p.shape)
        q.grad = p.grad * masks[p] if p in masks else p.grad.clone()
    swapped_a.step()
    swapped_b.step()
    for p, q in zip(ours, theirs, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


def test_fused_ones_take_groups_missing_gradients_and_closures():
    a, b, c = (nn.Parameter(torch.ones(3)) for _ in range(3))
    opt = glyptic.optim.SGD([{"params": [a, c]}, {"params": [b], "lr": 1.0}], lr=0.5, momentum=0.9)
    assert isinstance(opt, optim.SGD)
    loss = opt.step(lambda: [(a.sum() + b.sum()).backward(), torch.tensor(7.0)][1])
    assert loss == 7 and a.tolist() == [0.5] * 3 and b.tolist() == [0.0] * 3 and c.tolist() == [1.0] * 3
    c.grad = torch.ones(3)  # joins later: its own first step
    opt.step()
    assert c.tolist() == [0.5] * 3
    assert a.tolist() == pytest.approx([0.5 - 0.5 * 1.9] * 3)


def test_ages_survive_saving():
    p = nn.Parameter(torch.ones(4, dtype=torch.float32))
    opt = glyptic.optim.AdamW([p], per_weight_step=True)
    for _ in range(3):
        p.grad = torch.ones(4)
        opt.step()
    other = glyptic.optim.AdamW([nn.Parameter(torch.ones(4))], per_weight_step=True)
    other.load_state_dict(opt.state_dict())
    ages = other.state[other.param_groups[0]["params"][0]]["weight_step"]
    assert ages.dtype == torch.int32 and ages.tolist() == [3] * 4


def test_fused_ones_refuse():
    p = nn.Parameter(torch.ones(4))
    opt = glyptic.optim.AdamW([{"params": [p], "amsgrad": True}])
    p.grad = torch.ones(4)
    with pytest.raises(glyptic.ArgumentError, match="amsgrad=True has no fused masked step; use torch.optim.AdamW"):
        opt.step()
    with pytest.raises(glyptic.ArgumentError, match=r"a mask is torch.bool \[3\]"):
        glyptic.optim.SGD([p]).set_masks({p: torch.ones(3, dtype=torch.bool)})
    embedding = nn.Embedding(4, 2, sparse=True)
    embedding(torch.tensor([1])).sum().backward()
    with pytest.raises(glyptic.ArgumentError, match="dense gradients only"):
        glyptic.optim.SGD(embedding.parameters()).step()


def test_a_sparsifier_hands_its_masks_over_and_takes_them_back():
    model, opt, s = make("glyptic sgd")
    train(model, opt, s, 1, 9)
    s.remove()
    before = {n: m.clone() for n, m in s.masks().items()}
    loss_of(model, 1).backward()
    opt.step()
    assert any(model.get_parameter(n)[~m].any() for n, m in before.items())


@pytest.mark.parametrize(("ours", "theirs"), [("glyptic sgd", "sgd"), ("glyptic adamw", "adamw fused")])
def test_fused_and_torch_sparsify_alike(ours, theirs):
    a, a_opt, a_s = make(ours)
    b, b_opt, b_s = make(theirs)
    train(a, a_opt, a_s, 1, 9)
    train(b, b_opt, b_s, 1, 9)
    for name, mask in a_s.masks().items():
        assert torch.equal(mask, b_s.masks()[name]), name
    for (name, p), q in zip(a.named_parameters(), b.parameters(), strict=True):
        # Nine steps through a network of rounding. Normalisation cancels the first bias: all of its gradient is rounding,
        # which Adam makes a step of full length.
        if name != "0.bias":
            torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("optimizer", ["sgd", "nesterov", "adam", "adamw", "rmsprop", "adagrad start", "rprop", "glyptic adamw ages"])
def test_resume_in_the_middle_to_the_same_bits(optimizer, tmp_path):
    model, opt, s = make(optimizer)
    train(model, opt, s, 1, 20)
    for cut in (3, 8):
        half, half_opt, half_s = make(optimizer)
        train(half, half_opt, half_s, 1, cut)
        torch.save({"model": half.state_dict(), "opt": half_opt.state_dict(), "s": half_s.state_dict()}, tmp_path / "x.pt")
        saved = torch.load(tmp_path / "x.pt", weights_only=True)
        torch.manual_seed(99)
        other = nn.Sequential(*(type(m)(*args) for m, args in zip(network(), [(1, 4, 3), (4,), (), (), (64, 8), (), (8, 3)])))
        other.load_state_dict(saved["model"])
        other_opt = OPTIMIZERS[optimizer](other.parameters())
        other_opt.load_state_dict(saved["opt"])
        # Over weights that are loaded already: no random masks come between.
        other_s = glyptic.sparsity.RigL(other, other_opt, density=0.3, total_steps=24, update_every=4, state=saved["s"])
        train(other, other_opt, other_s, cut + 1, 20)
        for (name, a), b in zip(model.named_parameters(), other.parameters(), strict=True):
            assert torch.equal(a, b), f"{name}, cut at {cut}"


def test_momentum_as_growth_criterion_says_what_it_does():
    with pytest.warns(UserWarning, match="only what was dropped in the same update has a score"):
        model, opt, s = make("sgd", grow_criterion="momentum")
    train(model, opt, s, 1, 9)
    with pytest.raises(glyptic.ArgumentError, match="but Adagrad keeps none for '0.weight'"):
        make("adagrad", grow_criterion="momentum")
