"""How curved and how sharp a loss is, on any module: eigenvalues of the Hessian, its trace and spectral density, the
sharpness measures of the literature, gradient variance, slices of the loss landscape.

Every function takes a module, a closure and data:

- ``model``: any ``torch.nn.Module``; what requires a gradient is differentiated. It is put into evaluation mode for the
  time of the call (BatchNorm with running statistics, no dropout) and left exactly as it was: weights, buffers, modes,
  ``requires_grad`` and ``.grad``, also when something is thrown. In its place, a list of leaf tensors or of
  ``(name, tensor)`` pairs; modes are then yours to set.
- ``loss(model, batch)``: the mean loss of a batch, a scalar (``loss(batch)`` where tensors were given).
- ``data``: an iterable of batches. It is read once and kept for the call, so that a loader which shuffles or augments
  still is one fixed data set; give the part of the data that the measure is about. Batches count by the number of their
  samples, the length of the first tensor in them, or what ``size(batch)`` says.
- ``masks``: tensors that are true where a weight is active, by parameter name; directions and products are zero elsewhere.

>>> import torch
>>> from glyptic.sharpness import diagnostics
>>> w = torch.zeros(3, requires_grad=True)
>>> curvature = torch.tensor([3.0, -5.0, 1.0])
>>> loss = lambda batch: (curvature * w**2).sum() / 2
>>> top = diagnostics.top_eigenvalues([w], loss, [torch.zeros(1)])
>>> round(top.values[0], 4), top.converged
(3.0, True)
>>> round(diagnostics.top_eigenvalues([w], loss, [torch.zeros(1)], which="LM").values[0], 4)
-5.0
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

import torch

from .. import _C

__all__ = [
    "Eigenvalues",
    "Landscape",
    "Measure",
    "SpectralDensity",
    "Trace",
    "average_case",
    "block_eigenvalues",
    "gradient_variance",
    "hessian_product",
    "hessian_trace",
    "interpolate",
    "keskar",
    "landscape_1d",
    "landscape_2d",
    "load_landscape",
    "m_sharpness",
    "normalized_overfitting_gap",
    "one_step",
    "plot_landscape",
    "plot_spectral_density",
    "probe",
    "spectral_density",
    "top_eigenvalues",
    "worst_case",
]

Model: TypeAlias = "torch.nn.Module | Iterable[torch.Tensor] | Iterable[tuple[str, torch.Tensor]]"
Loss: TypeAlias = Callable[..., torch.Tensor]
Masks: TypeAlias = "Mapping[str, torch.Tensor] | None"
Size: TypeAlias = "Callable[[Any], int] | None"
Named: TypeAlias = dict[str, torch.Tensor]


@dataclasses.dataclass(frozen=True)
class Eigenvalues:
    """Extreme eigenpairs of the Hessian, best first."""

    values: list[float]
    vectors: list[Named]  #: unit vectors, by parameter name
    residuals: list[float]  #: ||H v - lambda v||, from a product with the returned vector
    each_converged: list[bool]
    products: int  #: Hessian-vector products that were made, those for the residuals included
    history: list[float]  #: the first value's estimate after each product

    @property
    def converged(self) -> bool:
        """Whether all met the stopping rule."""
        return all(self.each_converged)


@dataclasses.dataclass(frozen=True)
class Trace:
    """Hutchinson's estimate of the Hessian's trace."""

    mean: float
    standard_error: float
    samples: list[float]
    converged: bool  #: the running mean changed by less than ``tol``; the error to quote is the standard error
    products: int


@dataclasses.dataclass(frozen=True)
class SpectralDensity:
    """The density of the Hessian's eigenvalues, by stochastic Lanczos quadrature."""

    grid: torch.Tensor  #: float64 [points]
    density: torch.Tensor  #: float64 [points]; its integral is 1
    nodes: list[list[float]]  #: of each run
    weights: list[list[float]]  #: of each run; they add up to 1
    sigma: float  #: of the Gaussians that smooth it
    products: int


@dataclasses.dataclass(frozen=True)
class Measure:
    """A sharpness measure: a rise of the loss, in its units, unless the function says otherwise."""

    value: float
    loss: float  #: at the weights, for the batches the measure was taken on
    standard_error: float = 0.0  #: of sampled measures; NaN for one sample


