"""Parameters are meant for tables of thousands of rows; on a smaller one these ease them, so that one set of defaults serves both.

Measured by cross-validation on iris, wine, breast_cancer, diabetes and digits: docs/any-table.md.
"""

from __future__ import annotations

import math

from trainers.protocol import Context

ENOUGH_ROWS = 1_000
FEW_EPOCHS, ENOUGH_FOR_FEW_EPOCHS = 6, 20_000
MANY_EPOCHS = 15


def eased(value: float, rows: int, context: Context) -> float:
    """A least number of rows in a leaf, or a penalty on leaves: in proportion to the rows there are for each output."""
    outputs = context.num_classes if context.task == "multiclass" else 1
    return value * min(1.0, rows / (ENOUGH_ROWS * outputs))


def epochs_for(rows: int) -> int:
    """Passes over the rows: a small table gets more of them, since its epochs have fewer and smaller batches."""
    return min(max(round(FEW_EPOCHS * math.sqrt(ENOUGH_FOR_FEW_EPOCHS / max(rows, 1))), FEW_EPOCHS), MANY_EPOCHS)
