"""LightGBM family: leaf-wise boosted trees with native categories.

$ raycycle run trainer=lightgbm trainer.num_leaves=63
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from trainers.columns import categorical
from trainers.outputs import of_predicted_class
from trainers.protocol import Context, Exactness, Matrix
from trainers.ranges import check
from trainers.sizes import eased
from trainers.stopping import Stopping

if TYPE_CHECKING:
    from numpy.typing import NDArray

OBJECTIVES = {"binary": "binary", "multiclass": "multiclass", "regression": "regression"}


@dataclass(frozen=True, kw_only=True)
class LightGBMParams:
    """`min_data_in_leaf` and `lambda_l2` are for large tables, and eased on a small one (`trainers.sizes`)."""

    num_rounds: int = 400
    patience: int = 20
    learning_rate: float = 0.08
    num_leaves: int = 31
    min_data_in_leaf: int = 50
    feature_fraction: float = 0.5
    bagging_fraction: float = 0.7
    lambda_l2: float = 10.0
    cat_smooth: float = 50.0
    cat_l2: float = 20.0

    def __post_init__(self) -> None:
        check(self, "num_rounds", at_least=1)
        check(self, "patience", at_least=1)
        check(self, "learning_rate", above=0, at_most=1)
        check(self, "num_leaves", at_least=2, at_most=4096)
        check(self, "min_data_in_leaf", at_least=1)
        check(self, "feature_fraction", above=0, at_most=1)
        check(self, "bagging_fraction", above=0, at_most=1)
        check(self, "lambda_l2", at_least=0)
        check(self, "cat_smooth", at_least=0)
        check(self, "cat_l2", at_least=0)


class FittedLightGBM:
    """A booster read from its own text, so that a model just fitted and one loaded from a file are the same thing."""

    def __init__(self, model: str) -> None:
        import lightgbm

        self.booster = lightgbm.Booster(model_str=model)
        self.model = model

    @property
    def steps(self) -> int:
        return self.booster.current_iteration()

    def predict(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        some = x if len(x) else np.zeros((1, x.shape[1]), dtype=np.float32)  # the library refuses an empty batch
        return np.asarray(self.booster.predict(some, num_threads=1), dtype=np.float64)[: len(x)]

    def contributions(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """SHAP values in units of the raw score, without the bias column."""
        shap = np.asarray(self.booster.predict(x, pred_contrib=True, num_threads=1))
        return of_predicted_class(shap.reshape(len(x), -1, x.shape[1] + 1)[:, :, :-1], self.predict(x))

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.txt").write_text(self.model)

    @classmethod
    def load(cls, folder: Path) -> FittedLightGBM:
        return cls((folder / "model.txt").read_text())


class LightGBM:
    Params: ClassVar = LightGBMParams
    Fitted: ClassVar = FittedLightGBM
    exactness: ClassVar = Exactness()
    streams: ClassVar = False

    def fit(self, train: Matrix, valid: Matrix | None, params: LightGBMParams, context: Context) -> FittedLightGBM:
        import lightgbm

        settings = _settings(params, context, len(train.y))
        # The settings stand on each data set too: one that names no number of threads gives the whole process every core.
        rows = lightgbm.Dataset(train.x, train.y, categorical_feature=categorical(train.features), params=settings)
        booster = lightgbm.Booster(settings, rows)
        if valid is not None:
            booster.add_valid(rows.create_valid(valid.x, valid.y, params=settings), "valid")
        stopping = Stopping(context, valid, params.num_rounds, params.patience)
        for step in range(1, stopping.max_steps + 1):
            # True: no leaf can be split any more, and the library has dropped this round.
            if booster.update() or stopping.after(step, lambda: _current(booster, train, valid)):
                break
        return FittedLightGBM(booster.model_to_string(num_iteration=stopping.kept))


def _current(booster: Any, train: Matrix, valid: Matrix | None) -> NDArray[np.float64]:
    """Predictions for the validation rows, which the booster keeps up to date as it grows; without any, for the training rows."""
    seen: list[NDArray[np.float64]] = []

    def keep(predictions: NDArray[np.float64], _: Any) -> tuple[str, float, bool]:
        seen.append(predictions)
        return "none", 0.0, False

    booster.eval_train(keep) if valid is None else booster.eval_valid(keep)
    return seen[0].copy()


def _settings(params: LightGBMParams, context: Context, rows: int) -> dict[str, Any]:
    # The wheel has no CUDA build, so a GPU is left to the families that can use it.
    settings = {
        "objective": OBJECTIVES[context.task],
        "metric": "none",
        "num_threads": context.threads,
        "seed": context.seed,
        "deterministic": True,
        "force_row_wise": True,
        "verbosity": -1,
        "learning_rate": params.learning_rate,
        "num_leaves": params.num_leaves,
        "min_data_in_leaf": max(1, round(eased(params.min_data_in_leaf, rows, context))),
        "feature_fraction_bynode": params.feature_fraction,
        "bagging_fraction": params.bagging_fraction,
        "bagging_freq": 1,
        "lambda_l2": eased(params.lambda_l2, rows, context),
        "cat_smooth": params.cat_smooth,
        "cat_l2": params.cat_l2,
    }
    return settings | ({"num_class": context.num_classes} if context.task == "multiclass" else {})
