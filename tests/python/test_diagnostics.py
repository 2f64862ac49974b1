"""Curvature, sharpness measures and landscapes beside torch's own dense Hessians, on users' modules."""

import copy
import pathlib
import re
import sys

import glyptic
import pytest
import torch
import torch.nn.functional as F
from glyptic.sharpness import diagnostics
from torch import nn

DOCS = pathlib.Path(__file__).resolve().parents[2] / "docs"


class ConvNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3, bias=False)
        self.bn = nn.BatchNorm2d(3)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(3, 3)

    def forward(self, x):
        return self.head(self.drop(torch.tanh(self.bn(self.conv(x))).mean((2, 3))))


def cross_entropy(model, batch):
    return F.cross_entropy(model(batch[0]), batch[1])


def make(dtype=torch.float64):
    torch.manual_seed(0)
    model = ConvNet().to(dtype)
    x, y = torch.randn(14, 1, 6, 6, dtype=torch.float64).to(dtype), torch.arange(14) % 3
    model(x * 2 + 1)  # moves the running statistics
    return model, [(x[:8], y[:8]), (x[8:], y[8:])]


def dense_hessian(model, data):
    """By torch, of the loss on all data at once, in evaluation mode."""
    model = copy.deepcopy(model).eval()
    names = [n for n, p in model.named_parameters() if p.requires_grad]
    shapes = [model.get_parameter(n).shape for n in names]
    x, y = torch.cat([b[0] for b in data]), torch.cat([b[1] for b in data])

    def loss(flat):
        parts = flat.split([s.numel() for s in shapes])
        return F.cross_entropy(
            torch.func.functional_call(model, {n: p.view(s) for n, p, s in zip(names, parts, shapes)}, x), y
        )

    flat = torch.cat([model.get_parameter(n).detach().flatten() for n in names])
    return torch.autograd.functional.hessian(loss, flat)


def flat(named):
    return torch.cat([t.flatten() for t in named.values()])


def snapshot(model):
    return (
        {k: v.clone() for k, v in model.state_dict().items()},
        [m.training for m in model.modules()],
        [p.grad for p in model.parameters()],
        [p.data_ptr() for p in model.parameters()],
    )


def assert_same(before, model):
    after = snapshot(model)
    assert all(torch.equal(after[0][k], v) for k, v in before[0].items())
    assert after[1:] == before[1:]


def test_eigenvalues_trace_and_products_of_a_conv_net_with_batch_norm_and_dropout():
    model, data = make()
    before = snapshot(model)
    h = dense_hessian(model, data)
    exact = torch.linalg.eigvalsh(h)
    top = diagnostics.top_eigenvalues(model, cross_entropy, iter(data), 3, tol=1e-8)
    assert top.converged and max(top.residuals) < 1e-7
    torch.testing.assert_close(torch.tensor(top.values, dtype=torch.float64), exact.flip(0)[:3], rtol=1e-10, atol=1e-10)
    v = flat(top.vectors[0])
    torch.testing.assert_close(h @ v, top.values[0] * v, rtol=0, atol=1e-7)
    assert list(top.vectors[0]) == [n for n, _ in model.named_parameters()]
    assert top.vectors[0]["conv.weight"].shape == model.conv.weight.shape
    largest = exact[exact.abs().argmax()].item()
    lm = diagnostics.top_eigenvalues(model, cross_entropy, data, which="LM", method="lanczos", tol=1e-8)
    assert lm.values[0] == pytest.approx(largest, rel=1e-10)

    vectors = [{n: torch.randn_like(p) for n, p in model.named_parameters()} for _ in range(2)]
    for got, v in zip(diagnostics.hessian_product(model, cross_entropy, data, vectors), vectors, strict=True):
        torch.testing.assert_close(flat(got), h @ flat(v), rtol=1e-10, atol=1e-12)
    one = diagnostics.hessian_product(model, cross_entropy, data, {"head.bias": torch.ones(3)}, differences=True)
    # O(h^2) of a reach of 1e-2
    torch.testing.assert_close(flat(one), h[:, -3:].sum(1), rtol=1e-3, atol=1e-5)

    trace = diagnostics.hessian_trace(model, cross_entropy, data, tol=0, max_samples=200)
    assert len(trace.samples) == trace.products == 200
    assert abs(trace.mean - h.trace().item()) < 4 * trace.standard_error

    blocks = diagnostics.block_eigenvalues(model, cross_entropy, data, names=["conv.weight", "head.bias"], tol=1e-8)
    assert list(blocks) == ["conv.weight", "head.bias"]
    assert blocks["conv.weight"].values[0] == pytest.approx(torch.linalg.eigvalsh(h[:27, :27])[-1].item(), rel=1e-9)
    assert blocks["head.bias"].values[0] == pytest.approx(torch.linalg.eigvalsh(h[-3:, -3:])[-1].item(), rel=1e-9)
    assert_same(before, model)