@dataclasses.dataclass(frozen=True)
class Landscape:
    """The loss on a line or a grid in weight space."""

    a: torch.Tensor  #: float64 [A]
    b: torch.Tensor | None  #: float64 [B], None for a line
    loss: torch.Tensor  #: float64 [A] or [A, B]; inf where it was not finite
    center: float  #: the loss at the weights
    cosine: float  #: of the two directions, which are not made orthogonal
    not_finite: int  #: points whose loss was inf or NaN
    settings: dict[str, str]  #: seed and normalisation: slices compare only where these are equal

    def save(self, path: str | Path) -> None:
        """Writes ``.csv`` (settings in comment lines) or ``.safetensors``, whichever the name ends in."""
        _C.save_landscape(
            str(path), self.a.tolist(), [] if self.b is None else self.b.tolist(), self.loss.flatten().tolist(),
            self.center, self.cosine, self.not_finite, self.settings,
        )  # fmt: skip


def _first_length(batch: Any) -> int | None:
    if isinstance(batch, torch.Tensor):
        return len(batch) if batch.dim() > 0 else 1
    if isinstance(batch, Mapping):
        batch = batch.values()
    if isinstance(batch, (list, tuple)) or type(batch).__name__ == "dict_values":
        for part in batch:
            length = _first_length(part)
            if length is not None:
                return length
    return None


def _size_of(batch: Any) -> int:
    length = _first_length(batch)
    if length is None:
        raise _C.ArgumentError(f"a batch of type {type(batch).__name__} has no tensor to count samples by; give size=")
    return length


def _cut(batch: Any, start: int, end: int) -> Any:
    """Samples start to end of every tensor in a batch."""
    if isinstance(batch, torch.Tensor):
        return batch[start:end]
    if isinstance(batch, Mapping):
        return {key: _cut(value, start, end) for key, value in batch.items()}
    if isinstance(batch, (list, tuple)):
        return type(batch)(_cut(part, start, end) for part in batch)
    raise _C.ArgumentError(f"a {type(batch).__name__} in a batch cannot be cut into subsets; give batches of the size m")


def _named(model: Model) -> list[tuple[str, torch.Tensor]]:
    if isinstance(model, torch.nn.Module):
        return list(model.named_parameters())
    named: list[tuple[str, torch.Tensor]] = []
    entries: Iterable[Any] = model
    for i, entry in enumerate(entries):
        name, tensor = (str(i), entry) if isinstance(entry, torch.Tensor) else entry
        if not isinstance(tensor, torch.Tensor) or (tensor.requires_grad and not tensor.is_leaf):
            raise _C.ArgumentError(f"parameter {name} is not a leaf tensor; give a module, its parameters, or (name, tensor) pairs")
        named.append((name, tensor))
    return named


@contextmanager
def _surface(model: Model, loss: Loss, data: Iterable[Any], masks: Masks, size: Size, states: bool = False) -> Iterator[Any]:
    """The loss surface of a module in evaluation mode; all that a forward pass may move is put back at the end."""
    named = _named(model)
    unknown = sorted(set(masks or {}) - {name for name, _ in named})
    if unknown:
        raise _C.ArgumentError(f"masks name '{unknown[0]}', which is no parameter of the model")
    batches = list(data)
    if not batches:
        raise _C.ArgumentError("data has no batches; an iterator that was read before is empty")
    module = model if isinstance(model, torch.nn.Module) else None
    modes = [(m, m.training) for m in module.modules()] if module is not None else []
    buffers = list(module.named_buffers()) if module is not None else []
    saved = [(buffer, buffer.detach().clone()) for _, buffer in buffers]
    call = (lambda i: loss(module, batches[i])) if module is not None else (lambda i: loss(batches[i]))
    try:
        if module is not None:
            module.eval()
        samples = [size(batch) if size else _size_of(batch) for batch in batches]
        surface = _C.LossSurface(
            named, call, samples, [(masks or {}).get(name) for name, _ in named] if masks else [],
            [(n, b) for n, b in buffers if b.is_floating_point()] if states else [],
        )  # fmt: skip
        _refuse_noise(call)
        yield surface
    finally:
        for m, training in modes:
            m.training = training
        with torch.no_grad():
            for buffer, value in saved:
                buffer.copy_(value)


