"""What a model's errors say: under corruption, and of one group of people beside another.

>>> import glyptic
>>> glyptic.metrics.mean_corruption_error({"fog": [0.2, 0.4], "snow": [0.5, 0.5]}, baseline=None)
0.4
>>> glyptic.metrics.demographic_parity_difference([1, 0, 1, 0], [1, 1, 1, 0], sensitive_features=["a", "a", "b", "b"])
0.5
"""

from ._corruption import (
    alexnet_errors,
    corruption_error,
    corruption_summary,
    mean_corruption_error,
    relative_mean_corruption_error,
)
from ._fairness import (
    accuracy_parity_difference,
    aif360_metrics,
    bootstrap_interval,
    corrupted_degradation_disparity,
    degradation_table,
    demographic_parity_difference,
    demographic_parity_ratio,
    equal_opportunity_difference,
    equal_opportunity_ratio,
    equalized_odds_difference,
    equalized_odds_ratio,
    evaluate_under_corruption,
    fairness_metric,
    fairness_metrics,
    group_auc,
    group_table,
    one_vs_rest,
    worst_cell,
    worst_group,
)

__all__ = [
    "accuracy_parity_difference",
    "aif360_metrics",
    "alexnet_errors",
    "bootstrap_interval",
    "corrupted_degradation_disparity",
    "corruption_error",
    "corruption_summary",
    "degradation_table",
    "demographic_parity_difference",
    "demographic_parity_ratio",
    "equal_opportunity_difference",
    "equal_opportunity_ratio",
    "equalized_odds_difference",
    "equalized_odds_ratio",
    "evaluate_under_corruption",
    "fairness_metric",
    "fairness_metrics",
    "group_auc",
    "group_table",
    "mean_corruption_error",
    "one_vs_rest",
    "relative_mean_corruption_error",
    "worst_cell",
    "worst_group",
]
