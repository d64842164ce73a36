"""Progress of long work on stderr: a live bar in a terminal, plain quiet lines elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from typing import TextIO

from cluster import interrupt

LINE_EVERY_S = 5.0


class Bar:
    """Counts of one stage: done of total, rate, time left, and a note such as the best score so far."""

    def __init__(self, progress: Progress, stage: str, total: int | None, unit: str) -> None:
        self._progress, self.stage, self.total, self.unit = progress, stage, total, unit
        self.done, self.note = 0, ""
        self._started = self._printed = time.monotonic()

    def advance(self, count: int = 1, note: str | None = None) -> None:
        interrupt.check()
        self.done += count
        if note is not None:
            self.note = note
        self._draw()

    def line(self) -> str:
        elapsed = max(time.monotonic() - self._started, 1e-9)
        rate = self.done / elapsed
        of = f"/{self.total:,}" if self.total else ""
        left = f", {(self.total - self.done) / rate:,.0f} s left" if self.total and 0 < self.done < self.total else ""
        note = f", {self.note}" if self.note else ""
        return f"{self.stage:<9} {self.done:,}{of} {self.unit}, {rate:,.1f}/s{left}{note}"

    def _draw(self) -> None:
        every = 0.1 if self._progress.live else LINE_EVERY_S
        if time.monotonic() - self._printed >= every:
            self._printed = time.monotonic()
            self._progress.draw(self.line())


class Progress:
    """Where stages report. `quiet` drops everything but `say`."""

    def __init__(self, out: TextIO | None = None, quiet: bool = False) -> None:
        self.out = out or sys.stderr
        self.quiet = quiet
        self.live = self.out.isatty() and not quiet
        self.seconds: dict[str, float] = {}

    def say(self, text: str) -> None:
        """One line for the person, above any live bar."""
        self._clear()
        print(text, file=self.out, flush=True)

    def draw(self, line: str) -> None:
        if self.quiet:
            return
        if self.live:
            self._clear()
            print(line[:150], end="", file=self.out, flush=True)
        else:
            print(line, file=self.out, flush=True)

    @contextlib.contextmanager
    def stage(self, name: str, total: int | None = None, unit: str = "rows") -> Iterator[Bar]:
        """Report one stage; its wall seconds are kept in `seconds` and its last line is always printed."""
        interrupt.check()
        started = time.monotonic()
        bar = Bar(self, name, total, unit)
        try:
            yield bar
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - started
            self._clear()
        if not self.quiet:
            note = f", {bar.note}" if bar.note else ""
            counted = f"{bar.done:,} {unit}, " if bar.done else ""
            print(f"{name:<9} {counted}{time.monotonic() - started:.1f} s{note}", file=self.out, flush=True)

    def note(self, name: str, text: str) -> None:
        """The line of a stage that had nothing to do."""
        if not self.quiet:
            self._clear()
            print(f"{name:<9} {text}", file=self.out, flush=True)

    def _clear(self) -> None:
        if self.live:
            print("\r\033[K", end="", file=self.out, flush=True)
