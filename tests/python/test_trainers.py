"""Sparsifiers in other people's loops: scalers, accumulation, wrappers, copies, and what is refused there."""

import copy
import gc
import io
import pickle
import warnings

import glyptic
import pytest
import torch
from torch import nn

RigL, SET, Static, Chase = (getattr(glyptic.sparsity, n) for n in ("RigL", "SET", "Static", "Chase"))


def network():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 3))


def batch(t, n=6):
    generator = torch.Generator().manual_seed(t)
    return torch.randn(n, 8, generator=generator), torch.arange(n) % 3


def loss_of(model, t):
    x, y = batch(t)
    return nn.functional.cross_entropy(model(x), y)


def sgd(model, lr=0.05):
    return torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)


OPTIONS = {"density": 0.3, "total_steps": 24, "update_every": 3}


def make(method=RigL, optimizer=sgd, **options):
    model = network()
    opt = optimizer(model)
    return model, opt, method(model, opt, **{**OPTIONS, **options})


def train(model, optimizer, s, first, last):
    for t in range(first, last + 1):
        optimizer.zero_grad()
        loss_of(model, t).backward()
        s.step()


def assert_same(a, b):
    for (name, p), q in zip(a.named_parameters(), b.parameters(), strict=True):
        assert torch.equal(p, q), name


def assert_masked(model, s):
    for name, mask in s.masks().items():
        assert not model.get_parameter(name)[~mask].any(), name


# ------------------------------------------------------------------------------------------- GradScaler and autocast


SCALED = {
    "sgd": sgd,
    "sgd fused": lambda m: torch.optim.SGD(m.parameters(), lr=0.05, momentum=0.9, fused=True),
    "adamw": lambda m: torch.optim.AdamW(m.parameters(), lr=1e-2),
    "adamw fused": lambda m: torch.optim.AdamW(m.parameters(), lr=1e-2, fused=True),
    "glyptic sgd": lambda m: glyptic.optim.SGD(m.parameters(), lr=0.05, momentum=0.9),
}


@pytest.mark.parametrize("how", ["step", "unscaled by hand", "closure", "attached"])
@pytest.mark.parametrize("method", [RigL, SET])
@pytest.mark.parametrize("optimizer", SCALED)
def test_scaler_changes_nothing_but_skipped_steps(optimizer, method, how):
    """A power of two scales exactly, so both runs agree in every bit; steps with inf leave no trace in masks or counts."""
    a, a_opt, a_s = make(method, SCALED[optimizer])
    train(a, a_opt, a_s, 1, 10)
    b, opt, s = make(method, SCALED[optimizer])
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10, growth_interval=10**6, backoff_factor=0.5)
    if how == "attached":
        s.attach()
    for t in range(1, 11):
        if t in (2, 3, 7):  # 3 is an update of the masks
            before = s.state_dict()
            opt.zero_grad()
            scaler.scale(loss_of(b, 50 + t)).backward()
            b[2].weight.grad[0, 0] = float("inf")
            weights = [p.detach().clone() for p in b.parameters()]
            if how == "attached":
                scaler.step(opt)
            else:
                s.step(scaler=scaler)
            scaler.update()
            assert all(torch.equal(p, w) for p, w in zip(b.parameters(), weights, strict=True))
            after = s.state_dict()
            assert before.keys() == after.keys() and all(torch.equal(before[k], after[k]) for k in before)
        if how == "closure":
            expected = loss_of(b, t).detach()
            assert s.step(lambda t=t: loss_of(b, t), scaler=scaler).detach() == expected  # returned without the scale
        else:
            opt.zero_grad()
            scaler.scale(loss_of(b, t)).backward()
            if how == "unscaled by hand":
                scaler.unscale_(opt)
            if how == "attached":
                scaler.step(opt)
            else:
                s.step(scaler=scaler)
        scaler.update()
    assert scaler.get_scale() == 2.0**7
    assert s.stats()["step"] == 10 and s.events() == a_s.events()
    assert_same(a, b)


def test_growth_sees_unscaled_gradients_in_a_fused_attached_optimizer():
    """mest adds |w| and |g|, so a scale left in the gradient would choose other weights."""
    runs = []
    for scaled in (False, True):
        model, opt, s = make(RigL, SCALED["adamw fused"], drop_criterion="mest", mest_lambda=10.0, score_steps=2)
        s.attach()
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**12, enabled=scaled)
        for t in range(1, 13):
            opt.zero_grad()
            scaler.scale(loss_of(model, t)).backward()
            scaler.step(opt)
            scaler.update()
        runs.append(model)
    assert_same(*runs)


