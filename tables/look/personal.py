"""Columns of a table that `init` looks at, asked whether they look like personal data, and what becomes of those that do."""

from __future__ import annotations

from tables.look.inference import Reading
from tables.privacy.detection import SAMPLE, Values, column_kind


def personal_kind(name: str, reading: Reading) -> str | None:
    """What kind of personal data the column looks like."""
    sample = [level for level in reading.levels[:SAMPLE] if level]
    return column_kind(name, Values(sample, reading.known, reading.distinct, reading.is_text, reading.is_time))
