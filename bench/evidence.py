"""What evidence costs and what it saves: the flights run with its record and tracking timed, and the same command again.

python -m bench evidence [EXPERIMENT] [--json]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

AGAIN = 3

# Everything that a run waits for its record and its tracking; what the thread beside it tells MLflow is counted in processor time.
RECORDING = (
    ("flows.record.changes", "capture"),
    ("flows.record", "environment"),
    ("flows.record", "pack"),
    ("flows.record", "_log"),
    ("ledger.records", "write"),
    ("ledger.lineage", "emit"),
    ("ledger.spool.Spool", "__init__"),
    ("ledger.spool.Spool", "begin"),
    ("ledger.spool.Spool", "child"),
    ("ledger.spool.Spool", "__exit__"),
)
KEEPING = (
    ("flows.stages.Stages", "cause"),
    ("flows.prepared.Prepared", "save"),
    ("flows.sweep.Swept", "save"),
    ("flows.evaluation.Evaluation", "save"),
    ("flows.score.Scored", "save"),
    ("ledger.stages.digests", "of_folder"),
    ("ledger.stages.Kept", "verified"),
)


def measure(parts: Sequence[str], say: Callable[[str], None]) -> dict[str, Any]:
    experiment = parts[0] if parts else "flights"
    with tempfile.TemporaryDirectory(prefix="evidence.") as folder:
        say(f"the run of {experiment}, timed inside")
        timed = _python("-m", "bench.evidence", experiment, folder)
        say("the same command again")
        again = [_seconds(folder, "run", f"experiment={experiment}", "--quiet", "--json") for _ in range(AGAIN)]
        _seconds(folder, "down")
    told = json.loads(timed.splitlines()[-1])
    share = told["recording_s"] / told["total_s"]
    return {
        "experiment": experiment,
        **told,
        "recording_share": share,
        "keeping_share": told["keeping_s"] / told["total_s"],
        "again_s": again,
        "ratios": {"again": told["total_s"] / sorted(again)[AGAIN // 2], "recording_within_2_percent": 0.02 / share},
    }


def publish(result: dict[str, Any]) -> list[Path]:
    """Nothing: the figures go to the README by hand, with the machine they were measured on."""
    return []


def _python(*words: str) -> str:
    return subprocess.run([sys.executable, *words], check=True, stdout=subprocess.PIPE, text=True).stdout


def _seconds(folder: str, *words: str) -> float:
    command = [str(Path(sys.executable).with_name("raycycle")), *words]
    started = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.PIPE, env={**os.environ, "RAYCYCLE_HOME": folder})
    return round(time.monotonic() - started, 2)


class _Clock:
    """The time spent in some functions; a function called by another of them is counted once."""

    def __init__(self, names: Sequence[tuple[str, str]]) -> None:
        self.seconds, self._inside = 0.0, 0
        for owner, name in names:
            self._wrap(_found(owner), name)

    def _wrap(self, owner: Any, name: str) -> None:
        function = getattr(owner, name)

        def timed(*given: Any, **named: Any) -> Any:
            started, self._inside = time.monotonic(), self._inside + 1
            try:
                return function(*given, **named)
            finally:
                self._inside -= 1
                if not self._inside:
                    self.seconds += time.monotonic() - started

        setattr(owner, name, timed)


def _clock_thread(spool: Any) -> list[float]:
    """The processor seconds that each spool's own thread has used when it ends."""
    seconds: list[float] = []
    work = spool._work

    def timed(self: Any) -> None:
        try:
            work(self)
        finally:
            seconds.append(time.thread_time())

    spool._work = timed
    return seconds


def _found(owner: str) -> Any:
    import importlib

    module, found = owner.split("."), None
    for cut in range(len(module), 0, -1):
        try:
            found = importlib.import_module(".".join(module[:cut]))
        except ModuleNotFoundError:
            continue
        for name in module[cut:]:
            found = getattr(found, name)
        return found
    raise LookupError(owner)


def _timed_run(experiment: str, folder: str) -> dict[str, float]:
    """One run in this process, with the clocks in place."""
    started = time.monotonic()
    from cluster import session
    from cluster.progress import Progress
    from cluster.store import Store
    from conf.compose import compose
    from flows import pipeline
    from flows.plan import plan
    from ledger.spool import Spool

    session.stay_connected()
    recording, keeping = _Clock(RECORDING), _Clock(KEEPING)
    beside = _clock_thread(Spool)
    pipeline.run(plan(compose([f"experiment={experiment}"])), Store.open(folder), Progress())
    return {
        "total_s": time.monotonic() - started,
        "recording_s": recording.seconds,
        "keeping_s": keeping.seconds,
        "thread_cpu_s": sum(beside),
    }


if __name__ == "__main__":
    from cluster import session

    print(json.dumps(_timed_run(sys.argv[1], sys.argv[2])), flush=True)
    session.leave()
    os._exit(0)
