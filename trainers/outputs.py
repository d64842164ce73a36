"""From raw scores to what the protocol promises: predictions, their loss, and one row of contributions per row."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from tables.features import Task


def to_predictions(task: Task, raw: NDArray[np.float64]) -> NDArray[np.float64]:
    """Raw scores [rows, outputs] to predictions, rounded to float32 so that the last bits of float64 never show."""
    if task == "binary":
        made = np.exp(-np.logaddexp(0.0, -raw[:, 0]))
    elif task == "multiclass":
        odds = np.exp(raw - raw.max(axis=1, keepdims=True))
        made = odds / odds.sum(axis=1, keepdims=True)
    else:
        made = raw[:, 0]
    return made.astype(np.float32).astype(np.float64)


def loss(task: Task, y: NDArray[np.float64], predictions: NDArray[np.float64]) -> float:
    """Log loss of a classifier, mean squared error of a regression."""
    if task == "regression":
        return float(np.mean((y - predictions) ** 2))
    both = np.stack([1.0 - predictions, predictions], axis=1) if task == "binary" else predictions
    return float(-np.mean(np.log(np.clip(both[np.arange(len(y)), y.astype(np.intp)], 1e-15, 1.0))))


def of_predicted_class(contributions: NDArray[np.float64], predictions: NDArray[np.float64]) -> NDArray[np.float64]:
    """[rows, outputs, features] to [rows, features]: the only output, or that of the class with the highest prediction."""
    if contributions.shape[1] == 1:
        return contributions[:, 0]
    return contributions[np.arange(len(predictions)), predictions.argmax(axis=1)]