def test_masks_and_frozen_parameters():
    model, data = make()
    h = dense_hessian(model, data)
    mask = torch.arange(27).view(3, 1, 3, 3) % 2 == 0
    keep = torch.cat([mask.flatten(), torch.ones(len(h) - 27, dtype=torch.bool)])
    top = diagnostics.top_eigenvalues(model, cross_entropy, data, masks={"conv.weight": mask}, tol=1e-8)
    assert top.values[0] == pytest.approx(torch.linalg.eigvalsh(h[keep][:, keep])[-1].item(), rel=1e-9)
    assert not top.vectors[0]["conv.weight"][~mask].any()
    line = diagnostics.landscape_1d(model, cross_entropy, data, points=3, masks={"conv.weight": mask})
    assert line.loss[1] == line.center
    with pytest.raises(glyptic.ArgumentError, match="conv.wight"):
        diagnostics.top_eigenvalues(model, cross_entropy, data, masks={"conv.wight": mask})

    model.conv.weight.requires_grad_(False)
    top = diagnostics.top_eigenvalues(model, cross_entropy, data, tol=1e-8)
    assert top.values[0] == pytest.approx(torch.linalg.eigvalsh(h[27:, 27:])[-1].item(), rel=1e-9)
    assert "conv.weight" not in top.vectors[0] and not model.conv.weight.requires_grad
    for p in model.parameters():
        p.requires_grad_(False)
    with pytest.raises(glyptic.ArgumentError, match="requires a gradient"):
        diagnostics.top_eigenvalues(model, cross_entropy, data)


def test_float32_and_differences_agree_with_float64():
    model, data = make()
    exact = diagnostics.top_eigenvalues(model, cross_entropy, data).values[0]
    model, data = make(torch.float32)
    # 1e-5: rounding of float32 products; 1e-3: differences over 1e-2 of third derivatives of order 1
    assert diagnostics.top_eigenvalues(model, cross_entropy, data).values[0] == pytest.approx(exact, rel=1e-5)
    assert diagnostics.top_eigenvalues(model, cross_entropy, data, differences=True).values[0] == pytest.approx(exact, rel=1e-3)


def test_largest_algebraic_and_magnitude():
    w = torch.zeros(3, requires_grad=True)
    loss = lambda _: (torch.tensor([3.0, -5.0, 1.0]) * w**2).sum() / 2
    for which, value in (("LA", 3), ("LM", -5)):
        for method in ("lanczos", "power"):
            top = diagnostics.top_eigenvalues([w], loss, [torch.zeros(1)], which=which, method=method, max_iter=200)
            assert top.values[0] == pytest.approx(value, rel=1e-5) and top.converged
    assert w.grad is None


def test_spectral_density():
    model, data = make()
    exact = torch.linalg.eigvalsh(dense_hessian(model, data))
    density = diagnostics.spectral_density(model, cross_entropy, data, runs=2, points=2000)
    assert torch.trapezoid(density.density, density.grid).item() == pytest.approx(1)
    assert density.nodes[0][-1] == pytest.approx(exact[-1].item(), rel=1e-8)
    assert len(density.grid) == 2000 and density.density.min() >= 0


