"""What a small table gets instead of parameters meant for a large one."""

from __future__ import annotations

import pytest

from trainers.protocol import Context
from trainers.sizes import eased, epochs_for

BINARY, TEN_CLASSES = Context("binary", 2, 0), Context("multiclass", 10, 0)


def test_a_large_table_keeps_what_was_asked_for() -> None:
    assert eased(50, 1_000, BINARY) == 50 == eased(50, 10_000, TEN_CLASSES)
    assert epochs_for(20_000) == 6 == epochs_for(10_000_000)


def test_a_small_table_gets_lower_floors_and_penalties_by_rows_for_each_output() -> None:
    assert eased(50, 250, BINARY) == pytest.approx(12.5)
    assert eased(50, 250, TEN_CLASSES) == pytest.approx(1.25)


def test_a_small_table_gets_more_epochs_up_to_a_bound() -> None:
    assert [epochs_for(rows) for rows in (0, 100, 3_000, 10_000)] == [15, 15, 15, 8]
