"""Whether a run can be replayed: what is missing for it, what may make it come out otherwise, and how its last replay ended."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from typing import Any

from cluster.store import Store
from conf.errors import RaycycleError, some
from conf.targets import SOURCE
from flows import certificate
from flows.runs import SHORT
from ledger import digests, records
from ledger.environment import compare, environment
from ledger.records import Record
from ledger.stages import kept_bundle


def facts(store: Store, record: Record, note: Callable[[str], None]) -> dict[str, Any]:
    """What would keep `raycycle reproduce` from replaying the run, and what may make it come out otherwise."""
    prevented, doubts = [*_no_data(store, record), *_no_code(store, record), *_no_champion(store, record)], []
    if redacted := record.changes.redacted:
        doubts.append(f"secrets were taken out of {len(redacted)} kept files ({some(redacted, 3)}), so these differ from what ran")
    if left_out := [path for path in record.changes.left_out if path != "."]:
        doubts.append(f"{len(left_out)} files of the code were not kept ({some(left_out, 3)})")
    if (record.config.get("sweep") or {}).get("mode") == "fast":
        doubts.append("it searched in fast mode, whose trials depend on the clock")
    if lost := record.made.get("lost_trials"):
        doubts.append(f"the workers of {len(lost)} trials died ({some(map(str, lost), 3)}), and may not die again")
    doubts += [f"the environment differs: {difference}" for difference in compare(record.environment, environment())]
    return {
        "command": f"raycycle reproduce {record.run_id[:SHORT]}",
        "possible": not prevented,
        "prevented": prevented,
        "doubts": doubts,
        "certificate": _certificate(store, record, note),
    }


def _no_data(store: Store, record: Record) -> Iterator[str]:
    from tables import snapshots

    if (made := record.made.get("snapshot")) is None:
        yield "the run ended before its record named a snapshot"
        return
    try:
        found = snapshots.open_snapshot(store.with_tables(record.tables), made["name"], made["version"])
    except RaycycleError as error:
        yield f"its snapshot is gone ({error.what})"
        return
    if str(found.digest) != made["digest"]:
        yield f"{found} is not the snapshot that the run learned from"
    if missing := [file.name for file in found.files if not file.path.is_file()]:
        yield f"{len(missing)} of the {len(found.files)} files of {found} are gone"


def _no_code(store: Store, record: Record) -> Iterator[str]:
    changes = record.changes
    if changes.commit is None and not changes.repository:
        if not record.pack or not (store.root / "cache" / "code" / record.pack[:16]).is_dir():
            yield f"its code was not kept ({changes.left_out.get('.', 'no git repository')})"
    elif changes.commit and not _has_commit(changes.commit):
        yield f"commit {changes.commit[:SHORT]} is not in this repository"


def _has_commit(commit: str) -> bool:
    """Whether the repository of this source tree has the commit; where git cannot be asked, that is left to `reproduce`."""
    words = ["git", "-C", str(SOURCE), "cat-file", "-e", "--end-of-options", f"{commit}^{{commit}}"]
    try:
        return subprocess.run(words, capture_output=True, timeout=10).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return True


def _no_champion(store: Store, record: Record) -> Iterator[str]:
    """The champion of then is needed to judge the candidate again."""
    stage = record.stage("evaluate")
    digest = stage.inputs.get("champion") if stage else None
    if digest is None or digest == "none":
        return
    if kept_bundle(store, digest) is None:
        yield f"the champion it was measured against ({digest[:SHORT]}) is gone from the cache"


def _certificate(store: Store, record: Record, note: Callable[[str], None]) -> dict[str, Any] | None:
    """How the last replay of the run ended, by its certificate."""
    folder = store.runs / record.run_id / "certificate"
    if not (folder / certificate.JSON_FILE).is_file():
        return None
    try:
        found = certificate.read(folder, store)
    except RaycycleError as error:
        note(error.message.partition("\n")[0])
        return None
    if found.record_digest != digests.of_file(folder.parent / records.FILE):
        note(f"{folder / certificate.JSON_FILE} is of another record.json than the one that lies there now")
        return None
    return {"verdict": found.verdict, "made": found.made, "by": found.by, "file": str(folder / certificate.JSON_FILE)}
