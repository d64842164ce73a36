"""Which processes belong to a platform, told by its own folders in their command line or open files, and how they end."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterable
from pathlib import Path

import psutil

_WORKER = re.compile(r"ray::|\[ray::")


def belonging(folders: Iterable[Path]) -> list[psutil.Process]:
    """This user's processes that were started for these folders.

    Ray's workers overwrite their command line with a title, so those are known by their log files in the folder.
    """
    names = "|".join(re.escape(str(folder)) for folder in folders)
    pattern = re.compile(rf"(?:{names})(?![^/:\s\"'\]}},])")
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.pid == os.getpid() or process.uids().real != os.getuid() or process.status() == psutil.STATUS_ZOMBIE:
                continue
            line = " ".join(process.cmdline())
            named = pattern.search(line) and _is_machinery(line)
            if named or (_WORKER.match(line) and any(pattern.match(file) for file in _open_files(process.pid))):
                found.append(process)
    return found


def _is_machinery(line: str) -> bool:
    """Ray's own programs and HAProxy; not an editor or a `tail -f` on one of their files."""
    return bool(re.search(r"/ray/|\bray\.scripts\b|haproxy|ray::", line))


def _open_files(pid: int) -> list[str]:
    links = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            links.append(str(entry.readlink()))
    return links


def is_alive(pid: int, created: float) -> bool:
    """Whether `pid` is still the process that was recorded, and no later one with the same number."""
    try:
        process = psutil.Process(pid)
        return abs(process.create_time() - created) < 2.0 and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def end(folders: Iterable[Path], timeout_s: float = 10.0) -> int:
    """End every process of these folders, politely for half a second, then by force; returns how many there were."""
    folders = list(folders)
    deadline, seen, polite = time.monotonic() + timeout_s, set(), True
    while (left := belonging(folders)) and time.monotonic() < deadline:
        seen |= {process.pid for process in left}
        for process in left:
            with contextlib.suppress(psutil.Error):
                process.terminate() if polite else process.kill()
        psutil.wait_procs(left, timeout=0.5)
        polite = False
    return len(seen)


def end_orphans(folders: Iterable[Path]) -> None:
    """End what a killed command left of its own Ray: processes of these folders whose parent is gone. Those of living commands stay."""
    for process in belonging(folders):
        with contextlib.suppress(psutil.Error):
            parent = process.parent()
            if os.getpid() != 1 and (parent is None or parent.pid == 1 or parent.name() == "systemd"):
                process.kill()


def end_children() -> None:
    """Kill what this process started, and what that started, without waiting."""
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            process.kill()
