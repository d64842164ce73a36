"""What a look at a table found: each column's type and role, how to split its rows, and what a person should know.

$ raycycle init FILE --label COL
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from msgspec import structs

from tables.casting import ColumnType
from tables.contract import Column, Contract, Role
from tables.features import Task
from tables.look.findings import Finding
from tables.look.schedule import SplitPlan
from tables.privacy.treatment import default_treatment, from_words

MAX_BAD_FRACTION = 0.05


@dataclass(frozen=True, kw_only=True)
class ColumnProfile:
    """What one column holds and is good for. `spelled` are its null spellings beyond the usual ones; `required`: rows must have it;
    `personal`: it looks like data about a person."""

    type: ColumnType
    role: Role
    nulls: int
    distinct: int
    note: str = ""
    formats: tuple[str, ...] = ()
    spelled: tuple[str, ...] = ()
    style: str = ""
    required: bool = False
    personal: bool = False


@dataclass(frozen=True, kw_only=True)
class Profile:
    """`rows` in the table, of which `looked_at` were looked at. `metric` is what a sweep should look at."""

    label: str
    task: Task
    positive: str | int | bool | None
    classes: list[str]
    metric: str
    rows: int
    looked_at: int
    columns: dict[str, ColumnProfile]
    findings: list[Finding]
    split: SplitPlan
    key: list[str] = field(default_factory=list)
    slices: list[str] = field(default_factory=list)
    max_bad_fraction: float = MAX_BAD_FRACTION
    infinite_labels: bool = False

    def contract(self, name: str) -> Contract:
        columns = {each: self._column(each, profile) for each, profile in self.columns.items()}
        time = self.split.column
        return Contract(
            name=name,
            task=self.task,
            label=self.label,
            columns=columns,
            positive=self.positive,
            key=self.key,
            time=time,
            max_bad_fraction=self.max_bad_fraction,
        )

    def _column(self, name: str, profile: ColumnProfile) -> Column:
        bounds: dict[str, Any] = {}
        if name == self.label and self.infinite_labels:
            bounds = {"min": -1.7e308, "max": 1.7e308}
        column = Column(
            type=profile.type,
            role=profile.role,
            nullable=profile.role not in ("label", "key") and not profile.required,
            allowed=self.classes or None if name == self.label else None,
            formats=list(profile.formats) or None,
            privacy_class="personal" if profile.personal else "internal",
            note=profile.note,
            **bounds,
        )
        return structs.replace(column, treatment=from_words(default_treatment(column))) if profile.personal else column
