"""The three lines on a user's own module, with torch's own optimizers."""

import copy

import glyptic
import pytest
import torch
from torch import nn

METHODS = {
    "Static": glyptic.sparsity.Static,
    "GMP": glyptic.sparsity.GMP,
    "SET": glyptic.sparsity.SET,
    "RigL": glyptic.sparsity.RigL,
    "GraNet": glyptic.sparsity.GraNet,
    "Chase": glyptic.sparsity.Chase,
}
OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, weight_decay=1e-3),
    "nesterov": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2, amsgrad=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-3, momentum=0.5),
    "adagrad": lambda p: torch.optim.Adagrad(p, lr=1e-2),
}


class Residual(nn.Module):
    """Somebody's network: their names, their layout."""

    def __init__(self, width=8):
        super().__init__()
        self.stem = nn.Conv2d(1, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.a = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.bn_a = nn.BatchNorm2d(2 * width)
        self.b = nn.Conv2d(2 * width, width, 3, padding=1)
        self.head = nn.Sequential(nn.Flatten(), nn.Linear(width * 16, 24), nn.ReLU(), nn.Linear(24, 3))

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(x)))
        x = x + self.b(torch.relu(self.bn_a(self.a(x))))
        return self.head(nn.functional.max_pool2d(x, 2))


def loss_of(model, t):
    generator = torch.Generator().manual_seed(t)
    x = torch.randn(6, 1, 8, 8, generator=generator)
    return nn.functional.cross_entropy(model(x), torch.arange(6) % 3)


def train(model, optimizer, s, first, last):
    for t in range(first, last + 1):
        optimizer.zero_grad()
        loss_of(model, t).backward()
        s.step()


def make(method, optimizer="sgd", total=24, **options):
    torch.manual_seed(3)
    model = Residual()
    opt = OPTIMIZERS[optimizer](model.parameters())
    options = {"update_every": 4, "density": 0.3, **options}
    return model, opt, METHODS[method](model, opt, total_steps=total, **options)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("method", METHODS)
def test_weights_and_state_follow_the_masks(method, optimizer):
    model, opt, s = make(method, optimizer)
    for t in range(1, 25):
        train(model, opt, s, t, t)
        for name, mask in s.masks().items():
            p = model.get_parameter(name)
            assert not p[~mask].any(), name
            for value in opt.state[p].values():
                if isinstance(value, torch.Tensor) and value.shape == p.shape:
                    assert not value[~mask].any(), name
    size = s.stats()["size"]
    assert s.stats()["active"] == round(0.3 * size)


@pytest.mark.parametrize("method", METHODS)
def test_masking_after_the_step_equals_a_masked_gradient(method):
    """For elementwise optimizers; between events, where masks stand still."""
    model, opt, s = make(method, "adamw", update_every=1000)
    twin = copy.deepcopy(model)
    twin_opt = OPTIMIZERS["adamw"](twin.parameters())
    masks = {n: m.clone() for n, m in s.masks().items()}
    for t in range(1, 6):
        train(model, opt, s, t, t)
        twin_opt.zero_grad()
        loss_of(twin, t).backward()
        for name, mask in masks.items():
            twin.get_parameter(name).grad *= mask
        twin_opt.step()
        with torch.no_grad():
            for name, mask in masks.items():
                twin.get_parameter(name).mul_(mask)
    if method != "Chase":  # whose channel removal is an event of its own
        for (name, a), b in zip(model.named_parameters(), twin.parameters(), strict=True):
            assert torch.equal(a, b), name


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("method", METHODS)
def test_resume_in_the_middle(method, optimizer, tmp_path):
    model, opt, s = make(method, optimizer)
    train(model, opt, s, 1, 24)
    for cut in (3, 8, 14):
        half, half_opt, half_s = make(method, optimizer)
        train(half, half_opt, half_s, 1, cut)
        torch.save({"model": half.state_dict(), "opt": half_opt.state_dict(), "s": half_s.state_dict()}, tmp_path / "x.pt")
        half_s.remove()
        saved = torch.load(tmp_path / "x.pt", weights_only=True)
        other = Residual()
        other_opt = OPTIMIZERS[optimizer](other.parameters())
        other_s = METHODS[method](other, other_opt, density=0.3, total_steps=24, update_every=4)
        other.load_state_dict(saved["model"])
        other_opt.load_state_dict(saved["opt"])
        other_s.load_state_dict(saved["s"])
        train(other, other_opt, other_s, cut + 1, 24)
        for (name, a), b in zip(model.named_parameters(), other.parameters(), strict=True):
            assert torch.equal(a, b), f"{name}, cut at {cut}"
        other_s.remove()