def _refuse_noise(call: Callable[[int], torch.Tensor]) -> None:
    """A loss that draws random numbers is no function of the weights."""
    with torch.no_grad():
        first, second = call(0), call(0)
    if not isinstance(first, torch.Tensor) or first.shape != second.shape:
        return  # which the surface refuses with the reason
    if not torch.allclose(first.double(), second.double(), rtol=1e-4, atol=1e-6, equal_nan=True):
        raise _C.ArgumentError(
            "the loss of the same batch differs between two calls; take dropout, augmentation and whatever else is random "
            "out of the closure (the model is in evaluation mode, but functional dropout does not see that)"
        )


def _eigenvalues(result: dict[str, Any]) -> Eigenvalues:
    return Eigenvalues(
        result["values"], result["vectors"], result["residuals"], result["converged"], result["products"], result["history"]
    )


def hessian_product(
    model: Model,
    loss: Loss,
    data: Iterable[Any],
    vectors: Mapping[str, torch.Tensor] | Sequence[Mapping[str, torch.Tensor]],
    *,
    differences: bool = False,
    step: float = 1e-2,
    masks: Masks = None,
    size: Size = None,
) -> Any:
    """H v by name, for one direction or a list of them (which share the forward and the first backward pass).

    ``differences``: (grad L(w + h v) - grad L(w - h v)) / (2h) with ||h v|| = ``step`` in place of the second backward
    pass; for compiled models and operators without a second derivative.
    """
    single = isinstance(vectors, Mapping)
    rows: list[Any] = [vectors] if single else list(vectors)
    with _surface(model, loss, data, masks, size) as surface:
        names = surface.names()
        for row in rows:
            unknown = sorted(set(row) - set(names))
            if unknown:
                raise _C.ArgumentError(f"the vector names '{unknown[0]}', which is no trainable parameter of the model")
        shapes = dict(_named(model))
        flat = []
        for row in rows:
            for name, tensor in row.items():
                if tensor.shape != shapes[name].shape:
                    raise _C.ArgumentError(f"the vector of '{name}' has shape {list(tensor.shape)}, its weight {list(shapes[name].shape)}")
            flat.append(surface.flatten([row.get(name, torch.zeros_like(shapes[name])) for name in names]))
        out = surface.product(torch.stack(flat), differences, step)
        named = [dict(zip(names, surface.split(row), strict=True)) for row in out]
    return named[0] if single else named


def top_eigenvalues(
    model: Model,
    loss: Loss,
    data: Iterable[Any],
    n: int = 1,
    *,
    which: str = "LA",
    method: str = "auto",
    max_iter: int = 100,
    tol: float = 1e-3,
    stop: str = "residual",
    seed: int = 0,
    differences: bool = False,
    step: float = 1e-2,
    masks: Masks = None,
    size: Size = None,
) -> Eigenvalues:
    """The ``n`` largest eigenvalues of the Hessian of the mean loss over ``data``.

    ``which``: "LA" (largest algebraic, what sharpness means) or "LM" (largest magnitude, negative ones included).
    ``method``: "lanczos" (full re-orthogonalisation; keeps one vector of weights per step), "power" (power iteration with
    deflation; a few vectors) or "auto": Lanczos for LA, power iteration for LM. ``stop``: "residual", when
    ||H v - lambda v|| <= ``tol`` |lambda|, or "change", when two successive values differ by less than ``tol``. After
    ``max_iter`` steps (per eigenvalue, for power iteration) it ends; ``converged`` and ``residuals`` say how.
    """
    with _surface(model, loss, data, masks, size) as surface:
        return _eigenvalues(surface.top_eigenvalues(n, which, method, max_iter, stop, tol, seed, differences, step))


