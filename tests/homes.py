"""A user's folder with a store of its own, where tests run the real command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.store import Store

RAYCYCLE = str(Path(sys.executable).with_name("raycycle"))
SMALL = ("experiment=flights_small", "dataset.source.months=[1,2,3,4]", "sweep.num_trials=5")


@dataclass(frozen=True)
class Home:
    """A folder to work in with a store of its own; `raycycle` runs the real command there."""

    folder: Path

    @property
    def store(self) -> Store:
        return Store.open(self.folder / "home")

    def raycycle(self, *words: str, code: int = 0, timeout_s: float = 280) -> dict[str, Any]:
        """The JSON object of a verb; fails with its output when the exit code is not `code`."""
        done = self.process(*words, "--json", timeout_s=timeout_s)
        assert done.returncode == code, f"raycycle {' '.join(words)} -> {done.returncode}\n{done.stdout}\n{done.stderr}"
        found = json.loads(done.stdout.splitlines()[-1])
        assert isinstance(found, dict)
        return found

    def process(self, *words: str, timeout_s: float = 280) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "RAYCYCLE_HOME": str(self.folder / "home")}
        return subprocess.run([RAYCYCLE, *words], cwd=self.folder, env=environment, capture_output=True, text=True, timeout=timeout_s)
