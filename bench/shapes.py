"""Tables of the shapes that people bring: scikit-learn's bundled real ones with everyday dirt, and realistic made ones."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bench import made


@dataclass(frozen=True)
class Shape:
    """A table to learn `label` from; `make` gives its rows and `write` puts them into the file `file` of a folder."""

    name: str
    what: str
    label: str
    make: Callable[[], pd.DataFrame]
    file: str
    write: Callable[[pd.DataFrame, Path], None]

    def save(self, folder: Path) -> Path:
        self.write(self.make(), folder / self.file)
        return folder / self.file


def _csv(**options: Any) -> Callable[[pd.DataFrame, Path], None]:
    return lambda table, file: table.to_csv(file, index=False, **options)


def _csv_gz(table: pd.DataFrame, file: Path) -> None:
    file.write_bytes(gzip.compress(table.to_csv(index=False, sep=";", decimal=",").encode(), mtime=0))


def _parquet(table: pd.DataFrame, file: Path) -> None:
    table.to_parquet(file, index=False)


def _jsonl(table: pd.DataFrame, file: Path) -> None:
    """Keys without a value are left out, as many exporters do."""
    lines = (row.dropna().to_json(force_ascii=False) for _, row in table.astype(object).iterrows())
    file.write_text("\n".join(lines) + "\n")


def _bundled(name: str, label: str, *, named: bool = False) -> pd.DataFrame:
    """A real table that scikit-learn carries in its package; `named`: classes by their names."""
    from sklearn import datasets

    loaded = getattr(datasets, f"load_{name}")(as_frame=True)
    table: pd.DataFrame = loaded.frame.rename(columns={"target": label})
    if named:
        table[label] = [str(loaded.target_names[code]) for code in table[label]]
    return table


def _wine() -> pd.DataFrame:
    table = _bundled("wine", "cultivar", named=True)
    rng = np.random.default_rng(2)
    for column in ("ash", "hue", "proline"):
        table.loc[rng.random(len(table)) < 0.08, column] = np.nan
    return table


def _breast_cancer() -> pd.DataFrame:
    return _bundled("breast_cancer", "diagnosis", named=True)


def _digits() -> pd.DataFrame:
    return _bundled("digits", "digit")


def _diabetes() -> pd.DataFrame:
    from sklearn import datasets

    loaded = datasets.load_diabetes(as_frame=True, scaled=False)
    table: pd.DataFrame = loaded.frame.rename(columns={"target": "progression"})
    table["sex"] = table["sex"].map({1.0: "F", 2.0: "M"})
    table.loc[np.random.default_rng(3).random(len(table)) < 0.05, "bmi"] = np.nan
    return table


SHAPES = (
    Shape("iris", "real; tiny, 3 classes", "species", lambda: _bundled("iris", "species", named=True), "iris.csv", _csv()),
    Shape("wine", "real; tiny, 3 classes, JSON lines with absent keys", "cultivar", _wine, "wine.jsonl", _jsonl),
    Shape("breast_cancer", "real; small, 30 numbers, Parquet", "diagnosis", _breast_cancer, "breast_cancer.parquet", _parquet),
    Shape("digits", "real; 10 classes, 64 columns, gz with semicolons", "digit", _digits, "digits.csv.gz", _csv_gz),
    Shape(
        "diabetes", "real; small regression, byte order mark, nulls", "progression", _diabetes, "diabetes.csv", _csv(encoding="utf-8-sig")
    ),
    Shape("flights", "real; time, joins, hours of weather and traffic", "late", made.flights, "flights.csv", _csv()),
    Shape("churn", "several rows a customer, one outcome each", "churned", made.churn, "churn.csv", _csv()),
    Shape("credit", "nulls as ?, NA, none and empty; semicolons", "default", made.credit, "credit.csv", _csv(sep=";", na_rep="?")),
    Shape("fraud", "1.5 % positives", "is_fraud", made.fraud, "fraud.parquet", _parquet),
    Shape("prices", "skewed positive regression", "price", made.prices, "prices.csv", _csv()),
    Shape("sensors", "hourly readings, regression in time order", "next_load", made.sensors, "sensors.csv", _csv()),
    Shape("retail", "text categories with thousands of levels", "returned", made.retail, "retail.csv", _csv(sep="\t")),
    Shape("tickets", "40 unequal classes, Latin-1", "queue", made.tickets, "tickets.csv", _csv(encoding="latin-1")),
    Shape("survey", "odd column names: brackets, quotes, numbers, not ASCII", made.SURVEY_LABEL, made.survey, "survey.csv", _csv()),
    Shape("genes", "wide: 800 columns, 600 rows", "responds", made.genes, "genes.csv", _csv()),
)