def block_eigenvalues(
    model: Model,
    loss: Loss,
    data: Iterable[Any],
    n: int = 1,
    *,
    names: Sequence[str] = (),
    which: str = "LA",
    method: str = "auto",
    max_iter: int = 100,
    tol: float = 1e-3,
    stop: str = "residual",
    seed: int = 0,
    differences: bool = False,
    step: float = 1e-2,
    masks: Masks = None,
    size: Size = None,
) -> dict[str, Eigenvalues]:
    """The same for the diagonal block of each parameter, the others fixed; of those in ``names``, or of all.

    The largest eigenvalue of a block is at most that of the whole Hessian.

    >>> import torch
    >>> a, b = torch.zeros(1, requires_grad=True), torch.zeros(1, requires_grad=True)
    >>> loss = lambda batch: (1.5 * a**2 + 0.5 * b**2 + a * b).sum()
    >>> blocks = block_eigenvalues([("a", a), ("b", b)], loss, [torch.zeros(1)])
    >>> {name: round(block.values[0], 6) for name, block in blocks.items()}
    {'a': 3.0, 'b': 1.0}
    >>> round(top_eigenvalues([a, b], loss, [torch.zeros(1)]).values[0], 6)
    3.414214
    """
    with _surface(model, loss, data, masks, size) as surface:
        blocks = surface.block_eigenvalues(n, which, method, max_iter, stop, tol, seed, differences, step, list(names))
    return {name: _eigenvalues(block) for name, block in blocks.items()}


def hessian_trace(
    model: Model,
    loss: Loss,
    data: Iterable[Any],
    *,
    max_samples: int = 100,
    tol: float = 1e-3,
    seed: int = 0,
    differences: bool = False,
    step: float = 1e-2,
    masks: Masks = None,
    size: Size = None,
) -> Trace:
    """The trace by Hutchinson's estimator with Rademacher vectors; ``tol=0`` takes all ``max_samples``."""
    with _surface(model, loss, data, masks, size) as surface:
        return Trace(**surface.trace(max_samples, tol, seed, differences, step))


def spectral_density(
    model: Model,
    loss: Loss,
    data: Iterable[Any],
    *,
    runs: int = 1,
    steps: int = 100,
    points: int = 10_000,
    seed: int = 0,
    differences: bool = False,
    step: float = 1e-2,
    masks: Masks = None,
    size: Size = None,
) -> SpectralDensity:
    """The density of eigenvalues from ``runs`` random starts of ``steps`` Lanczos steps each."""
    with _surface(model, loss, data, masks, size) as surface:
        result = surface.spectral_density(runs, steps, points, seed, differences, step)
    for key in ("grid", "density"):
        result[key] = torch.tensor(result[key], dtype=torch.float64)
    return SpectralDensity(**result)


def one_step(model: Model, loss: Loss, data: Iterable[Any], rho: float, *, masks: Masks = None, size: Size = None) -> Measure:
    """L(w + rho g/||g||) - L(w), g the gradient over all data: mostly the gradient's norm where training has not converged."""
    with _surface(model, loss, data, masks, size) as surface:
        return Measure(*surface.measure("one_step", rho))


def m_sharpness(
    model: Model, loss: Loss, data: Iterable[Any], rho: float, m: int | None = None, *, masks: Masks = None, size: Size = None
) -> Measure:
    """:func:`one_step` on each subset of ``m`` samples, averaged; by default the batches as they are.

    With ``m`` the tensors of each batch are cut along dimension 0.
    """
    batches = list(data)
    if m is not None:
        if m < 1:
            raise _C.ArgumentError(f"m_sharpness: m is {m}, expected at least 1")
        count = size or _size_of
        batches = [_cut(batch, i, i + m) for batch in batches for i in range(0, count(batch), m)]
    with _surface(model, loss, batches, masks, size) as surface:
        return Measure(*surface.measure("m_sharpness", rho))


def average_case(
    model: Model,
    loss: Loss,
    data: Iterable[Any],
    sigma: float,
    *,
    draws: int = 20,
    adaptive: bool = False,
    seed: int = 0,
    masks: Masks = None,
    size: Size = None,
) -> Measure:
    """E L(w + delta) - L(w), delta normal with standard deviation ``sigma``, times |w| if ``adaptive``."""
    with _surface(model, loss, data, masks, size) as surface:
        return Measure(*surface.measure("average_case", sigma, draws, adaptive=adaptive, seed=seed))