def test_a_disabled_scaler_is_none():
    a, a_opt, a_s = make()
    train(a, a_opt, a_s, 1, 7)
    b, opt, s = make()
    for t in range(1, 8):
        opt.zero_grad()
        loss_of(b, t).backward()
        s.step(scaler=torch.amp.GradScaler("cpu", enabled=False))
    assert_same(a, b)


def test_autocast():
    model, opt, s = make()
    for t in range(1, 10):
        opt.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            loss = loss_of(model, t)
        loss.backward()
        s.step()
        assert_masked(model, s)
    assert model[0].weight.dtype == torch.float32 and sum(e["grown"] for e in s.events()) > 0


def test_a_half_precision_model():
    model = network().bfloat16()
    opt = sgd(model)
    s = RigL(model, opt, **OPTIONS)
    for t in range(1, 10):
        opt.zero_grad()
        x, y = batch(t)
        nn.functional.cross_entropy(model(x.bfloat16()).float(), y).backward()
        s.step()
        assert_masked(model, s)


# ------------------------------------------------------------------------------------------ accumulation and clipping


def test_gradient_accumulation_grows_by_the_mean():
    a, a_opt, a_s = make()
    b, b_opt, b_s = make()
    for t in range(1, 10):
        x, y = batch(t, 12)
        a_opt.zero_grad()
        for part in range(2):  # 0.5 is exact
            (0.5 * nn.functional.cross_entropy(a(x[part::2]), y[part::2])).backward()
        a_s.step()
        b_opt.zero_grad()
        (0.5 * nn.functional.cross_entropy(b(x[0::2]), y[0::2]) + 0.5 * nn.functional.cross_entropy(b(x[1::2]), y[1::2])).backward()
        b_s.step()
    for name, mask in a_s.masks().items():
        assert torch.equal(mask, b_s.masks()[name])
    assert a_s.stats()["step"] == 9


def test_clipping_keeps_what_grows_and_measures_what_is_there():
    model, opt, s = make(SET)
    loss_of(model, 1).backward()
    dense = {n: p.grad.clone() for n, p in model.named_parameters()}
    masks = s.masks()
    expected = torch.stack([(dense[n] * masks[n] if n in masks else dense[n]).norm() for n in dense]).norm()
    norm = s.clip_grad_norm_(0.01)
    torch.testing.assert_close(norm, expected)
    factor = 0.01 / float(expected)
    for n, p in model.named_parameters():
        torch.testing.assert_close(p.grad, dense[n] * factor, rtol=1e-4, atol=1e-9)  # 1e-6 beside the norm, as in torch
    assert expected < torch.stack([g.norm() for g in dense.values()]).norm()
    assert s.clip_grad_norm_(100.0) <= 0.0101  # already below: unchanged
    torch.testing.assert_close(model[0].weight.grad, dense["0.weight"] * factor, rtol=1e-4, atol=1e-9)
    # torch's own, before s.step(): one factor for all, so the same weights grow.
    runs = []
    for clip in (lambda m: None, lambda m: nn.utils.clip_grad_norm_(m.parameters(), 1e-3)):
        m, o, r = make(RigL, lambda m: sgd(m, lr=0.0))
        for t in range(1, 4):
            o.zero_grad()
            loss_of(m, t).backward()
            clip(m)
            r.step()
        runs.append(r.masks())
    assert all(torch.equal(runs[0][n], runs[1][n]) for n in runs[0])


# ------------------------------------------------------------------------------------------------- attach and warnings


def test_attached_equals_step():
    for method in (RigL, SET, Chase):
        a, a_opt, a_s = make(method)
        train(a, a_opt, a_s, 1, 20)
        b, b_opt, b_s = make(method)
        assert b_s.attach() is b_s
        c, c_opt, c_s = make(method)
        c_s.attach()
        for t in range(1, 21):
            b_opt.zero_grad()
            loss_of(b, t).backward()
            b_opt.step()

            def closure(c=c, c_opt=c_opt, t=t):
                c_opt.zero_grad()
                loss = loss_of(c, t)
                loss.backward()
                return loss

            assert c_opt.step(closure) is not None if t % 2 else c_opt.step(closure=closure) is not None
            assert b[0].weight.grad is not None  # handed back after a step that the optimizer sat out
        assert_same(a, b)
        assert_same(a, c)
        assert a_s.events() == b_s.events() == c_s.events()
    with pytest.raises(glyptic.ArgumentError, match="after attach.*detach"):
        b_s.step()
    b_s.detach()
    train(b, b_opt, b_s, 21, 22)


