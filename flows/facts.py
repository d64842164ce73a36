"""What is known of a run, a snapshot or a model version: what scripts get from `raycycle explain`, and what its words are made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from cluster import platform
from cluster.store import Store, read_json
from conf.errors import RaycycleError, UsageError, some, suggest
from flows import reproducible
from flows.runs import SHORT, kept_json, seconds_of, status_now, version_of
from ledger import digests, records
from ledger.records import Damaged, Record, StageRun
from ledger.registry import Champion, Registered
from ledger.tracking import TrackingDown

Facts = dict[str, Any]


class Versions(Protocol):
    """What is asked of the registry (`ledger.registry.Registry`)."""

    def find(self, reference: str) -> Registered: ...
    def champion_now(self, name: str) -> Champion: ...


@dataclass
class Remembered:
    """A store's records, newest first, read once, and its registry; in `untold`, what a damaged or missing file left unknown."""

    store: Store
    registry: Versions
    untold: list[str] = field(default_factory=list)
    found: list[Record] = field(default_factory=list)
    damaged: list[Damaged] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.found, self.damaged = records.every(self.store)

    def file(self, record: Record, stage: str, name: str) -> Facts:
        """The verified facts in a stage's file; empty, and noted, where they cannot be had."""
        made = record.stage(stage)
        if made is None:
            return {}
        try:
            return kept_json(self.store, made, name)
        except (RaycycleError, OSError) as error:
            self.note(error.message.partition("\n")[0] if isinstance(error, RaycycleError) else str(error))
            return {}

    def note(self, text: str) -> None:
        if text not in self.untold:
            self.untold.append(text)

    def run(self, run_id: str) -> Record | None:
        return next((record for record in self.found if record.run_id == run_id), None)


def run_facts(known: Remembered, record: Record) -> Facts:
    """Everything that is known of a run."""
    evaluation = known.file(record, "evaluate", "evaluation.json")
    data, won = _data(known, record), _won(known, record, evaluation)
    return {
        "kind": "run",
        "run_id": record.run_id,
        "run_verb": record.verb,
        "dataset": record.dataset,
        "status": status_now(known.store, record),
        "until": record.until,
        "started": record.started,
        "ended": record.ended,
        "took_s": seconds_of(record),
        "who": record.environment.get("who"),
        "command": record.environment.get("command", []),
        "seed": record.seed,
        "error": record.error,
        "code": _code(record),
        "environment": _environment(record),
        "data": data,
        "stages": [_stage(stage) for stage in record.stages],
        "won": won,
        "gates": evaluation.get("verdicts", []),
        "outcome": _outcome(known, record, evaluation),
        "reproduce": reproducible.facts(known.store, record, known.note),
    }


def snapshot_facts(known: Remembered, name: str, version: int) -> Facts:
    """Everything that is known of a snapshot. Raises UsageError when neither the table nor a run knows it."""
    from tables import snapshots

    folder = snapshots.table_folder(known.store, name)
    using = [record for record in reversed(known.found) if snapshot_of(known.store, record) == (name, version)]
    digest, files, gone = None, 0, None
    try:
        found = snapshots.open_snapshot(known.store, name, version)
        digest, files = str(found.digest), len(found.files)
        if missing := [file.name for file in found.files if not file.path.is_file()]:
            gone = f"{len(missing)} of its {files} files are gone, {missing[0]} the first"
    except RaycycleError as error:
        if not using:
            raise _no_snapshot(known.store, f"{name}@{version}") from None
        gone = error.what
    digest = digest or next((stage.outputs.get("rows") for record in using if (stage := record.stage("ingest"))), None)
    maker = next((record for record in using if (stage := record.stage("ingest")) and stage.ran and not took_snapshot(stage)), None)
    ingested = maker.stage("ingest") if maker else None
    learned = [record for record in using if record.stage("prepare")]
    return {
        "kind": "snapshot",
        "dataset": name,
        "version": version,
        "digest": digest,
        "rows": rows_of(digest),
        "files": files,
        "gone": gone,
        "folder": str(folder),
        "made_by": maker.run_id if maker else _made_by(using),
        "made": maker.started if maker else None,
        "source": ingested.inputs.get("source") if ingested else None,
        **_counts(known.file(maker, "ingest", "ingested.json") if maker else {}),
        "learned": [{"run_id": record.run_id, "started": record.started, "status": record.status} for record in learned],
        "versions": list(dict.fromkeys(made for record in learned if (made := version_of(record)))),
    }