def worst_case(
    model: Model,
    loss: Loss,
    data: Iterable[Any],
    rho: float,
    *,
    norm: str = "l2",
    adaptive: bool = False,
    n_iter: int = 20,
    restarts: int = 1,
    seed: int = 0,
    masks: Masks = None,
    size: Size = None,
) -> Measure:
    """Mean over batches of the largest L_b(w + delta) - L_b(w) that projected ascent finds in the ball of radius ``rho``.

    ``norm``: "l2" or "linf", of delta, or of delta / |w| if ``adaptive``. ``n_iter`` + 1 gradients per batch and restart, with
    the step sizes of Auto-PGD (arXiv 2003.01690): a lower bound of the true maximum.
    """
    if norm not in ("l2", "linf"):
        raise _C.ArgumentError(f"norm is '{norm}', expected l2 or linf")
    with _surface(model, loss, data, masks, size) as surface:
        return Measure(
            *surface.measure("worst_case", rho, n_iter, linf=norm == "linf", adaptive=adaptive, restarts=restarts, seed=seed)
        )


def keskar(
    model: Model,
    loss: Loss,
    data: Iterable[Any],
    epsilon: float = 1e-3,
    *,
    n_iter: int = 20,
    masks: Masks = None,
    size: Size = None,
) -> Measure:
    """100 (max L - L) / (1 + L), in percent, over |delta_i| <= epsilon (|w_i| + 1), on all data at once (arXiv 1609.04836)."""
    with _surface(model, loss, data, masks, size) as surface:
        return Measure(*surface.measure("keskar", epsilon, n_iter))


def probe(
    model: Model,
    loss: Loss,
    data: Iterable[Any],
    rho: float,
    *,
    draws: int = 20,
    seed: int = 0,
    masks: Masks = None,
    size: Size = None,
) -> Measure:
    """The largest L(w + rho v) - L(w) over ``draws`` random unit directions and the gradient's."""
    with _surface(model, loss, data, masks, size) as surface:
        return Measure(*surface.measure("probe", rho, draws, seed=seed))


def gradient_variance(model: Model, loss: Loss, data: Iterable[Any], *, masks: Masks = None, size: Size = None) -> float:
    """Mean over active weights of the unbiased variance over batches of the gradient."""
    with _surface(model, loss, data, masks, size) as surface:
        return float(surface.gradient_variance())


def normalized_overfitting_gap(train: float, test: float) -> float:
    """|train - test| / test, of two accuracies (arXiv 2510.24919, eq. 1).

    >>> normalized_overfitting_gap(1.0, 0.8)
    0.24999999999999994
    """
    return _C.normalized_overfitting_gap(train, test)


def _landscape(result: dict[str, Any]) -> Landscape:
    def tensor(values: list[float]) -> torch.Tensor:
        return torch.tensor(values, dtype=torch.float64)

    a, b, loss = tensor(result["a"]), tensor(result["b"]) if result["b"] else None, tensor(result["loss"])
    return Landscape(
        a, b, loss if b is None else loss.view(len(a), len(b)), result["center"], result["cosine"], result["not_finite"],
        result["settings"],
    )  # fmt: skip


def _slice(
    model: Model,
    loss: Loss,
    data: Iterable[Any],
    axes: list[tuple[float, float, int]],
    directions: Sequence[Mapping[str, torch.Tensor]] | None,
    seed: int,
    norm: str,
    ignore: str,
    states: bool,
    masks: Masks,
    size: Size,
) -> Landscape:
    if states and not isinstance(model, torch.nn.Module):
        raise _C.ArgumentError("states=True perturbs buffers, which only a module has; give the module")
    with _surface(model, loss, data, masks, size, states) as surface:
        if directions is None:
            return _landscape(surface.random_landscape(axes, seed, norm, ignore, states))
        return _landscape(surface.given_landscape(axes, [list(d.items()) for d in directions]))


def landscape_1d(
    model: Model,
    loss: Loss,
    data: Iterable[Any],
    *,
    low: float = -1.0,
    high: float = 1.0,
    points: int = 51,
    direction: Mapping[str, torch.Tensor] | None = None,
    seed: int = 0,
    norm: str = "filter",
    ignore: str = "biasbn",
    states: bool = False,
    masks: Masks = None,
    size: Size = None,
) -> Landscape:
    """L(w + a d): along a random direction of ``seed``, normalised to the weights, or along a given one.

    ``norm``: "filter" (arXiv 1712.09913), "layer", "weight", "dfilter", "dlayer" or "none". ``ignore``: "biasbn" keeps tensors
    of at most one dimension fixed; with "none" their direction is w itself. ``states`` perturbs buffers too. A given
    ``direction``, such as an eigenvector, is taken as it is; parameters that it does not name stay fixed.
    """
    given = None if direction is None else [direction]
    return _slice(model, loss, data, [(low, high, points)], given, seed, norm, ignore, states, masks, size)


