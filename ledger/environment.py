"""Where and with what a run was made: code, libraries, machine. Nothing here is a secret, and nothing is changed."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

from conf.targets import SOURCE
from ledger.digests import lock_digest


def environment() -> dict[str, Any]:
    """JSON-ready facts: git commit (None without a repository), lock digest, installed distributions, Python, system, processors."""
    return {
        "code": code_version(SOURCE),
        "lock_digest": lock_digest(),
        "distributions": dict(sorted((d.metadata["Name"], d.version) for d in importlib.metadata.distributions() if d.metadata["Name"])),
        "python": sys.version.split()[0],
        "system": platform.platform(),
        "machine": platform.machine(),
        "cpus": os.cpu_count(),
    }


def code_version(folder: Path) -> dict[str, Any]:
    """The commit that `folder` stands at, and which files differ from it (their names alone: a difference may hold secrets)."""
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None:
        return {"commit": None, "changed": []}
    changed = _git(folder, "status", "--porcelain", "--untracked-files=normal") or ""
    return {"commit": commit, "changed": sorted(line[3:] for line in changed.splitlines())}


def _git(folder: Path, *words: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.rstrip("\n") if done.returncode == 0 else None
