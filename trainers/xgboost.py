"""XGBoost family: boosted trees with native categories.

$ raycycle run trainer=xgboost trainer.max_depth=8
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from trainers.columns import categorical, target_mean_and_scale
from trainers.outputs import of_predicted_class
from trainers.protocol import Context, Exactness, Matrix
from trainers.ranges import check
from trainers.sizes import eased
from trainers.stopping import Stopping

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from xgboost import Booster

OBJECTIVES = {"binary": "binary:logistic", "multiclass": "multi:softprob", "regression": "reg:squarederror"}


@dataclass(frozen=True, kw_only=True)
class XGBoostParams:
    """`min_child_weight` and `reg_lambda` are for large tables, and eased on a small one (`trainers.sizes`)."""

    num_rounds: int = 400
    patience: int = 20
    learning_rate: float = 0.08
    max_depth: int = 8
    min_child_weight: float = 10.0
    subsample: float = 0.7
    colsample: float = 0.5
    reg_lambda: float = 10.0
    max_bin: int = 256
    max_cat_to_onehot: int = 4

    def __post_init__(self) -> None:
        check(self, "num_rounds", at_least=1)
        check(self, "patience", at_least=1)
        check(self, "learning_rate", above=0, at_most=1)
        check(self, "max_depth", at_least=1, at_most=20)
        check(self, "min_child_weight", at_least=0)
        check(self, "subsample", above=0, at_most=1)
        check(self, "colsample", above=0, at_most=1)
        check(self, "reg_lambda", at_least=0)
        check(self, "max_bin", at_least=2)
        check(self, "max_cat_to_onehot", at_least=1)


class FittedXGBoost:
    """A booster read from its own bytes, so that a model just fitted and one loaded from a file are the same thing.

    Its attributes `mean` and `scale` lead from the booster's scores to a regression's target.
    """

    def __init__(self, model: bytes) -> None:
        import xgboost

        # One thread: measured 40 times faster on one row than a pool on two busy cores, and Ray spreads large tables itself.
        self.booster: Booster = xgboost.Booster({"verbosity": 0, "nthread": 1}, model_file=bytearray(model))
        self.model = model
        self.mean, self.scale = (float(self.booster.attr(name) or 0) for name in ("mean", "scale"))

    @property
    def steps(self) -> int:
        return self.booster.num_boosted_rounds()

    def predict(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        some = x if len(x) else np.zeros((1, x.shape[1]), dtype=np.float32)  # an empty batch would come back without its classes
        made = self.booster.inplace_predict(some, validate_features=False, strict_shape=True)[: len(x)].astype(np.float64)
        return (made if made.shape[1] > 1 else made[:, 0]) * self.scale + self.mean

    def contributions(self, x: NDArray[np.float32]) -> NDArray[np.float64]:
        """SHAP values in units of the raw score, without the bias column."""
        import xgboost

        rows = xgboost.DMatrix(x, feature_types=self.booster.feature_types, enable_categorical=True)
        shap = self.booster.predict(rows, pred_contribs=True, strict_shape=True)
        return of_predicted_class(shap[:, :, :-1].astype(np.float64) * self.scale, self.predict(x))

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.ubj").write_bytes(self.model)

    @classmethod
    def load(cls, folder: Path) -> FittedXGBoost:
        return cls((folder / "model.ubj").read_bytes())


class XGBoost:
    Params: ClassVar = XGBoostParams
    Fitted: ClassVar = FittedXGBoost
    exactness: ClassVar = Exactness()
    streams: ClassVar = False

    def fit(self, train: Matrix, valid: Matrix | None, params: XGBoostParams, context: Context) -> FittedXGBoost:
        import xgboost

        codes = set(categorical(train.features))
        described = {
            "feature_types": ["c" if column in codes else "q" for column in range(len(train.features))],
            "enable_categorical": True,
            "nthread": context.threads,
            "max_bin": params.max_bin,
        }
        # The library drops gains below 1e-6 and keeps labels in float32: a target of any scale is learnt as a standardised one.
        mean, scale = target_mean_and_scale(context.task, train.y)
        rows = xgboost.QuantileDMatrix(train.x, (train.y - mean) / scale, **described)
        held = None if valid is None else xgboost.QuantileDMatrix(valid.x, ref=rows, **described)
        booster = xgboost.Booster(_settings(params, context, len(train.y)), [rows] if held is None else [rows, held])
        stopping = Stopping(context, valid, params.num_rounds, params.patience)
        for step in range(1, stopping.max_steps + 1):
            booster.update(rows, step - 1)
            if stopping.after(step, lambda: booster.predict(held or rows).astype(np.float64) * scale + mean):
                break
        best = booster[: stopping.kept]
        best.set_attr(mean=repr(mean), scale=repr(scale))
        return FittedXGBoost(bytes(best.save_raw("ubj")))


def _settings(params: XGBoostParams, context: Context, rows: int) -> dict[str, Any]:
    settings = {
        "objective": OBJECTIVES[context.task],
        "tree_method": "hist",
        "device": context.device,
        "nthread": context.threads,
        "seed": context.seed,
        "verbosity": 0,
        "learning_rate": params.learning_rate,
        "max_depth": params.max_depth,
        "min_child_weight": eased(params.min_child_weight, rows, context),
        "subsample": params.subsample,
        "colsample_bynode": params.colsample,
        "reg_lambda": eased(params.reg_lambda, rows, context),
        "max_bin": params.max_bin,
        "max_cat_to_onehot": params.max_cat_to_onehot,
    }
    return settings | ({"num_class": context.num_classes} if context.task == "multiclass" else {})
