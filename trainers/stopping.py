"""When a family that learns in steps (rounds, epochs) ends its training, and how many of the steps it keeps."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from trainers.outputs import loss

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from trainers.protocol import Context, Matrix


class Stopping:
    """Ask `after` each step. With `context.steps`, or without validation rows, only the last step or the search ends it."""

    def __init__(self, context: Context, valid: Matrix | None, max_steps: int, patience: int) -> None:
        self.context, self.patience = context, patience
        self.valid = valid if context.steps is None else None
        self.max_steps = context.steps or max_steps
        self.best_loss, self.best_step = math.inf, 0

    def after(self, step: int, predict: Callable[[], NDArray[np.float64]]) -> bool:
        """Whether training ends here; `step` counts from 1, `predict` gives the validation predictions as of now."""
        if self.valid is None:
            self.best_step = step
            return self.context.report(step / self.max_steps, predict)
        now = predict()
        if (value := loss(self.context.task, self.valid.y, now)) < self.best_loss:
            self.best_loss, self.best_step = value, step
        return self.context.report(step / self.max_steps, lambda: now) or step - self.best_step >= self.patience

    @property
    def kept(self) -> int:
        return max(self.best_step, 1)