@torch.no_grad()
def at(model, data, offset):
    """The mean loss of a moved copy in evaluation mode."""
    model = copy.deepcopy(model).eval()
    for n, p in model.named_parameters():
        p += offset.get(n, 0)
    return sum(len(x) * F.cross_entropy(model(x), y).item() for x, y in data) / sum(len(x) for x, _ in data)


def test_measures():
    model, data = make()
    before = snapshot(model)
    args = (model, cross_entropy, data)
    base = at(model, data, {})
    twin = copy.deepcopy(model).eval()
    loss = sum(len(b[0]) * cross_entropy(twin, b) for b in data) / 14
    g = dict(zip((n for n, _ in twin.named_parameters()), torch.autograd.grad(loss, list(twin.parameters())), strict=True))
    norm = flat(g).norm()
    rho = 0.1
    along = at(model, data, {n: rho * t / norm for n, t in g.items()}) - base
    one = diagnostics.one_step(*args, rho)
    assert one.value == pytest.approx(along, rel=1e-9) and one.loss == pytest.approx(base)
    assert diagnostics.probe(*args, rho).value >= one.value
    worst = diagnostics.worst_case(*args, rho)
    assert worst.value >= diagnostics.m_sharpness(*args, rho).value >= one.value * (1 - 1e-9)
    assert diagnostics.worst_case(*args, rho, norm="linf").value > worst.value  # the larger ball
    assert diagnostics.worst_case(*args, rho, adaptive=True, restarts=2).value > 0
    assert diagnostics.keskar(*args, 1e-3).value > 0
    plain = diagnostics.average_case(*args, 0.05, draws=400)
    assert abs(plain.value - 0.05**2 / 2 * dense_hessian(model, data).trace().item()) < 4 * plain.standard_error + 1e-4
    assert diagnostics.average_case(*args, 0.05, adaptive=True).value != plain.value

    grads = []
    for b in data:
        grads.append(torch.cat([t.flatten() for t in torch.autograd.grad(cross_entropy(twin, b), list(twin.parameters()))]))
    assert diagnostics.gradient_variance(*args) == pytest.approx(torch.stack(grads).var(0).mean().item())

    # Subsets of one sample each are those of batches of one.
    single = [(x[i : i + 1], y[i : i + 1]) for x, y in data for i in range(len(x))]
    by_cutting = diagnostics.m_sharpness(*args, rho, m=1).value
    assert by_cutting == pytest.approx(diagnostics.m_sharpness(model, cross_entropy, single, rho).value, rel=1e-12)
    as_dict = [{"x": x, "y": y} for x, y in data]
    assert by_cutting == pytest.approx(
        diagnostics.m_sharpness(model, lambda m, b: F.cross_entropy(m(b["x"]), b["y"]), as_dict, rho, m=1).value, rel=1e-12
    )
    assert_same(before, model)


