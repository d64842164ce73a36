"""One column of the encoded matrix, as the encoder describes it to the trainers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

FeatureKind = Literal["numeric", "indicator", "boolean", "categorical"]
Task = Literal["binary", "multiclass", "regression"]


@dataclass(frozen=True)
class Feature:
    """`levels` is the number of codes (0 .. levels-1) of a categorical feature, else 0; `source` the table column it comes from."""

    name: str
    kind: FeatureKind
    source: str
    levels: int = 0
