"""The plain scikit-learn pipeline to compare with, and the comparison on the same held out rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from tables.contract import Contract
from tables.target import Target
from trainers import metrics

Array = NDArray[np.float64]
DRAWS = 400


@dataclass(frozen=True)
class Answers:
    """`scores` as `trainers.metrics` wants them; `codes` are the classes that were said, or the numbers themselves."""

    scores: Array
    codes: Array

    def value(self, metric: str, target: Target, y: Array, rows: NDArray[np.int64]) -> float:
        """Accuracy and F1 judge what was said, so that each side decides by its own threshold."""
        if metric == "accuracy":
            return float(np.mean(self.codes[rows] == y[rows]))
        if metric == "f1_macro":
            return metrics.f1_macro(y[rows].astype(np.int64), self.codes[rows].astype(np.int64))
        return metrics.one_metric(metric, target.task, y[rows], self.scores[rows])


def columns(contract: Contract) -> list[str]:
    """All that a person would use: not the label, and no ids."""
    return [
        name
        for name, column in contract.columns.items()
        if column.role not in ("label", "key") and not column.note.startswith(("id", "unique"))
    ]


def frame(table: pa.Table, names: list[str]) -> pd.DataFrame:
    """Dates as days since 1970; numbers, booleans and text as they are."""
    found = table.select(names).to_pandas()
    for field in table.select(names).schema:
        if pa.types.is_temporal(field.type):
            moments = table.column(field.name).cast(pa.timestamp("us")).to_pandas()
            found[field.name] = (moments - pd.Timestamp(0)) / pd.Timedelta(days=1)
    return found


def answers(contract: Contract, target: Target, train: pa.Table, holdout: pa.Table, seed: int) -> Answers:
    """Ordinal categories into HistGradientBoosting, everything else by default."""
    from sklearn.compose import make_column_transformer
    from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OrdinalEncoder

    names = columns(contract)
    x, x_holdout = frame(train, names), frame(holdout, names)
    y = target.encode(train.column(contract.label).combine_chunks())
    x, y = x[np.isfinite(y)], y[np.isfinite(y)]
    text = [name for name in names if not pd.api.types.is_numeric_dtype(x[name])]
    ordinal = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    kind = HistGradientBoostingRegressor if target.task == "regression" else HistGradientBoostingClassifier
    model = make_pipeline(make_column_transformer((ordinal, text), remainder="passthrough"), kind(random_state=seed)).fit(x, y)
    said = model.predict(x_holdout)
    if target.task == "regression":
        return Answers(said, said)
    chances = np.zeros((len(x_holdout), len(target.classes)))
    chances[:, model.classes_.astype(int)] = model.predict_proba(x_holdout)
    return Answers(chances[:, 1] if target.task == "binary" else chances, said)


def compare(target: Target, metric: str, y: Array, plain: Answers, ours: Answers, seed: int) -> dict[str, dict[str, float]]:
    """Both sides' value of each metric; `difference` is above 0 where ours is better, with its paired bootstrap standard error."""
    names = {"regression": ("rmse", "mae", "r2")}.get(target.task, ("roc_auc", "log_loss", "accuracy", "f1_macro"))
    found = {}
    for name in dict.fromkeys((metric, *names)):
        sign = 1.0 if metrics.HIGHER_IS_BETTER[name] else -1.0

        def gain(rows: NDArray[np.int64], name: str = name, sign: float = sign) -> float:
            return sign * (ours.value(name, target, y, rows) - plain.value(name, target, y, rows))

        every = np.arange(len(y))
        error, _, _ = metrics.bootstrap(gain, len(y), seed, DRAWS)
        found[name] = {
            "plain": plain.value(name, target, y, every),
            "ours": ours.value(name, target, y, every),
            "difference": gain(every),
            "standard_error": error,
        }
    return found
