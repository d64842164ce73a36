"""Ctrl-C that cannot be lost: an interrupt that a library swallowed is raised again at the next step of progress."""

from __future__ import annotations

import signal
from types import FrameType

_seen = False


def install() -> None:
    """Note every interrupt of this process, beside raising KeyboardInterrupt as Python does."""
    signal.signal(signal.SIGINT, _note)


def _note(number: int, frame: FrameType | None) -> None:
    global _seen
    _seen = True
    raise KeyboardInterrupt


def check() -> None:
    """Raise KeyboardInterrupt when there was one that nobody acted on."""
    if _seen:
        raise KeyboardInterrupt
