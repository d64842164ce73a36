"""Progress: plain lines when nobody watches, a live bar in a terminal, silence when asked."""

from __future__ import annotations

import io

import pytest

from cluster import progress as module
from cluster.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_a_stage_tells_count_rate_time_left_and_note(clock: list[float]) -> None:
    out = io.StringIO()
    with Progress(out).stage("sweep", 20, "trials") as bar:
        clock[0] += 10
        bar.advance(5, "best log_loss 0.5123 (linear)")
        assert bar.line() == "sweep     5/20 trials, 0.5/s, 30 s left, best log_loss 0.5123 (linear)"
        clock[0] += 30
        bar.advance(15)
        assert bar.line() == "sweep     20/20 trials, 0.5/s, best log_loss 0.5123 (linear)"
    assert out.getvalue().splitlines()[-1] == "sweep     20 trials, 40.0 s, best log_loss 0.5123 (linear)"


def test_without_a_terminal_lines_come_seldom_and_plain(clock: list[float]) -> None:
    out = io.StringIO()
    with Progress(out).stage("ingest") as bar:
        for _ in range(120):
            clock[0] += 0.1
            bar.advance(1_000)
    lines = out.getvalue().splitlines()
    assert len(lines) == 1 + int(12 / module.LINE_EVERY_S)
    assert lines[-1] == "ingest    120,000 rows, 12.0 s"
    assert "\r" not in out.getvalue()
    assert "\033" not in out.getvalue()


def test_a_terminal_has_one_line_that_is_drawn_over(clock: list[float]) -> None:
    out = Terminal()
    progress = Progress(out)
    with progress.stage("ingest", 50) as bar:
        for _ in range(5):
            clock[0] += 0.2
            bar.advance(10)
        progress.say("a word")
    drawn = out.getvalue()
    assert drawn.count("\r\033[K") >= 5
    assert "\r\033[Ka word\n" in drawn
    assert drawn.count("\n") == 2, "the word and the last line"


def test_quiet_says_only_what_must_be_said(clock: list[float]) -> None:
    out = Terminal()
    progress = Progress(out, quiet=True)
    with progress.stage("ingest") as bar:
        clock[0] += 60
        bar.advance(5)
    assert out.getvalue() == ""
    progress.say("look here")
    assert out.getvalue() == "look here\n"


def test_seconds_add_up_by_stage_and_a_failed_stage_says_no_end(clock: list[float]) -> None:
    out = io.StringIO()
    progress = Progress(out)
    for _ in range(2):
        with pytest.raises(ValueError, match="no"), progress.stage("evaluate"):
            clock[0] += 3
            raise ValueError("no")
    assert progress.seconds == {"evaluate": 6.0}
    assert out.getvalue() == ""
