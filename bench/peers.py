"""Peers that are measured beside us, each installed into an environment that is gone afterwards: they are no dependencies."""

from __future__ import annotations

import json
import os
import subprocess
import venv
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

THREADS = 2


def measured(
    names: Sequence[str],
    folder: Path,
    words: Callable[[str], Sequence[str | Path]],
    line: Callable[[str, dict[str, Any]], str],
    say: Callable[[str], None],
) -> tuple[dict[str, Any], dict[str, str]]:
    """What the script `words(name)` printed for each peer as the JSON object of its last line, and why others were skipped."""
    venv.create(folder / "peers", with_pip=True)
    python = folder / "peers" / "bin" / "python"
    found, skipped = {}, {}
    for name in names:
        installed = subprocess.run([python, "-m", "pip", "install", "-q", name], capture_output=True, text=True)
        if installed.returncode:
            skipped[name] = "it could not be installed"
            say(f"{name:<10} skipped: {skipped[name]}")
            continue
        environment = {**os.environ, "POLARS_MAX_THREADS": str(THREADS)}
        ended = subprocess.run([python, *words(name)], capture_output=True, text=True, env=environment)
        if ended.returncode:
            raise RuntimeError(f"{name} failed: {ended.stderr[-2000:]}")
        found[name] = json.loads(ended.stdout.splitlines()[-1])
        say(line(name, found[name]))
    return found, skipped
