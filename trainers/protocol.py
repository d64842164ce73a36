"""What a model family must offer, and the values that pass between the sweep and a trainer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Task = Literal["binary", "multiclass", "regression"]
FeatureKind = Literal["numeric", "indicator", "boolean", "categorical"]


@dataclass(frozen=True)
class Feature:
    """One column of the encoded matrix. `levels` is the number of codes (0 .. levels-1) of a categorical, else 0."""

    name: str
    kind: FeatureKind
    source: str
    levels: int = 0


@dataclass(frozen=True)
class Matrix:
    """Encoded rows: `x` float32 [rows, features]; `y` float64 [rows] (class index, or the number to predict)."""

    x: NDArray[np.float32]
    y: NDArray[np.float64]
    features: tuple[Feature, ...]


def _keep_going(step: int, metrics: dict[str, float]) -> bool:
    return False


@dataclass(frozen=True)
class Context:
    """What a fit may know about its surroundings.

    `report(step, metrics)` tells the validation metrics after `step` of `rungs`, and returns True when the fit should stop now.
    `metric(y, predicted)` scores validation predictions (higher or lower is the caller's business).
    """

    task: Task
    num_classes: int
    seed: int
    threads: int = 1
    report: Callable[[int, dict[str, float]], bool] = _keep_going
    rungs: tuple[float, ...] = ()
    checkpoint: Path | None = None


@dataclass(frozen=True)
class Exactness:
    """How alike two fits on the same input are: `tolerance` 0 means bit-exact predictions."""

    tolerance: float = 0.0


class Fitted(Protocol):
    """A fitted model. Predictions are float64: binary [rows] = P(positive); multiclass [rows, classes]; regression [rows]."""

    def predict(self, x: NDArray[np.float32]) -> NDArray[np.float64]: ...

    def contributions(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """How much each feature moved each row's raw score, [rows, features] (multiclass: of the predicted class)."""
        ...

    def save(self, folder: Path) -> None: ...

    @classmethod
    def load(cls, folder: Path) -> Fitted: ...


class Trainer(Protocol):
    """One model family. `Params` is a frozen dataclass, importable without the heavy library, that checks its ranges."""

    Params: ClassVar[type[Any]]
    Fitted: ClassVar[type[Fitted]]
    exactness: ClassVar[Exactness]
    streams: ClassVar[bool]

    def fit(self, train: Matrix, valid: Matrix | None, params: Any, context: Context) -> Fitted: ...


@dataclass(frozen=True)
class Family:
    """A trainer as configured for one search: its parameters, each a fixed value or a domain to search."""

    name: str
    trainer: Trainer
    params: dict[str, Any] = field(default_factory=dict)