def test_a_trainer_with_nothing_to_learn_from_is_no_step():
    model, opt, s = make()
    s.attach()
    opt.step()
    assert s.stats()["step"] == 0


def test_optimizer_step_beside_the_sparsifier_is_noticed_once():
    model, opt, s = make()
    loss_of(model, 1).backward()
    with pytest.warns(UserWarning, match="optimizer.step.. was called beside a RigL sparsifier.*call s.step"):
        opt.step()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        opt.step()
        s.step()
        s.remove()
        opt.step()


def test_one_optimizer_serves_one_sparsifier():
    model = network()
    opt = sgd(model)
    s = SET(model, opt, params=["0.weight"], **OPTIONS)
    before = model[2].weight.detach().clone()
    with pytest.raises(glyptic.ArgumentError, match="the optimizer is already controlled by another sparsifier"):
        SET(model, opt, params=["2.weight"], **OPTIONS)
    assert torch.equal(model[2].weight, before)  # refused before anything was masked
    s.remove()
    SET(model, opt, params=["2.weight"], **OPTIONS)


def test_hooks_do_not_keep_the_sparsifier():
    model, opt, s = make()
    del s
    gc.disable()  # no cycle: gone at once
    try:
        again = RigL(model, opt, **OPTIONS)
    finally:
        gc.enable()
    assert len(opt._optimizer_step_post_hooks) == 1
    train(model, opt, again, 1, 3)


# ---------------------------------------------------------------------------------------------------- wrapped models


@pytest.mark.parametrize("wrapped_to_sparsifier", [True, False])
def test_compiled(wrapped_to_sparsifier):
    a, a_opt, a_s = make()
    train(a, a_opt, a_s, 1, 12)
    b = network()
    compiled = torch.compile(b, backend="aot_eager")
    opt = sgd(compiled)
    s = RigL(compiled if wrapped_to_sparsifier else b, opt, **OPTIONS)
    assert list(s.masks()) == list(a_s.masks())  # without _orig_mod
    for t in range(1, 13):
        opt.zero_grad()
        loss_of(compiled, t).backward()
        s.step()
    assert_same(a, b)
    s.remove()
    prefixed = ["_orig_mod.0.weight"]
    assert list(RigL(compiled, opt, params=prefixed, **OPTIONS).masks()) == ["0.weight"]


def test_compiled_in_place_and_in_part():
    model = network()
    model[2] = torch.compile(model[2], backend="eager")
    opt = sgd(model)
    s = RigL(model, opt, **OPTIONS)
    assert set(s.masks()) == {"0.weight", "2._orig_mod.weight", "4.weight"}
    train(model, opt, s, 1, 4)


def test_data_parallel_and_lazy_and_meta_are_refused():
    def refused(model, text, optimizer=None):
        with pytest.raises(glyptic.ArgumentError, match=text) as caught:
            RigL(model, optimizer, **OPTIONS)
        assert "\n" not in str(caught.value)

    refused(nn.DataParallel(network()), "pass model.module")
    refused(nn.Sequential(nn.LazyLinear(4)), "run one forward pass first")
    refused(nn.Sequential(nn.Linear(4, 4, device="meta")), "meta device")


@pytest.fixture
def one_rank():
    dist = torch.distributed
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    yield
    dist.destroy_process_group()


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no c10d")
def test_sharded_models_are_refused_and_data_parallel_ones_unwrapped(one_rank):
    from torch.distributed.fsdp import fully_shard

    model = network()
    fully_shard(model, mesh=torch.distributed.init_device_mesh("cpu", (1,)))
    with pytest.raises(glyptic.ArgumentError, match="'0.weight' is sharded.*use DistributedDataParallel") as caught:
        RigL(model, sgd(model), **OPTIONS)
    assert "\n" not in str(caught.value)
    a, a_opt, a_s = make()
    train(a, a_opt, a_s, 1, 9)
    model = network()
    parallel = nn.parallel.DistributedDataParallel(model)
    opt = sgd(parallel)
    s = RigL(parallel, opt, params=["module.0.weight", "2.weight", "4.weight"], **OPTIONS)
    assert s.model is model and list(s.masks()) == list(a_s.masks())
    train(parallel, opt, s, 1, 9)
    assert_same(a, model)