def test_landscapes_and_interpolation(tmp_path):
    model, data = make()
    before = snapshot(model)
    grid = diagnostics.landscape_2d(model, cross_entropy, data, points=3, seed=4)
    line = diagnostics.landscape_1d(model, cross_entropy, data, points=3, seed=4)
    assert grid.loss.shape == (3, 3) and torch.equal(grid.loss[:, 1], line.loss) and line.b is None
    assert grid.center == grid.loss[1, 1].item() == pytest.approx(at(model, data, {}))
    assert abs(grid.cosine) < 1 and grid.settings["norm"] == "filter" and grid.settings["seed"] == "4"
    assert not torch.equal(line.loss, diagnostics.landscape_1d(model, cross_entropy, data, points=3, seed=5).loss)
    assert not torch.equal(line.loss, diagnostics.landscape_1d(model, cross_entropy, data, points=3, seed=4, norm="layer").loss)

    # Along the top eigenvector the loss bends by the eigenvalue.
    top = diagnostics.top_eigenvalues(model, cross_entropy, data, tol=1e-8)
    bent = diagnostics.landscape_1d(model, cross_entropy, data, low=-1e-3, high=1e-3, points=3, direction=top.vectors[0]).loss
    assert ((bent[0] - 2 * bent[1] + bent[2]) / 1e-6).item() == pytest.approx(top.values[0], rel=1e-4)

    other = ConvNet().double()
    other(data[0][0] * 3)
    joined = diagnostics.interpolate(model, other, cross_entropy, data, points=3)
    with_states = diagnostics.interpolate(model, other.state_dict(), cross_entropy, data, points=3, states=True)
    assert with_states.loss[2].item() == pytest.approx(at(other, data, {}), rel=1e-10)
    assert joined.loss[0] == line.center and joined.loss[2] != with_states.loss[2]
    assert_same(before, model)
    with_states = diagnostics.landscape_1d(model, cross_entropy, data, points=3, ignore="none", states=True)
    assert with_states.loss[1] == line.center
    assert_same(before, model)

    grid.save(tmp_path / "grid.safetensors")
    back = diagnostics.load_landscape(tmp_path / "grid.safetensors")
    assert torch.equal(back.loss, grid.loss) and torch.equal(back.a, grid.a) and back.settings == grid.settings
    grid.save(tmp_path / "grid.csv")
    rows = [r for r in (tmp_path / "grid.csv").read_text().splitlines() if not r.startswith("#")]
    assert rows[0] == "a,b,loss" and len(rows) == 10
    assert float(rows[1].split(",")[2]) == grid.loss[0, 0].item()


def test_plots(tmp_path, monkeypatch):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    model, data = make()
    grid = diagnostics.landscape_2d(model, cross_entropy, data, points=3)
    grid.loss[0, 0] = torch.inf
    ax = diagnostics.plot_landscape(grid)
    assert "filter" in ax.get_title()
    ax.figure.savefig(tmp_path / "grid.png")
    assert len(diagnostics.plot_landscape(diagnostics.landscape_1d(model, cross_entropy, data, points=3)).lines) == 1
    assert len(diagnostics.plot_spectral_density(diagnostics.spectral_density(model, cross_entropy, data, points=50)).lines) == 1
    matplotlib.pyplot.close("all")
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)
    with pytest.raises(glyptic.Error, match="pip install matplotlib"):
        diagnostics.plot_landscape(grid)


class Broken(Exception):
    pass


@pytest.mark.parametrize("fail_at", [1, 3, 6])
def test_an_exception_leaves_the_model_as_it_was(fail_at):
    model, data = make()
    model.bn.eval()  # mixed modes come back too
    before = snapshot(model)

    def breaking():
        calls = 0

        def loss(m, batch):
            nonlocal calls
            calls += 1
            assert not m.training
            if calls > fail_at:
                raise Broken
            return cross_entropy(m, batch)

        return loss

    for call in (
        lambda loss: diagnostics.top_eigenvalues(model, loss, data, differences=True),
        lambda loss: diagnostics.worst_case(model, loss, data, 0.5),
        lambda loss: diagnostics.average_case(model, loss, data, 0.5),
        lambda loss: diagnostics.landscape_2d(model, loss, data, points=3),
        lambda loss: diagnostics.interpolate(model, ConvNet().double(), loss, data, states=True),
    ):
        with pytest.raises(Broken):
            call(breaking())
        assert_same(before, model)