def version_facts(known: Remembered, reference: str) -> Facts:
    """Everything that is known of a model version; from the records alone where tracking is down."""
    version, down = _registered(known, reference)
    name = str(version)
    record = known.run(version.run_id)
    if record is None:
        known.note(f"the record of run {version.run_id[:SHORT]}, which made {name}, is gone or damaged")
    evaluation = known.file(record, "evaluate", "evaluation.json") if record else {}
    data, won = (_data(known, record), _won(known, record, evaluation)) if record else ({}, {})
    return {
        "kind": "version",
        "model": version.name,
        "version": version.version,
        "digest": version.digest,
        "folder": str(version.folder),
        "bundle": _bundle(version),
        "passed": version.passed,
        "aliases": None if down else sorted(version.aliases),
        "run_id": version.run_id,
        "made": record.started if record else None,
        "also_made_by": [each.run_id for each in known.found if version_of(each) == name and each.run_id != version.run_id],
        "data": data,
        "won": won,
        "gates": evaluation.get("verdicts", []),
        "against": evaluation.get("champion_name") or None,
        "answers": _answers(known, version.name),
    }


def _made_by(using: list[Record]) -> str | None:
    """The run that made a snapshot, by what later runs say that found it."""
    stages = (stage for record in using if (stage := record.stage("ingest")))
    return next((stage.made_by for stage in stages if not took_snapshot(stage)), None)


def _code(record: Record) -> Facts:
    changes = record.changes
    return {
        "commit": changes.commit,
        "branch": changes.branch,
        "changed": sorted(changes.files),
        "redacted": sorted(changes.redacted),
        "left_out": changes.left_out,
        "pack": record.pack,
    }


def _environment(record: Record) -> Facts:
    names = ("implementation", "python", "lock_digest", "system", "machine", "processor", "usable_cpus", "memory_gib", "threads")
    return {name: record.environment.get(name) for name in names}


def _data(known: Remembered, record: Record) -> Facts:
    stage = record.stage("ingest")
    if stage is None:
        return {}
    ingested = known.file(record, "ingest", "ingested.json")
    made = record.made.get("snapshot") or ingested
    digest = stage.outputs.get("rows")
    return {
        "snapshot": f"{made['name']}@{made['version']}" if made else None,
        "digest": digest,
        "rows": rows_of(digest),
        "source": stage.inputs.get("source"),
        "taken": took_snapshot(stage),
        **_counts({} if took_snapshot(stage) else ingested),
    }


def took_snapshot(stage: StageRun) -> bool:
    """Whether the stage took a version that was there (`snapshot=N`) instead of the source's rows."""
    return "snapshot" in stage.inputs


def _counts(ingested: Facts) -> Facts:
    return {name: ingested.get(name) for name in ("quarantined", "warned", "duplicates")}


def rows_of(digest: str | None) -> int | None:
    """The number of rows, which is a part of their digest (`rows1:ROWS:SUM`)."""
    parts = (digest or "").split(":")
    return int(parts[1]) if len(parts) == 3 and parts[1].isdigit() else None


def _stage(stage: StageRun) -> Facts:
    fields = ("stage", "ran", "why", "seconds", "made_by", "key", "folder", "inputs", "outputs", "resources")
    return {name: getattr(stage, name) for name in fields}


def _won(known: Remembered, record: Record, evaluation: Facts) -> Facts:
    """The best trial, how it was found, and how good it is."""
    swept = known.file(record, "sweep", "swept.json")
    if not swept and not evaluation:
        return {}
    trials = swept.get("trials", [])
    best: Facts = evaluation.get("trial") or next((trial for trial in trials if trial["number"] == swept["best"]), {})
    return {
        "trainer": best.get("family"),
        "trial": best.get("number"),
        "trials": len(trials) or None,
        "not_finished": {status: sum(trial["status"] == status for trial in trials) for status in ("stopped", "failed")},
        "params": best.get("params", {}),
        "all_params": evaluation.get("params", {}),
        "metric": swept.get("metric") or record.made.get("metric"),
        "folds": swept.get("folds"),
        "validation": best.get("metrics", {}),
        "holdout": evaluation.get("holdout", {}),
        "constant": evaluation.get("constant", {}),
        "champion": evaluation.get("champion"),
    }