def landscape_2d(
    model: Model,
    loss: Loss,
    data: Iterable[Any],
    *,
    low: float = -1.0,
    high: float = 1.0,
    points: int = 51,
    directions: Sequence[Mapping[str, torch.Tensor]] | None = None,
    seed: int = 0,
    norm: str = "filter",
    ignore: str = "biasbn",
    states: bool = False,
    masks: Masks = None,
    size: Size = None,
) -> Landscape:
    """L(w + a d1 + b d2) on a grid; ``points`` squared passes over the data. The first direction is that of
    :func:`landscape_1d` with the same seed."""
    axes = [(low, high, points)] * 2
    return _slice(model, loss, data, axes, directions, seed, norm, ignore, states, masks, size)


def interpolate(
    model: Model,
    other: torch.nn.Module | Mapping[str, torch.Tensor],
    loss: Loss,
    data: Iterable[Any],
    *,
    low: float = 0.0,
    high: float = 1.0,
    points: int = 51,
    states: bool = False,
    masks: Masks = None,
    size: Size = None,
) -> Landscape:
    """The loss on the line from ``model`` (a = 0) to ``other`` (a = 1), a module or a state dict with the same names.

    ``states`` interpolates floating-point buffers as well, such as BatchNorm's running statistics.
    """
    if states and not isinstance(model, torch.nn.Module):
        raise _C.ArgumentError("states=True interpolates buffers, which only a module has; give the module")
    named = other.state_dict() if isinstance(other, torch.nn.Module) else other
    if isinstance(other, torch.nn.Module):
        named = {**named, **dict(other.named_parameters())}
    with _surface(model, loss, data, masks, size, states) as surface:
        return _landscape(surface.interpolation((low, high, points), [(k, v.detach()) for k, v in named.items()], states))


def load_landscape(path: str | Path) -> Landscape:
    """What :meth:`Landscape.save` wrote as ``.safetensors``."""
    return _landscape(_C.load_landscape(str(path)))


# --- plots


def _axes(ax: Any) -> Any:
    if ax is not None:
        return ax
    try:
        import matplotlib.pyplot as plt
    except ImportError as error:
        raise _C.Error("plots need matplotlib, which is not installed: pip install matplotlib") from error
    return plt.subplots()[1]


def plot_landscape(landscape: Landscape, ax: Any = None, *, clip: float | None = None, levels: int = 30) -> Any:
    """A line, or filled contours. Losses above ``clip`` and those that are not finite are drawn at ``clip``, by default the
    largest finite loss. Returns the matplotlib axes; needs matplotlib."""
    ax = _axes(ax)
    finite = landscape.loss[torch.isfinite(landscape.loss)]
    if not len(finite):
        raise _C.ArgumentError("plot_landscape: no loss of this slice is finite")
    loss = landscape.loss.clamp(max=clip if clip is not None else float(finite.max()))
    where = ", ".join(f"{k} {landscape.settings[k]}" for k in ("norm", "seed") if k in landscape.settings)
    ax.set_title(where or landscape.settings.get("directions", ""))
    ax.set_xlabel("a")
    if landscape.b is None:
        ax.plot(landscape.a.tolist(), loss.tolist())
        ax.set_ylabel("loss")
        return ax
    filled = ax.contourf(landscape.a.tolist(), landscape.b.tolist(), loss.T.tolist(), levels=levels)
    ax.figure.colorbar(filled, ax=ax, label="loss")
    ax.set_ylabel("b")
    return ax


def plot_spectral_density(density: SpectralDensity, ax: Any = None, *, floor: float = 1e-7) -> Any:
    """The density on a logarithmic scale; values below ``floor`` are drawn at it. Returns the matplotlib axes; needs
    matplotlib."""
    ax = _axes(ax)
    ax.semilogy(density.grid.tolist(), density.density.clamp(min=floor).tolist())
    ax.set_xlabel("eigenvalue")
    ax.set_ylabel("density")
    return ax