def test_bad_input():
    model, data = make()
    with pytest.raises(glyptic.ArgumentError, match="differs between two calls"):
        diagnostics.one_step(model, lambda m, b: F.cross_entropy(F.dropout(m(b[0])), b[1]), data, 0.1)
    with pytest.raises(glyptic.ArgumentError, match="no batches"):
        diagnostics.one_step(model, cross_entropy, iter([]), 0.1)
    with pytest.raises(glyptic.ArgumentError, match="returned a NoneType"):
        diagnostics.one_step(model, lambda m, b: None, data, 0.1)
    with pytest.raises(glyptic.ArgumentError, match="returned a float"):
        diagnostics.one_step(model, lambda m, b: 1.0, data, 0.1)
    with pytest.raises(glyptic.ArgumentError, match="one number"):
        diagnostics.one_step(model, lambda m, b: m(b[0]), data, 0.1)
    with pytest.raises(glyptic.ArgumentError, match="does not depend"):
        diagnostics.one_step(model, lambda m, b: cross_entropy(m, b).detach(), data, 0.1)
    with pytest.raises(glyptic.ArgumentError, match="give size="):
        diagnostics.one_step(model, lambda m, b: cross_entropy(m, data[0]), ["a", "b"], 0.1)
    diagnostics.one_step(model, lambda m, b: cross_entropy(m, data[0]), ["a", "b"], 0.1, size=len)
    with pytest.raises(glyptic.ArgumentError, match="l1"):
        diagnostics.worst_case(model, cross_entropy, data, 0.1, norm="l1")
    with pytest.raises(glyptic.ArgumentError, match="rho is -1"):
        diagnostics.one_step(model, cross_entropy, data, -1)
    with pytest.raises(glyptic.ArgumentError, match="m is 0"):
        diagnostics.m_sharpness(model, cross_entropy, data, 0.1, m=0)
    with pytest.raises(glyptic.ArgumentError, match="n is 100000"):
        diagnostics.top_eigenvalues(model, cross_entropy, data, 100_000)
    with pytest.raises(glyptic.ArgumentError, match="SA"):
        diagnostics.top_eigenvalues(model, cross_entropy, data, which="SA")
    with pytest.raises(glyptic.ArgumentError, match="leaf"):
        diagnostics.top_eigenvalues([model.head.weight * 2], lambda b: b, data)
    with pytest.raises(glyptic.ArgumentError, match="conv.wight"):
        diagnostics.hessian_product(model, cross_entropy, data, {"conv.wight": torch.ones(1)})
    with pytest.raises(glyptic.ArgumentError, match="has shape"):
        diagnostics.hessian_product(model, cross_entropy, data, {"conv.weight": torch.ones(1)})
    with pytest.raises(glyptic.ArgumentError, match="ignore is 'bn'"):
        diagnostics.landscape_1d(model, cross_entropy, data, ignore="bn")
    with pytest.raises(glyptic.ArgumentError, match="did you mean 'filter'"):
        diagnostics.landscape_1d(model, cross_entropy, data, norm="filtre")
    with pytest.raises(glyptic.ArgumentError, match="bn.weight"):
        diagnostics.interpolate(model, {"conv.weight": model.conv.weight}, cross_entropy, data)
    with torch.no_grad():  # the caller's mode does not matter
        assert diagnostics.one_step(model, cross_entropy, data, 0.1).value > 0


def test_attention_without_a_second_derivative_takes_differences():
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    x = torch.randn(4, 5, 8)
    loss = lambda m, b: m(b).square().mean()
    try:
        exact = diagnostics.top_eigenvalues(layer, loss, [x]).values[0]
    except glyptic.ArgumentError as error:
        assert "differences" in str(error)
        with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
            exact = diagnostics.top_eigenvalues(layer, loss, [x]).values[0]
    assert diagnostics.top_eigenvalues(layer, loss, [x], differences=True).values[0] == pytest.approx(exact, rel=1e-2)


SNIPPETS = re.findall(r"```python\n(.*?)```", (DOCS / "sharpness-diagnostics.md").read_text(), re.S)


@pytest.mark.parametrize("index", range(len(SNIPPETS)))
def test_snippet(index, tmp_path, monkeypatch):
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("Agg")
    monkeypatch.chdir(tmp_path)
    model, data = make(torch.float32)
    other = ConvNet()
    given = {
        "torch": torch, "F": F, "glyptic": glyptic, "diagnostics": diagnostics, "model": model, "data": data,
        "other": other, "loss": cross_entropy, "masks": {"conv.weight": torch.ones_like(model.conv.weight, dtype=torch.bool)},
    }  # fmt: skip
    exec(compile(SNIPPETS[index], f"sharpness-diagnostics.md, snippet {index + 1}", "exec"), given)
    matplotlib.pyplot.close("all")


def test_the_page_has_its_snippets():
    assert len(SNIPPETS) >= 5
