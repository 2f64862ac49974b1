"""What a model's errors say.

>>> import glyptic
>>> glyptic.metrics.mean_corruption_error({"fog": [0.2, 0.4], "snow": [0.5, 0.5]}, baseline=None)
0.4
"""

from ._corruption import (
    alexnet_errors,
    corruption_error,
    corruption_summary,
    mean_corruption_error,
    relative_mean_corruption_error,
)

__all__ = [
    "alexnet_errors",
    "corruption_error",
    "corruption_summary",
    "mean_corruption_error",
    "relative_mean_corruption_error",
]