# --------------------------------------------------------------------------------------------- what gets a mask, notices


class Mixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(10, 8)
        self.position = nn.Parameter(torch.zeros(1, 5, 8))
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.cross = nn.MultiheadAttention(8, 2, kdim=6, vdim=4, batch_first=True)
        self.rnn = nn.GRU(8, 8, batch_first=True)
        self.head = nn.Linear(8, 2)

    def forward(self, x, k, v):
        h = self.embedding(x) + self.position
        h = self.attention(h, h, h)[0]
        h = self.cross(h, k, v)[0]
        return self.head(self.rnn(h)[0][:, -1])


def test_attention_is_masked_and_recurrent_weights_are_named():
    torch.manual_seed(0)
    model = Mixed()
    opt = torch.optim.AdamW(model.parameters())
    with pytest.warns(UserWarning, match=r"no mask on 'rnn.weight_ih_l0', 'rnn.weight_hh_l0'.*params=\[...\]") as caught:
        s = RigL(model, opt, density=0.4, total_steps=20, update_every=2)
    assert len(caught) == 1
    assert set(s.masks()) == {
        "attention.in_proj_weight", "attention.out_proj.weight", "cross.q_proj_weight", "cross.k_proj_weight",
        "cross.v_proj_weight", "cross.out_proj.weight", "head.weight",
    }  # fmt: skip
    x, k, v = torch.randint(10, (3, 5)), torch.randn(3, 7, 6), torch.randn(3, 7, 4)
    for _ in range(6):
        s.step(lambda: model(x, k, v).square())
        assert_masked(model, s)
    s.remove()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        s = RigL(model, opt, params=["rnn.weight_ih_l0", "rnn.weight_hh_l0"], density=0.4, total_steps=20, update_every=2)
        for _ in range(6):
            s.step(lambda: model(x, k, v).square())
            assert_masked(model, s)
    assert s.stats()["size"] == 2 * 24 * 8


def test_computed_weights_are_named():
    model = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)), nn.Linear(4, 2))
    with pytest.warns(UserWarning, match="no mask on '0.weight': not a parameter but computed from others"):
        RigL(model, None, **OPTIONS)


def test_tied_weights_have_one_mask():
    model = nn.Sequential(nn.Embedding(8, 6), nn.Linear(6, 6), nn.Linear(6, 8, bias=False))
    model[2].weight = model[0].weight
    s = RigL(model, sgd(model), **OPTIONS)
    assert list(s.masks()) == ["1.weight", "0.weight"]
    s.remove()
    s = RigL(model, sgd(model), params=["2.weight", "0.weight"], **OPTIONS)
    assert list(s.masks()) == ["0.weight"]


@pytest.mark.parametrize(
    ("arguments", "error", "text"),
    [
        (("not a model", None), TypeError, "model is a str, expected a torch.nn.Module"),
        ((None, None), TypeError, "model is a NoneType"),
        ((network(), 0.1), TypeError, "optimizer is a float, expected a torch.optim.Optimizer"),
        ((network(), network()), TypeError, "optimizer is a Sequential"),
        ((network(), None, {"params": "0.weight"}), TypeError, "params is a str, expected a list"),
        ((network(), None, {"params": [3]}), TypeError, "params holds a int"),
        ((network(), None, {"params": ["0.wieght"]}), ValueError, "'0.wieght', which the model does not have; did you mean '0.weight'"),
        ((network(), None, {"params": []}), ValueError, "no prunable tensor"),
        ((nn.ReLU(), None), ValueError, "no prunable tensor"),
        ((network().requires_grad_(False), None, {"params": ["0.weight"]}), ValueError, "'0.weight', which is frozen"),
        ((network(), None, {"density": "much"}), ValueError, "density"),
        ((network(), None, {"density": None}), TypeError, "density"),
        ((network(), None, {"state": {"sparsity.step": torch.tensor([1, 0])}}), ValueError, "no mask for '0.weight'"),
    ],
)  # fmt: skip
def test_wrong_arguments(arguments, error, text):
    model, optimizer, *more = arguments
    with pytest.raises(error) as caught:
        RigL(model, optimizer, **{**OPTIONS, **(more[0] if more else {})})
    assert text in str(caught.value) and "\n" not in str(caught.value)


