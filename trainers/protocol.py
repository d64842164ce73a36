"""What a model family must offer, and the values that pass between a search and a trainer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from tables.features import Feature, Task

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Matrix:
    """Encoded rows: `x` float32 [rows, features]; `y` float64 [rows] (class index, or the number to predict)."""

    x: NDArray[np.float32]
    y: NDArray[np.float64]
    features: tuple[Feature, ...]


def _keep_going(done: float, predict: Callable[[], NDArray[np.float64]]) -> bool:
    return False


@dataclass(frozen=True)
class Context:
    """What a fit may know about its surroundings.

    `report(done, predict)`: call it as training goes on, with the fraction done (0..1] and a function that returns the
    predictions for the validation rows as of now; it is called only where a score is wanted. True means: stop here.
    `steps`: train exactly this many steps (rounds, epochs), without early stopping; a refit gets what validation chose.
    `device`: "cpu", or "cuda" when Ray gave this worker a share of a GPU.
    """

    task: Task
    num_classes: int
    seed: int
    threads: int = 1
    device: str = "cpu"
    steps: int | None = None
    report: Callable[[float, Callable[[], NDArray[np.float64]]], bool] = _keep_going


@dataclass(frozen=True)
class Exactness:
    """How alike two fits on the same input are: `tolerance` 0 means bit-exact predictions."""

    tolerance: float = 0.0


class Fitted(Protocol):
    """A fitted model. Predictions are float64: binary [rows] = P(positive); multiclass [rows, classes]; regression [rows].

    `steps` is how many steps the model kept (the best round or epoch on validation), None where a family has none.
    """

    @property
    def steps(self) -> int | None: ...

    def predict(self, x: NDArray[np.float32]) -> NDArray[np.float64]: ...

    def contributions(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """How much each feature moved each row's raw score, [rows, features] (multiclass: of the predicted class)."""
        ...

    def save(self, folder: Path) -> None: ...

    @classmethod
    def load(cls, folder: Path) -> Fitted: ...


# Inside Trainer the name Fitted is the class fact, so the annotation of `fit` needs another name.
FittedModel = Fitted


class Trainer(Protocol):
    """One model family. `Params` is a frozen dataclass, importable without the heavy library, that checks its ranges."""

    Params: ClassVar[type[Any]]
    Fitted: ClassVar[type[FittedModel]]
    exactness: ClassVar[Exactness]
    streams: ClassVar[bool]

    def fit(self, train: Matrix, valid: Matrix | None, params: Any, context: Context) -> FittedModel: ...