def test_density_one_is_dense_training():
    torch.manual_seed(3)
    dense = Residual()
    dense_opt = OPTIMIZERS["sgd"](dense.parameters())
    for t in range(1, 13):
        dense_opt.zero_grad()
        loss_of(dense, t).backward()
        dense_opt.step()
    for method in METHODS:
        extra = {"Chase": {"channel_sparsity": 0.0}, "GraNet": {"initial_sparsity": 0.0}}.get(method, {})
        model, opt, s = make(method, density=1.0, **extra)
        train(model, opt, s, 1, 12)
        for a, b in zip(model.parameters(), dense.parameters(), strict=True):
            assert torch.equal(a, b), method


def test_closure_equals_backward_by_hand():
    a, a_opt, a_s = make("RigL")
    b, _, b_s = make("RigL")
    for t in range(1, 13):
        train(a, a_opt, a_s, t, t)
        loss = b_s.step(lambda t=t: loss_of(b, t))
        assert loss is not None and loss.ndim == 0
    for p, q in zip(a.parameters(), b.parameters(), strict=True):
        assert torch.equal(p, q)


def test_chase_then_extract_then_train_on():
    model, opt, s = make("Chase", total=40, density=0.4)
    train(model, opt, s, 1, 40)
    stats = s.stats()
    assert stats["live_channels"] == stats["channels"] // 2
    result = glyptic.sparsity.extract(model, s, opt)
    assert result.max_difference <= 1e-5  # float32, sums in another order
    small = result.model
    assert type(small) is Residual
    assert sum(p.numel() for p in small.parameters()) < sum(p.numel() for p in model.parameters())
    assert small.a.out_channels == small.b.in_channels == small.bn_a.num_features < 16
    # Momentum came along.
    for (name, p), (_, q) in zip(small.named_parameters(), model.named_parameters(), strict=True):
        expected = result.plan.apply(name, opt.state[q]["momentum_buffer"])
        assert torch.equal(result.optimizer.state[p]["momentum_buffer"], expected), name
    loss_of(small, 1).backward()
    result.optimizer.step()
    # Widened again it is the masked network.
    for name, p in result.model.named_parameters():
        assert result.plan.expand(name, p.detach()).shape == model.get_parameter(name).shape
    # Twice is once.
    again = glyptic.sparsity.extract(result.model).model
    assert [p.shape for p in again.parameters()] == [p.shape for p in small.parameters()]


def test_networks_with_normalisation_are_masked_in_convolutions_and_linear_layers_only():
    model = glyptic.nn.build("vgg_small", width=0.125, input_shape=(1, 12, 12))
    s = glyptic.sparsity.RigL(model, torch.optim.SGD(model.parameters(), lr=0.1), density=0.3, total_steps=10)
    assert list(s.masks()) == [*(f"conv{i}.weight" for i in range(1, 7)), "fc.weight"]


def test_plan_is_data():
    model, opt, s = make("Chase", total=24)
    train(model, opt, s, 1, 24)
    plan = glyptic.sparsity.extract(model, s).plan
    from glyptic._C import ExtractionPlan

    again = ExtractionPlan.from_json(plan.to_json())
    for name, p in model.named_parameters():
        assert torch.equal(again.apply(name, p.detach()), plan.apply(name, p.detach()))


@pytest.mark.parametrize(
    ("change", "error", "text"),
    [
        ({"density": 0}, glyptic.ConfigError, "density"),
        ({"density": 1.5}, glyptic.ConfigError, "(0, 1]"),
        ({"densty": 0.1}, glyptic.ConfigError, "did you mean 'density'"),
        ({"drop_fraction": "a lot"}, glyptic.ConfigError, "expected float"),
        ({"total_steps": 0}, glyptic.ArgumentError, "total_steps"),
        ({"exclude": ["haed.*"]}, glyptic.ArgumentError, "haed.*"),
        ({"custom_density": {"nope": 0.5}}, glyptic.ArgumentError, "nope"),
        ({"params": ["a.bias"]}, glyptic.ArgumentError, "two or more dimensions"),
    ],
)
def test_bad_keywords(change, error, text):
    model = Residual()
    opt = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(error) as caught:
        glyptic.sparsity.RigL(model, opt, **{"density": 0.1, "total_steps": 10, **change})
    assert text in str(caught.value)
    assert isinstance(caught.value, ValueError)
    assert "\n" not in str(caught.value)


