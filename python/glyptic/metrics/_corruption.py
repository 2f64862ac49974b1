"""Error under corruption, as ImageNet-C defines it (arXiv 1903.12261, section 3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from .. import _C

Errors = Mapping[str, float | Sequence[float]]
Baseline = Errors | Literal["alexnet"] | None


def _table(errors: Errors) -> dict[str, list[float]]:
    return {
        name: [float(values)] if isinstance(values, (int, float)) else [float(v) for v in values]
        for name, values in errors.items()
    }


def _baseline(baseline: Baseline) -> dict[str, list[float]]:
    if baseline is None:
        return {}
    if isinstance(baseline, str):
        if baseline != "alexnet":
            raise _C.ArgumentError(f"baseline is {baseline!r}, expected 'alexnet', errors by corruption, or None")
        return _C.alexnet_errors()
    return _table(baseline)


def alexnet_errors() -> dict[str, float]:
    """AlexNet's error on the fifteen corruptions of ImageNet-C, each the mean over five severities.

    >>> alexnet_errors()["fog"]
    0.819324
    """
    return {name: values[0] for name, values in _C.alexnet_errors().items()}


def corruption_error(errors: Errors, baseline: Baseline = "alexnet") -> dict[str, float]:
    """``CE_c``: the errors of each corruption summed over severities, divided by the baseline's.

    Args:
        errors: by corruption, fractions at severities 1, 2, ..., or their mean.
        baseline: ``"alexnet"``, errors in the same form, or ``None`` to divide by 1 (as is usual for CIFAR-C).

    Raises:
        ArgumentError: an error outside [0, 1], a corruption that the baseline lacks, unequal numbers of severities.
    """
    return _C.corruption_error(_table(errors), _baseline(baseline))


def mean_corruption_error(errors: Errors, baseline: Baseline = "alexnet") -> float:
    """mCE: the mean of :func:`corruption_error` over the corruptions that are given. 1 is as bad as the baseline.

    >>> mean_corruption_error(alexnet_errors())
    1.0
    """
    values = list(corruption_error(errors, baseline).values())
    return sum(values) / len(values)


def relative_mean_corruption_error(
    errors: Errors, clean: float, baseline: Errors | None = None, baseline_clean: float = 0.0
) -> float:
    """Relative mCE: the mean over corruptions of ``sum_s (E_s - clean) / sum_s (B_s - baseline_clean)``.

    ``baseline=None`` divides by 1. There is no ready baseline: AlexNet's clean error is not in the table that this
    library has.

    >>> relative_mean_corruption_error({"fog": [0.25, 0.5]}, 0.25, {"fog": [0.75, 0.75]}, 0.5)
    0.5
    """
    table = {} if baseline is None else _table(baseline)
    values = list(_C.relative_corruption_error(_table(errors), clean, table, baseline_clean).values())
    return sum(values) / len(values)


def corruption_summary(errors: Errors, clean: float) -> dict[str, Any]:
    """Means over everything and over families, the loss of accuracy of each corruption, and the worst of them.

    Returns:
        ``mean``, ``families`` (noise, blur, weather, digital, validation), ``drops``, ``worst``, ``worst_error``.
    """
    return _C.summarize_corruptions(_table(errors), clean)
