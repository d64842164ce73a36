"""Locks between processes, with a fencing number: who lost a lock without knowing can no longer publish under it.

The number is that of Kleppmann, "How to do distributed locking" (2016): it grows with each holder, and the newest one alone may write.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from cluster.store import Store, read_json, write_json
from conf.errors import RaycycleError
from ledger.environment import process

ASK_EVERY_S = 0.2


@dataclass(frozen=True)
class Lease:
    """The right to do one piece of work. `number` grows with each holder of the lock; `token` is this holder's alone."""

    file: Path
    number: int
    token: str

    def check(self) -> None:
        """Raise RaycycleError when another process has taken the work over."""
        newest = _holder(self.file)
        if newest.get("token") != self.token:  # not the number: it begins anew where a person removed the file
            raise RaycycleError(
                "another process has taken this work over; nothing was published",
                value=f"lease {self.number}",
                allowed=f"the newest lease, {newest.get('number')} of {_described(newest)}",
                next="run again",
            )


@contextlib.contextmanager
def lease(store: Store, name: str, waiting: Callable[[str], None]) -> Iterator[Lease]:
    """Hold the lock `name` for the length of the block; `waiting` is told once, in words, who holds it meanwhile.

    The operating system frees the lock of a process that ends in any way.
    """
    file = store.locks / f"{name}.json"
    lock = FileLock(store.locks / f"{name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        waiting(f"waiting for {_described(_holder(file))}, which does the same work")
        lock.acquire(poll_interval=ASK_EVERY_S)
    try:
        mine = Lease(file, int(_holder(file).get("number", 0)) + 1, uuid.uuid4().hex)
        write_json(file, {"format": 1, "number": mine.number, "token": mine.token, **process()})
        yield mine
    finally:
        lock.release()


@contextlib.contextmanager
def unless_held(store: Store, name: str) -> Iterator[bool]:
    """Hold the lock `name` for the length of the block if nobody has it, and say whether that is so. It does not end anybody's lease."""
    lock = FileLock(store.locks / f"{name}.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    try:
        yield True
    finally:
        lock.release()


def _holder(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = read_json(file) if file.exists() else {}
    return found


def _described(holder: dict[str, Any]) -> str:
    return f"process {holder['pid']} on {holder['host']}" if "pid" in holder else "another process"