def test_a_layer_without_gradient_is_found_at_the_first_step():
    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.extra = nn.Linear(8, 3), nn.Linear(8, 3)

        def forward(self, x):
            return self.used(x)

    model = Unused()
    s = RigL(model, sgd(model), density=0.5, total_steps=1000, update_every=500)
    loss_of(model, 1).backward()
    with pytest.raises(glyptic.ArgumentError, match=r"'extra.weight' got no gradient at the first step.*exclude=\['extra.weight'\]"):
        s.step()
    s.remove()
    s = RigL(model, sgd(model), density=0.5, total_steps=1000, exclude=["extra.weight"])
    s.step()
    s.remove()
    s = SET(model, sgd(model), density=0.5, total_steps=1000)  # grows at random: no harm, but said
    with pytest.warns(UserWarning, match="'extra.weight' got no gradient"):
        s.step()
    with pytest.raises(glyptic.ArgumentError, match="no parameter has a gradient"):
        model.zero_grad()
        s.step()


def test_tensors_that_were_replaced_are_found_at_the_first_step():
    model, opt, s = make()
    model[0].weight = nn.Parameter(torch.randn(32, 8))
    loss_of(model, 1).backward()
    with pytest.raises(glyptic.ArgumentError, match="'0.weight' is another tensor than when the sparsifier was made"):
        s.step()


def test_no_optimizer():
    s = RigL(network(), None, **OPTIONS)
    with pytest.raises(glyptic.ArgumentError, match="needs the optimizer"):
        s.step()
    with pytest.raises(glyptic.ArgumentError, match="needs the optimizer"):
        s.attach()


# ----------------------------------------------------------------------------------------------------- copies and states


def test_ema_is_masked_on_request():
    model, opt, s = make(SET)
    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    for t in range(1, 10):
        train(model, opt, s, t, t)
        average.update_parameters(model)
    name, mask = next(iter(s.masks().items()))
    held = average.module.get_parameter(name).detach().clone()
    assert held[~mask].any()  # what was there once
    snapshot = {k: v.clone() for k, v in average.module.state_dict().items()}
    s.apply_to(average)
    assert_masked(average.module, s)
    assert torch.equal(average.module.get_parameter(name)[mask], held[mask])
    s.apply_to(snapshot)
    assert torch.equal(snapshot[name], average.module.get_parameter(name))
    with pytest.raises(glyptic.ArgumentError, match=r"'0.weight' has a mask of shape \[32, 8\], but the other has it in shape \[4, 8\]"):
        s.apply_to(nn.Sequential(nn.Linear(8, 4)))
    with pytest.raises(glyptic.ArgumentError, match="the other has no such tensor"):
        s.apply_to({})


CHANGED = [
    ({}, {"density": 0.5}, "density = 0.3 (here 0.5)", False),
    ({}, {"total_steps": 50}, "total_steps = 24 (here 50)", True),
    ({}, {"update_every": 4, "drop_fraction": 0.1}, "drop_fraction = 0.3 (here 0.1), update_every = 3 (here 4)", True),
    ({}, {"seed": 1}, "seed = 0 (here 1)", True),
    ({}, {"first_layer_dense": True}, "first_layer_dense", False),
]


@pytest.mark.parametrize(("saved", "here", "text", "overridable"), CHANGED)
def test_state_of_another_run_is_refused_by_what_differs(saved, here, text, overridable):
    model, opt, s = make(**saved)
    train(model, opt, s, 1, 7)
    state, weights = s.state_dict(), copy.deepcopy(model.state_dict())
    s.remove()
    other, other_opt, other_s = make(**here)
    other.load_state_dict(weights)
    before = {n: m.clone() for n, m in other_s.masks().items()}
    with pytest.raises(glyptic.ArgumentError) as caught:
        other_s.load_state_dict(state)
    assert text in str(caught.value) and "\n" not in str(caught.value)
    assert ("strict=False" in str(caught.value)) == overridable
    assert all(torch.equal(m, before[n]) for n, m in other_s.masks().items()) and other_s.stats()["step"] == 0
    if overridable:
        other_s.load_state_dict(state, strict=False)
        assert other_s.stats()["step"] == 7
        assert_masked(other, other_s)
    else:
        with pytest.raises(glyptic.ArgumentError):
            other_s.load_state_dict(state, strict=False)