def _outcome(known: Remembered, record: Record, evaluation: Facts) -> Facts:
    made, deployed = record.made, record.stage("deploy")
    version, registered = version_of(record), record.stage("register")
    champion = known.registry.champion_now(version.partition("/")[0]) if version else None
    return {
        "version": version,
        "bundle": made.get("bundle") or (registered.outputs.get("model") if registered else None),
        "passed": _passed(record, evaluation),
        "refused": [verdict["reason"] for verdict in evaluation.get("verdicts", []) if not verdict["passed"]],
        "against": made.get("against") or evaluation.get("champion_name") or None,
        "registered": registered.why if registered else None,
        "released": deployed is not None,
        "release_policy": {"deploy": record.config.get("deploy"), **(record.config.get("policy") or {})},
        "champion_now": str(champion.version) if champion and champion.version else None,
        "champion_stale": bool(champion and champion.stale),
        "scores": made.get("scores"),
        "report": made.get("report"),
    }


def _passed(record: Record, evaluation: Facts) -> bool | None:
    """Whether the gates said yes, by what the run wrote at its end, else by their verdicts."""
    verdicts = [bool(verdict["passed"]) for verdict in evaluation.get("verdicts", [])]
    found: bool | None = record.made.get("passed", all(verdicts) if verdicts else None)
    return found


def snapshot_of(store: Store, record: Record) -> tuple[str, int] | None:
    """The snapshot a run used: by its end, or, where it was killed before, by the stage that made it."""
    stage = record.stage("ingest")
    made = record.made.get("snapshot")
    if made is None and stage:
        try:
            made = kept_json(store, stage, "ingested.json")
        except (RaycycleError, OSError):
            return None
    return (made["name"], made["version"]) if made else None


def snapshots_of(store: Store) -> list[str]:
    """Every snapshot of the store by its name, the newest of each table first; only names of files are read."""
    found, tables = [], [*store.tables.iterdir()]
    for table in sorted(tables, key=lambda each: each.name):
        versions = [int(file.stem) for file in (table / "_delta_log").glob("*.json") if file.stem.isdigit()]
        found += [f"{table.name}@{version}" for version in sorted(versions, reverse=True)]
    return found


def _no_snapshot(store: Store, wanted: str) -> UsageError:
    name, every = wanted.partition("@")[0], snapshots_of(store)
    there = [each for each in every if each.partition("@")[0] == name]
    tables = dict.fromkeys(each.partition("@")[0] for each in every)
    return UsageError(
        "there is no such snapshot" if there else f"there is no snapshot of this dataset{suggest(name, tables)}",
        value=wanted,
        allowed=some(there or every) or "none yet",
        next="raycycle run --until ingest makes one",
    )


def _registered(known: Remembered, reference: str) -> tuple[Registered, bool]:
    """The version, and whether that is by the records alone because tracking is down."""
    try:
        return known.registry.find(reference), False
    except TrackingDown as down:
        # The oldest run that ended with the version is the one that registered it: later ones found it there.
        for record in reversed(known.found):
            stage = record.stage("register")
            if stage and version_of(record) == reference:
                known.note(f"its aliases: {down.what}")
                name, _, number = reference.partition("/")
                passed = bool(_passed(record, known.file(record, "evaluate", "evaluation.json")))
                return Registered(name, int(number), stage.outputs["model"], Path(), record.run_id, passed, ()), True
        raise


def _bundle(version: Registered) -> str:
    """Whether the version's bundle lies where it was put; its manifest's own digest is the bundle's."""
    manifest = version.folder / "bundle.json"
    if not version.folder.is_absolute():
        return "unknown"
    if not manifest.is_file():
        return "gone"
    return "there" if digests.of_file(manifest) == version.digest else "damaged"


def _answers(known: Remembered, name: str) -> Facts:
    """Which version the endpoint answers with, which one before it, and whether the platform is up."""
    from serve.releases import releases_file  # it brings Arrow with it, which a run's story does not need

    file, up = releases_file(known.store), platform.current(known.store)
    entry: Facts = {}
    if file.exists():
        try:
            entry = read_json(file)["models"].get(name) or {}
        except (RaycycleError, KeyError, TypeError, AttributeError):
            known.note(f"who answers: {file} is damaged")
    previous = entry.get("previous") or {}
    return {"up": up is not None, "url": up.url if up else None, "version": entry.get("version"), "previous": previous.get("version")}