def test_one_model_one_sparsifier():
    model, opt, s = make("RigL")
    with pytest.raises(ValueError, match="already controlled"):
        glyptic.sparsity.SET(model, opt, density=0.1, total_steps=10)
    s.remove()
    glyptic.sparsity.SET(model, opt, density=0.1, total_steps=10).remove()
    with pytest.raises(ValueError, match="removed"):
        s.step()


def test_optimizer_of_another_model_is_refused():
    with pytest.raises(ValueError, match="does not hold"):
        glyptic.sparsity.RigL(Residual(), torch.optim.SGD(Residual().parameters(), lr=0.1), density=0.1, total_steps=10)


def test_growth_without_gradient_is_refused():
    model, opt, s = make("RigL", update_every=1)
    with pytest.raises(ValueError, match="call backward"):
        s.step()


def test_nan_gradient_is_named():
    model, opt, s = make("RigL", update_every=1)
    loss_of(model, 1).backward()
    model.a.weight.grad[0, 0, 0, 0] = float("nan")
    with pytest.raises(ArithmeticError, match="'a.weight' is not finite"):
        s.step()


def test_errors_derive_from_the_usual_ones():
    assert issubclass(glyptic.MissingFileError, FileNotFoundError)
    assert issubclass(glyptic.DataError, ValueError)
    with pytest.raises(FileNotFoundError):
        glyptic.load_safetensors("/nowhere/at/all.safetensors")


def test_prune_and_grow_keeps_state_of_regrown():
    w = torch.tensor([[0.9, -0.05, 0.4, 0.3, -0.2, 0, 0, 0, 0, 0]])
    g = torch.tensor([[0.1, 0.8, 0.2, 0, 0.05, -0.7, 0.9, 0.1, 0, -0.3]])
    v = torch.tensor([[1.0, 2, 3, 4, 5, 0, 0, 0, 0, 0]])
    m = w != 0
    glyptic.sparsity.prune_and_grow(w, m, g, 2, [v])
    assert v.tolist() == [[1, 2, 3, 4, 0, 0, 0, 0, 0, 0]]
    assert w[0, 1] == pytest.approx(-0.05)


def test_extraction_leaves_each_modules_mode_alone():
    model = Residual().train()
    model.norm.eval()
    small = glyptic.sparsity.extract(model).model
    assert model.training and not model.norm.training and model.bn_a.training
    assert small.training and not small.norm.training and small.bn_a.training


class _Block(torch.nn.Module):
    """Attention, a gated feed-forward and a recurrent head: nothing here has a layer rule."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = torch.nn.MultiheadAttention(8, 2, batch_first=True)
        self.up, self.down = torch.nn.Linear(8, 32), torch.nn.Linear(32, 8)
        self.gru = torch.nn.GRU(8, 6, batch_first=True)
        self.head = torch.nn.Linear(6, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(x, x, x, need_weights=False)[0]
        x = x + self.down(torch.nn.functional.gelu(self.up(x)))
        return self.head(self.gru(x)[0][:, -1])


def test_chase_and_extract_on_a_module_without_layer_rules() -> None:
    torch.manual_seed(0)
    model, x = _Block(), torch.randn(16, 5, 8)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    with pytest.raises(glyptic.ArgumentError, match="example_input="):
        glyptic.sparsity.Chase(model, optimizer, density=0.3, total_steps=20)
    s = glyptic.sparsity.Chase(
        model, optimizer, density=0.3, channel_sparsity=0.5, total_steps=20, update_every=4, example_input=x
    )
    assert [(name, alive.numel()) for name, alive in s.liveness().items()] == [("up.weight", 32)]
    for _ in range(20):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), torch.arange(16) % 3).backward()
        s.step()
    assert s.stats()["live_channels"] == 16
    extraction = glyptic.sparsity.extract(model, s, optimizer, example_input=x)
    small = extraction.model
    assert type(small) is _Block and small.up.out_features == 16 and small.down.in_features == 16
    assert extraction.max_difference <= 1e-5
    assert extraction.optimizer is not None
    moments = extraction.optimizer.state[small.up.weight]["exp_avg"]
    alive = s.liveness()["up.weight"]
    assert torch.equal(moments, optimizer.state[model.up.weight]["exp_avg"][alive])
    torch.nn.functional.cross_entropy(small(x), torch.arange(16) % 3).backward()
    extraction.optimizer.step()
    # Without the sparsifier the zeros speak for themselves.
    again = glyptic.sparsity.extract(model, example_input=x)
    assert again.model.up.out_features <= 16
