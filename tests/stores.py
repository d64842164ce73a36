"""Runs in a store, as they are recorded, without running anything."""

from __future__ import annotations

from typing import Any

from cluster.store import Store, write_json
from ledger import records
from ledger.records import Record, StageRun
from ledger.stages import Cause, StageCache

RUN = "aa" * 16
COMMIT = "68001dce" * 5


def recorded(store: Store, run_id: str = RUN, **changed: Any) -> Record:
    """A record in the store, of a run that ended well a day ago, unless told otherwise."""
    facts: dict[str, Any] = {
        "run_id": run_id,
        "verb": "run",
        "dataset": "flights",
        "status": "FINISHED",
        "started": "2026-11-23T10:00:00+00:00",
        "ended": "2026-11-23T10:00:42.500000+00:00",
        "seed": 0,
        "until": "report",
        "config": {"deploy": "auto", "policy": {"name": "laptop"}, "sweep": {"num_trials": 2}},
        "typed": [],
        "contract": "",
        "code": {"commit": COMMIT, "branch": "main", "files": {}, "left_out": {}},
        "pack": "",
        "environment": {"who": "ann@desk", "command": ["raycycle", "run", "experiment=flights"], "python": "3.11.7", "cpus": 2},
        "stages": [],
    }
    record = Record(**(facts | changed))
    records.write(record, store.runs / run_id)
    return record


def kept(
    store: Store,
    stage: str,
    inputs: dict[str, str | None],
    outputs: dict[str, str],
    files: dict[str, Any],
    run_id: str = RUN,
    ran: bool = True,
    dataset: str = "flights",
) -> StageRun:
    """A stage's result in the cache, as a run would record it."""
    cause = Cause(stage=stage, modules={}, libraries={}, config={}, inputs=inputs)
    cache = StageCache(store, dataset, lambda text: None)
    if cache.find(cause) is None:
        with cache.making(cause) as lease, cache.publishing(cause, lease, run_id) as draft:
            draft.outputs |= outputs
            for name, value in files.items():
                write_json(draft.folder / name, value)
    made = cache.made(cause)
    folder = str(made.folder.relative_to(store.root))
    why = "no earlier result" if ran else f"unchanged since run {made.record.run_id[:12]}"
    facts = {"seconds": 1.5, "key": cause.key, "folder": folder, "made_by": made.record.run_id, "inputs": inputs, "outputs": outputs}
    return StageRun(stage=stage, ran=ran, why=why, **facts)