def test_state_of_another_method_is_refused():
    _, _, s = make(SET)
    state = s.state_dict()
    _, _, other = make(RigL)
    for strict in (True, False):
        with pytest.raises(glyptic.ArgumentError, match=r"of a run with method = set \(here rigl\); make the sparsifier"):
            other.load_state_dict(state, strict=strict)
    with pytest.raises(TypeError, match="not a dictionary of tensors"):
        other.load_state_dict("x.pt")
    with pytest.raises(TypeError, match="not a dictionary of tensors"):
        other.load_state_dict({"model": {}})


def test_weights_lost_to_the_first_masks_are_noticed():
    model, opt, s = make(SET)
    train(model, opt, s, 1, 8)
    weights, state = copy.deepcopy(model.state_dict()), s.state_dict()
    other = network()
    other.load_state_dict(weights)  # too early
    other_s = SET(other, sgd(other), **OPTIONS)
    with pytest.raises(glyptic.ArgumentError, match="its weights are lost; load the model after.*state=state"):
        other_s.load_state_dict(state)
    other.load_state_dict(weights)
    other_s.load_state_dict(state)
    assert_same(model, other)
    third = network()
    third.load_state_dict(weights)
    SET(third, sgd(third), state=state, **OPTIONS)
    assert_same(model, third)


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "torch.save"])
@pytest.mark.parametrize("method", [RigL, Chase])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "glyptic sgd"])
def test_copies_go_on_by_themselves(how, method, optimizer):
    model, opt, s = make(method, SCALED[optimizer])
    train(model, opt, s, 1, 7)
    if how == "deepcopy":
        b, b_opt, b_s = copy.deepcopy((model, opt, s))
    elif how == "pickle":
        b, b_opt, b_s = pickle.loads(pickle.dumps((model, opt, s)))
    else:
        file = io.BytesIO()
        torch.save([model, opt, s], file)
        file.seek(0)
        b, b_opt, b_s = torch.load(file, weights_only=False)
    assert b_s.model is b and b_s.optimizer is b_opt and b is not model and type(b_s) is method
    assert b_s.events() == s.events() and b_s.stats() == s.stats()
    held = copy.deepcopy(b.state_dict())
    train(model, opt, s, 8, 20)
    assert all(torch.equal(held[k], v) for k, v in b.state_dict().items())  # nothing shared
    train(b, b_opt, b_s, 8, 20)
    assert_same(model, b)
    assert b_s.events() == s.events()
    assert_masked(b, b_s)


def test_a_copy_alone_brings_model_and_optimizer():
    model, opt, s = make()
    train(model, opt, s, 1, 7)
    b_s = copy.deepcopy(s)
    assert b_s.model is not model and b_s.optimizer is not opt
    held = {id(p) for g in b_s.optimizer.param_groups for p in g["params"]}
    assert held == {id(p) for p in b_s.model.parameters()}
    train(model, opt, s, 8, 20)
    train(b_s.model, b_s.optimizer, b_s, 8, 20)
    assert_same(model, b_s.model)
    s.attach()
    assert_same(copy.deepcopy(s).model, model)


def test_a_copy_of_a_removed_one_is_removed():
    model, opt, s = make()
    train(model, opt, s, 1, 7)
    s.remove()
    with torch.no_grad():
        model[0].weight.fill_(1.0)
    again = copy.deepcopy(s)
    assert again.model[0].weight.detach().eq(1).all()
    with pytest.raises(glyptic.ArgumentError, match="removed"):
        loss_of(again.model, 1).backward()
        again.step()


def test_state_fits_safetensors(tmp_path):
    model, opt, s = make()
    train(model, opt, s, 1, 7)
    glyptic.save_safetensors(str(tmp_path / "s.safetensors"), list(s.state_dict().items()))
    loaded = dict(glyptic.load_safetensors(str(tmp_path / "s.safetensors"))[0])
    weights = copy.deepcopy(model.state_dict())
    b, b_opt, b_s = make()
    b.load_state_dict(weights)
    b_opt.load_state_dict(copy.deepcopy(opt.state_dict()))  # torch shares the tensors otherwise
    b_s.load_state_dict(loaded)
    train(model, opt, s, 8, 12)
    train(b, b_opt, b_s, 8, 12)
    assert_same(model, b)
