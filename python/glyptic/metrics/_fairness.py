"""Group fairness, with fairlearn's names, and how unequally groups lose by corruption."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch

from .. import _C
from ..data import corrupt

Method = Literal["between_groups", "to_overall"]
Agg = Literal["worst_case", "mean"]
Undefined = Literal["nan", "zero", "error"]
BaseMetric = Literal["accuracy", "true_positive_rate", "false_positive_rate", "balanced_accuracy", "auc"]


def _codes(values: Any, what: str) -> tuple[torch.Tensor, list[Any]]:
    """Integer ids of a column (or of the rows of several), and the values that they stand for, sorted."""
    if isinstance(values, torch.Tensor):
        if values.is_floating_point() and what == "sensitive_features":
            raise _C.ArgumentError(f"{what} is of {values.dtype}; groups are labels: give integers or strings")
        values = values.detach().cpu().tolist()
    for name in ("to_numpy", "tolist"):  # pandas, numpy
        if hasattr(values, name):
            values = getattr(values, name)()
    rows = [tuple(v) if isinstance(v, (list, tuple)) else v for v in values]
    if not rows:
        raise _C.ArgumentError(f"{what} is empty")
    flat = [x for row in rows for x in (row if isinstance(row, tuple) else (row,))]
    if any(x is None or (isinstance(x, float) and math.isnan(x)) for x in flat):
        raise _C.ArgumentError(f"{what} has missing values; leave those samples out, or give them a name")
    if what == "sensitive_features" and any(isinstance(x, float) for x in flat):
        raise _C.ArgumentError(f"{what} holds floating numbers; groups are labels: give integers or strings")
    names = set(rows)
    try:
        order = sorted(names)
    except TypeError:  # of several types
        order = sorted(names, key=repr)
    index = {name: i for i, name in enumerate(order)}
    return torch.tensor([index[row] for row in rows]), order


class _Grouped:
    """What the metrics are taken of, as ids."""

    def __init__(self, y_true: Any, y_pred: Any, sensitive_features: Any, sample_weight: Any, pos_label: Any) -> None:
        groups, self.groups = _codes(sensitive_features, "sensitive_features")
        both = _plain(y_true), _plain(y_pred)
        if len(both[0]) != len(both[1]):
            raise _C.ArgumentError(f"y_true has {len(both[0])} entries, y_pred {len(both[1])}")
        codes, self.classes = _codes([*both[0], *both[1]], "y_true")
        if pos_label not in self.classes:
            known = all(c in (0, 1) for c in self.classes) or all(c in (-1, 1) for c in self.classes)
            if not known:
                raise _C.ArgumentError(f"pos_label is {pos_label!r}, but the classes are {self.classes}")
            self.classes = sorted([*self.classes, pos_label])
            codes = torch.tensor([self.classes.index(v) for v in [*both[0], *both[1]]])
        self.positive = self.classes.index(pos_label)
        if len(self.classes) == 1:  # nobody is, or is predicted, anything else
            self.classes.append("no other")
        n = len(both[0])
        weight = None if sample_weight is None else torch.as_tensor(sample_weight, dtype=torch.float64)
        self.data = (codes[:n], codes[n:], groups, weight, len(self.classes), len(self.groups))
        self.group_ids = groups

    def group(self, name: Any) -> int:
        if name is None:
            return -1
        if name not in self.groups:
            raise _C.ArgumentError(f"there is no group {name!r}; there are {self.groups}")
        return self.groups.index(name)

    def warn(self, metric: str, excluded: Sequence[int]) -> None:
        if excluded:
            names = ", ".join(repr(self.groups[g]) for g in excluded)
            warnings.warn(
                f"{metric}: left out {len(excluded)} of {len(self.groups)} groups that have no sample to take a rate over: {names}",
                stacklevel=4,
            )


def _plain(values: Any) -> list[Any]:
    for name in ("detach", "to_numpy", "tolist"):
        if hasattr(values, name) and not isinstance(values, list):
            values = getattr(values, name)()
    return list(values)


def fairness_metrics() -> list[str]:
    """The names that :func:`fairness_metric` and :func:`bootstrap_interval` take."""
    return _C.fairness_metrics()


def group_table(
    y_true: Any,
    y_pred: Any,
    *,
    sensitive_features: Any,
    sample_weight: Any = None,
    pos_label: Any = 1,
    undefined: Undefined = "nan",
) -> dict[Any, dict[str, float]]:
    """Counts and rates of every group, and under ``"overall"`` of all.

    ``selection_rate``, ``true_positive_rate``, ``false_positive_rate``, ``true_negative_rate``, ``false_negative_rate``,
    ``accuracy``, ``precision``, ``count`` (samples), ``weight``, and the four weights they come from. ``pos_label`` stands
    against all other classes, accuracy is over all. A group without positives has no true positive rate: it is NaN, or 0
    with ``undefined="zero"`` as in fairlearn.

    Args:
        y_true, y_pred: classes of any kind, as tensors, arrays or lists.
        sensitive_features: the group of each sample, labels of any kind; several columns make intersections.
        sample_weight: enters every count but ``count``.

    >>> table = group_table([1, 1, 0, 0], [1, 0, 1, 0], sensitive_features=["a", "a", "b", "b"])
    >>> table["a"]["true_positive_rate"], table["a"]["false_positive_rate"], table["overall"]["selection_rate"]
    (0.5, nan, 0.5)
    """
    given = _Grouped(y_true, y_pred, sensitive_features, sample_weight, pos_label)
    rows, overall = _C.group_table(given.data, given.positive, undefined)
    return {**dict(zip(given.groups, rows, strict=True)), "overall": overall}


def fairness_metric(
    name: str,
    y_true: Any,
    y_pred: Any,
    *,
    sensitive_features: Any,
    method: Method = "between_groups",
    agg: Agg = "worst_case",
    sample_weight: Any = None,
    pos_label: Any = 1,
    privileged: Any = None,
    undefined: Undefined = "nan",
) -> float:
    """One metric by its name; see :func:`fairness_metrics` and the functions of the same names.

    A group whose rate is undefined is left out with a warning that names it; where fewer than two groups are left the
    result is NaN. ``undefined="zero"`` counts such rates as 0, as fairlearn does, ``"error"`` refuses.

    Raises:
        ArgumentError: one group only, unknown names, labels or weights that do not fit.
    """
    given = _Grouped(y_true, y_pred, sensitive_features, sample_weight, pos_label)
    options = (given.positive, method, agg, undefined, given.group(privileged))
    value, excluded = _C.fairness_metric(given.data, name, options)
    given.warn(name, excluded)
    return value


def bootstrap_interval(
    name: str,
    y_true: Any,
    y_pred: Any,
    *,
    sensitive_features: Any,
    replicates: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    method: Method = "between_groups",
    agg: Agg = "worst_case",
    sample_weight: Any = None,
    pos_label: Any = 1,
    privileged: Any = None,
    undefined: Undefined = "nan",
) -> dict[str, float]:
    """A metric with its percentile interval over ``replicates`` samples of N out of N with replacement.

    The same for a seed, whatever the number of threads. Replicates in which a group was not drawn, or where the metric is
    undefined, are left out and counted in ``skipped``. Differences are never negative, so an interval that keeps off 0 is
    no test that groups differ: of two equal groups it does so as well.

    Returns:
        ``value``, ``low``, ``high``, ``standard_error``, ``replicates``, ``skipped``.
    """
    given = _Grouped(y_true, y_pred, sensitive_features, sample_weight, pos_label)
    options = (given.positive, method, agg, undefined, given.group(privileged))
    return _C.bootstrap_interval(given.data, name, options, replicates, level, seed)


def one_vs_rest(
    name: str,
    y_true: Any,
    y_pred: Any,
    *,
    sensitive_features: Any,
    method: Method = "between_groups",
    agg: Agg = "worst_case",
    sample_weight: Any = None,
    privileged: Any = None,
    undefined: Undefined = "nan",
) -> dict[str, Any]:
    """A metric of several classes: of each against the others.

    Returns:
        ``per_class`` by class, ``mean`` and ``worst`` (the largest difference, the least ratio) over the classes where it
        is defined, and ``undefined``, the number of the others.

    >>> one_vs_rest("demographic_parity_difference", [0, 1, 2, 2], [0, 1, 2, 1], sensitive_features=[0, 0, 1, 1])
    {'per_class': {0: 0.5, 1: 0.0, 2: 0.5}, 'mean': 0.3333333333333333, 'worst': 0.5, 'undefined': 0}
    """
    given = _Grouped(y_true, y_pred, sensitive_features, sample_weight, _plain(y_true)[0])
    result = _C.fairness_one_vs_rest(given.data, name, (0, method, agg, undefined, given.group(privileged)))
    result["per_class"] = dict(zip(given.classes, result["per_class"], strict=True))
    return result


def demographic_parity_difference(
    y_true: Any, y_pred: Any, *, sensitive_features: Any, method: Method = "between_groups", **keywords: Any
) -> float:
    """Largest minus smallest selection rate; with ``method="to_overall"`` the largest distance to that of all.

    Keywords of this and the following: ``sample_weight``, ``pos_label``, ``undefined``; see :func:`fairness_metric`.

    >>> y = [1, 1, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0]
    >>> p = [1, 1, 0, 1, 0, 0, 1, 0, 0, 0, 0, 1]
    >>> round(demographic_parity_difference(y, p, sensitive_features=[0] * 6 + [1] * 6), 4)
    0.1667
    """
    return fairness_metric(
        "demographic_parity_difference", y_true, y_pred, sensitive_features=sensitive_features, method=method, **keywords
    )


def demographic_parity_ratio(
    y_true: Any, y_pred: Any, *, sensitive_features: Any, method: Method = "between_groups", **keywords: Any
) -> float:
    """Smallest over largest selection rate. 1 where nobody is selected (fairlearn gives NaN)."""
    return fairness_metric(
        "demographic_parity_ratio", y_true, y_pred, sensitive_features=sensitive_features, method=method, **keywords
    )


def equal_opportunity_difference(
    y_true: Any, y_pred: Any, *, sensitive_features: Any, method: Method = "between_groups", **keywords: Any
) -> float:
    """Largest minus smallest true positive rate."""
    return fairness_metric(
        "equal_opportunity_difference", y_true, y_pred, sensitive_features=sensitive_features, method=method, **keywords
    )


def equal_opportunity_ratio(
    y_true: Any, y_pred: Any, *, sensitive_features: Any, method: Method = "between_groups", **keywords: Any
) -> float:
    """Smallest over largest true positive rate."""
    return fairness_metric(
        "equal_opportunity_ratio", y_true, y_pred, sensitive_features=sensitive_features, method=method, **keywords
    )


def equalized_odds_difference(
    y_true: Any,
    y_pred: Any,
    *,
    sensitive_features: Any,
    method: Method = "between_groups",
    agg: Agg = "worst_case",
    **keywords: Any,
) -> float:
    """The larger of the differences of true and of false positive rates, or with ``agg="mean"`` their mean."""
    return fairness_metric(
        "equalized_odds_difference",
        y_true,
        y_pred,
        sensitive_features=sensitive_features,
        method=method,
        agg=agg,
        **keywords,
    )


def equalized_odds_ratio(
    y_true: Any,
    y_pred: Any,
    *,
    sensitive_features: Any,
    method: Method = "between_groups",
    agg: Agg = "worst_case",
    **keywords: Any,
) -> float:
    """The smaller of the ratios of true and of false positive rates, or with ``agg="mean"`` their mean."""
    return fairness_metric(
        "equalized_odds_ratio",
        y_true,
        y_pred,
        sensitive_features=sensitive_features,
        method=method,
        agg=agg,
        **keywords,
    )


def accuracy_parity_difference(
    y_true: Any, y_pred: Any, *, sensitive_features: Any, method: Method = "between_groups", **keywords: Any
) -> float:
    """Largest minus smallest accuracy, of any number of classes."""
    keywords.setdefault("pos_label", _plain(y_true)[0])  # accuracy has no positive class
    return fairness_metric(
        "accuracy_parity_difference", y_true, y_pred, sensitive_features=sensitive_features, method=method, **keywords
    )


def worst_group(y_true: Any, y_pred: Any, *, sensitive_features: Any, sample_weight: Any = None) -> float:
    """The least accuracy of a group.

    >>> worst_group([0, 1, 2, 0], [0, 1, 1, 0], sensitive_features=["a", "a", "b", "b"])
    0.5
    """
    return fairness_metric(
        "worst_group_accuracy",
        y_true,
        y_pred,
        sensitive_features=sensitive_features,
        sample_weight=sample_weight,
        pos_label=_plain(y_true)[0],
    )


def worst_cell(y_true: Any, y_pred: Any, *, sensitive_features: Any, sample_weight: Any = None) -> float:
    """The least accuracy of a (group, true class) cell that has samples: "worst group" of the GroupDRO literature.

    >>> worst_cell([0, 1, 2, 0], [0, 1, 1, 0], sensitive_features=["a", "a", "b", "b"])
    0.0
    """
    return fairness_metric(
        "worst_cell_accuracy",
        y_true,
        y_pred,
        sensitive_features=sensitive_features,
        sample_weight=sample_weight,
        pos_label=_plain(y_true)[0],
    )


def aif360_metrics(
    y_true: Any,
    y_pred: Any,
    *,
    sensitive_features: Any,
    privileged: Any,
    sample_weight: Any = None,
    pos_label: Any = 1,
    undefined: Undefined = "nan",
) -> dict[str, float]:
    """AIF360's signed metrics, unprivileged (all other groups together) minus privileged, and its Theil index.

    ``pos_label`` is the favourable outcome, which may be 0.

    Returns:
        ``statistical_parity_difference``, ``disparate_impact`` (unprivileged over privileged),
        ``equal_opportunity_difference``, ``average_odds_difference``, ``average_odds_error``, ``theil_index``.
    """
    given = _Grouped(y_true, y_pred, sensitive_features, sample_weight, pos_label)
    options = (given.positive, "between_groups", "worst_case", undefined, given.group(privileged))
    names = {
        "statistical_parity_difference": "statistical_parity_difference",
        "disparate_impact": "disparate_impact",
        "equal_opportunity_difference": "signed_equal_opportunity_difference",
        "average_odds_difference": "average_odds_difference",
        "average_odds_error": "average_odds_error",
        "theil_index": "theil_index",
    }
    return {mine: _C.fairness_metric(given.data, name, options)[0] for mine, name in names.items()}


def group_auc(y_true: Any, scores: Any, *, sensitive_features: Any, sample_weight: Any = None, pos_label: Any = 1) -> dict[Any, float]:
    """Area under the ROC curve of every group, and under ``"overall"`` of all. NaN where one of the classes is missing.

    >>> group_auc([0, 1, 0, 1], torch.tensor([0.1, 0.9, 0.4, 0.4]), sensitive_features=["a", "a", "b", "b"])
    {'a': 1.0, 'b': 0.5, 'overall': 0.875}
    """
    groups, names = _codes(sensitive_features, "sensitive_features")
    positives = torch.tensor([int(v == pos_label) for v in _plain(y_true)])
    weight = None if sample_weight is None else torch.as_tensor(sample_weight, dtype=torch.float64)
    areas = _C.group_auc(positives, torch.as_tensor(scores, dtype=torch.float64), groups, weight, len(names))
    return dict(zip([*names, "overall"], areas, strict=True))


def corrupted_degradation_disparity(
    clean: Mapping[Any, float] | Sequence[float],
    corrupted: Mapping[Any, float] | Sequence[float],
    *,
    reduce: Literal["range", "mean_pairs", "std", "max_to_overall"] = "range",
    relative: bool = False,
    signed: bool = False,
    reference: Any = None,
    counts: Mapping[Any, float] | Sequence[float] | None = None,
) -> float:
    r"""How unequally groups lose by a corruption (named by FairSAM, arXiv 2503.22934; the formula is a reconstruction).

    .. math:: R_g = A_g - A_g^c, \qquad \mathrm{CDD} = \max_g R_g - \min_g R_g

    For two groups it is the absolute *change* of the gap between them. A model that is far worse for one group, clean and
    corrupted alike, has CDD 0, and so has one that is equally bad for all: never show it without accuracies
    (:func:`degradation_table` shows both).

    Args:
        clean, corrupted: a rate per group, by name or in the same order: accuracy, or another in [0, 1].
        reduce: ``range``; the mean over pairs of groups; the standard deviation; the largest distance to the degradation of
            all, which needs ``counts``.
        relative: R_g / A_g in place of R_g.
        signed: of two groups, the ``reference``'s minus the other's. By default the reference is the group with more
            samples, without ``counts`` the first.

    >>> corrupted_degradation_disparity({"thin": 0.875, "thick": 0.9375}, {"thin": 0.75, "thick": 0.875})
    0.0625
    """
    names = list(clean) if isinstance(clean, Mapping) else list(range(len(clean)))

    def values(given: Any, what: str) -> list[float]:
        if isinstance(given, Mapping):
            if set(given) != set(names):
                raise _C.ArgumentError(f"{what} is of groups {sorted(given, key=repr)}, clean of {sorted(names, key=repr)}")
            return [float(given[name]) for name in names]
        return [float(v) for v in given]

    if reference is not None and reference not in names:
        raise _C.ArgumentError(f"there is no group {reference!r}; there are {names}")
    return _C.degradation_disparity(
        values(clean, "clean"),
        values(corrupted, "corrupted"),
        reduce,
        relative,
        signed,
        -1 if reference is None else names.index(reference),
        [] if counts is None else values(counts, "counts"),
    )


def _base_rates(y_true: Any, y_pred: Any, groups: Any, base_metric: str, pos_label: Any) -> dict[Any, float]:
    if base_metric == "auc":
        return group_auc(y_true, y_pred, sensitive_features=groups, pos_label=pos_label)
    if base_metric not in ("accuracy", "true_positive_rate", "false_positive_rate", "balanced_accuracy"):
        raise _C.ArgumentError(
            f"base_metric is {base_metric!r}, expected accuracy, true_positive_rate, false_positive_rate, balanced_accuracy or auc"
        )
    if base_metric == "accuracy":
        pos_label = _plain(y_true)[0]
    table = group_table(y_true, y_pred, sensitive_features=groups, pos_label=pos_label)
    if base_metric == "balanced_accuracy":
        return {g: (row["true_positive_rate"] + row["true_negative_rate"]) / 2 for g, row in table.items()}
    return {g: row[base_metric] for g, row in table.items()}


def degradation_table(
    y_true: Any,
    clean: Any,
    corrupted: Mapping[Any, Any],
    *,
    sensitive_features: Any,
    base_metric: BaseMetric = "accuracy",
    pos_label: Any = 1,
    reduce: Literal["range", "mean_pairs", "std", "max_to_overall"] = "range",
    relative: bool = False,
) -> dict[str, Any]:
    """Corrupted Degradation Disparity with everything that has to stand beside it.

    Args:
        y_true: true classes of the N test samples.
        clean: predictions on clean images (scores for ``base_metric="auc"``).
        corrupted: by corruption (and severity), predictions on the same images corrupted.

    Returns:
        ``clean``: rate by group and ``"overall"``; ``corrupted``: for each key of ``corrupted`` its ``groups`` and
        ``overall`` rates, ``degradation`` by group, ``worst_group`` (the least rate) and ``cdd``; and the means over
        corruptions ``mean_overall``, ``mean_worst_group`` and ``mean_cdd``.

    >>> table = degradation_table([0, 1, 0, 1], [0, 1, 0, 1], {"fog": [0, 1, 1, 1]}, sensitive_features=list("aabb"))
    >>> table["corrupted"]["fog"]["cdd"], table["mean_worst_group"], table["mean_overall"]
    (0.5, 0.5, 0.75)
    """
    if not corrupted:
        raise _C.ArgumentError("degradation_table: no corruption is given")
    ids, names = _codes(sensitive_features, "sensitive_features")
    counts = dict(zip(names, torch.bincount(ids).tolist(), strict=True))
    before = _base_rates(y_true, clean, sensitive_features, base_metric, pos_label)
    rows: dict[Any, dict[str, Any]] = {}
    for key, predictions in corrupted.items():
        after = _base_rates(y_true, predictions, sensitive_features, base_metric, pos_label)
        groups = {g: after[g] for g in names}
        rows[key] = {
            "groups": groups,
            "overall": after["overall"],
            "degradation": {g: before[g] - after[g] for g in names},
            "worst_group": min(groups.values()),
            "cdd": corrupted_degradation_disparity(
                {g: before[g] for g in names}, groups, reduce=reduce, relative=relative, counts=counts
            ),
        }

    def mean(name: str) -> float:
        total: float = sum(row[name] for row in rows.values())
        return total / len(rows)

    return {
        "base_metric": base_metric,
        "clean": before,
        "corrupted": rows,
        "mean_overall": mean("overall"),
        "mean_worst_group": mean("worst_group"),
        "mean_cdd": mean("cdd"),
    }


def evaluate_under_corruption(
    predict: Callable[[torch.Tensor], torch.Tensor],
    images: torch.Tensor,
    labels: torch.Tensor,
    groups: Any,
    corruptions: Sequence[tuple[str, int] | tuple[str, float]],
    *,
    seed: int = 0,
    batch_size: int = 500,
    **keywords: Any,
) -> dict[str, Any]:
    """:func:`degradation_table` of a model on images that are corrupted batch by batch; no corrupted set is stored.

    Args:
        predict: from images as ``corrupt`` gives them to logits ``[B, C]`` (scores ``[B]`` for ``base_metric="auc"``).
            Normalise inside: corruption acts on pixels. Put the model into evaluation mode first.
        images: ``[N, C, H, W]`` as :func:`glyptic.data.corrupt` takes them.
        corruptions: (name, severity as an int 1 to 5) or (name, strength as a float, as ``corrupt(..., param=)``).

    The same for a seed, whatever ``batch_size``. Other keywords go to :func:`degradation_table`.
    """

    def run(change: Callable[[torch.Tensor, int], torch.Tensor]) -> torch.Tensor:
        parts = []
        with torch.no_grad():
            for first in range(0, len(images), batch_size):
                out = predict(change(images[first : first + batch_size], first))
                parts.append(out.argmax(1) if out.dim() > 1 else out)
        return torch.cat(parts).cpu()

    def under(name: str, strength: float) -> torch.Tensor:
        options: dict[str, Any] = {"severity": strength} if isinstance(strength, int) else {"param": strength}
        return run(lambda x, first: corrupt(x, name, seed=seed, first_index=first, **options))

    clean = run(lambda x, _: x)
    corrupted = {f"{name} {strength}": under(name, strength) for name, strength in corruptions}
    return degradation_table(labels, clean, corrupted, sensitive_features=groups, **keywords)
