"""What the families need to know about the columns of a matrix: which hold codes, and the scale of the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from tables.features import Feature, Task


def categorical(features: Sequence[Feature]) -> list[int]:
    return [column for column, feature in enumerate(features) if feature.kind == "categorical"]


def mean_and_scale(values: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Mean and standard deviation of each column in float64; a constant column has scale 1, whatever rounding says."""
    scale = values.std(axis=0, dtype=np.float64)
    scale[values.min(axis=0) == values.max(axis=0)] = 1.0
    return values.mean(axis=0, dtype=np.float64), scale


def target_mean_and_scale(task: Task, y: NDArray[np.float64]) -> tuple[float, float]:
    """What to subtract from and divide a regression's target by; (0, 1) for a class."""
    if task != "regression":
        return 0.0, 1.0
    (mean,), (scale,) = mean_and_scale(y[:, None])
    return float(mean), float(scale)
