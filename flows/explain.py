"""The story of an id: of a run, a snapshot or a model version, what it is, where it came from, and what came of it.

$ raycycle explain latest        also: a run's first letters, flights@3 (a snapshot), flights/2, flights@champion
"""

from __future__ import annotations

import re
import shlex
import subprocess
import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from cluster import platform
from cluster.store import Store, read_json, safe_name, write_atomic
from conf.errors import RaycycleError, UsageError, some, suggest
from conf.targets import SOURCE
from flows import certificate, lineage_graph
from flows.certificate import shown
from flows.runs import SHORT, Damaged, every_record, kept_json, seconds_of, status_now, version_of
from ledger import digests
from ledger.environment import compare, environment
from ledger.records import Record, StageRun
from ledger.registry import Champion, Registered
from ledger.tracking import TrackingDown

Facts = dict[str, Any]

GRAPH = "explain.svg"
KINDS = "RUN (its first letters will do), latest, DATASET@VERSION, MODEL/VERSION, MODEL@champion, MODEL@candidate"
WIDTH, LABEL = 116, 12
_RUN = re.compile(r"[0-9a-f]{1,32}")
_SNAPSHOT = re.compile(r"(?P<name>[^@/]+)@(?P<version>\d{1,9})")
_VERSION = re.compile(r"(?P<name>[^@/]+)(/(?P<version>\d{1,9})|@(?P<alias>[a-z]\w*))")


class Versions(Protocol):
    """What is asked of the registry (`ledger.registry.Registry`)."""

    def find(self, reference: str) -> Registered: ...
    def champion_now(self, name: str) -> Champion: ...


@dataclass(frozen=True)
class Explained:
    """`facts` for scripts, `lines` for a person; `record` is the run whose graph shows where the thing came from, if it is known."""

    facts: Facts
    lines: list[str]
    record: Record | None


@dataclass
class Teller:
    """Tells from one store. What cannot be told, because its file is damaged or gone, is noted in `untold` instead."""

    store: Store
    registry: Versions
    untold: list[str] = field(default_factory=list)
    found: list[Record] = field(default_factory=list)
    damaged: list[Damaged] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.found, self.damaged = every_record(self.store)

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


def explain(store: Store, registry: Versions, reference: str) -> Explained:
    """Tell of what `reference` names. Raises UsageError, with what is close to it, when it names nothing or several things."""
    teller = Teller(store, registry)
    if reference == "latest" or _RUN.fullmatch(reference):
        record = _find_run(teller, reference)
        return _explained(teller, run_facts(teller, record), record)
    if parsed := _SNAPSHOT.fullmatch(reference):
        facts = snapshot_facts(teller, safe_name("dataset", parsed["name"]), int(parsed["version"]))
        return _explained(teller, facts, teller.run(facts["made_by"] or ""))
    if parsed := _VERSION.fullmatch(reference):
        safe_name("model", parsed["name"])
        facts = version_facts(teller, reference)
        return _explained(teller, facts, teller.run(facts["run_id"]))
    close = suggest(reference, [*_snapshots(teller), *{made for record in teller.found if (made := version_of(record))}])
    raise UsageError(f"this is not the id of anything{close}", value=reference, allowed=KINDS, next="raycycle runs")


def write_graph(store: Store, explained: Explained, into: Path | None) -> Path | None:
    """Draw where it came from, into the folder of its run unless told otherwise; None when its run is not known."""
    if explained.record is None:
        return None
    if into is not None and into.suffix != ".svg":
        raise UsageError("--graph is not the name of an SVG file", value=str(into), allowed="FILE.svg")
    graph = lineage_graph.of_run(explained.record, explained.facts.get("notes", {}))
    file = into or store.runs / explained.record.run_id / GRAPH
    try:
        return write_atomic(file, lineage_graph.draw(graph))
    except OSError as error:
        raise RaycycleError(f"the graph cannot be written ({error.strerror})", value=str(file), next="--graph FILE.svg") from None


def _explained(teller: Teller, facts: Facts, record: Record | None) -> Explained:
    tell = {"run": _tell_run, "snapshot": _tell_snapshot, "version": _tell_version}[facts["kind"]]
    facts["untold"] = teller.untold
    said = [*tell(facts), *(("not told", text) for text in teller.untold)]
    lines = [line for label, text in said for line in _wrapped(label, text)]
    return Explained(facts, lines, record)


def _wrapped(label: str, text: str) -> list[str]:
    """`text`, made harmless for a terminal, in lines of one width beside its label; a text without label is a heading."""
    text = shown(text, 4000)
    if not label:
        return textwrap.wrap(text, WIDTH, break_long_words=False, break_on_hyphens=False)
    first = f"  {label:<{LABEL - 2}}"
    indent = " " * (LABEL + (2 if text.startswith("- ") else 0))
    return textwrap.wrap(text, WIDTH, initial_indent=first, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)


# Which thing is meant


def _find_run(teller: Teller, reference: str) -> Record:
    """The run; a damaged record that is meant is an error which names its file."""
    if reference == "latest":
        if not teller.found:
            raise UsageError("there is no run yet", value=reference, next="raycycle run experiment=flights makes one")
        return teller.found[0]
    whole = {record.run_id: record for record in teller.found}
    damaged = {Path(each.file).parent.name: each for each in teller.damaged}
    known = [*whole, *damaged]
    fitting = [run_id for run_id in known if run_id.startswith(reference)]
    if len(fitting) == 1:
        if fitting[0] in whole:
            return whole[fitting[0]]
        found = damaged[fitting[0]]
        raise RaycycleError(f"the record of the run is damaged ({found.reason})", value=found.file, next="restore it from a backup")
    raise UsageError(
        f"no run has this id{suggest(reference, [run_id[: len(reference)] for run_id in known])}"
        if not fitting
        else "more than one run has an id that begins so",
        value=reference,
        allowed=some(fitting or known, 5) or "none yet",
        next="raycycle runs",
    )


# Facts: what scripts get, and what the words below are made of


def run_facts(teller: Teller, record: Record) -> Facts:
    """Everything that is known of a run."""
    evaluation = teller.file(record, "evaluate", "evaluation.json")
    data, won = _data(teller, record), _won(teller, record, evaluation)
    return {
        "kind": "run",
        "run_id": record.run_id,
        "run_verb": record.verb,
        "dataset": record.dataset,
        "status": status_now(teller.store, record),
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
        "outcome": _outcome(teller, record, evaluation),
        "reproduce": _reproduce(teller, record),
        "notes": _notes(record, data, won),
    }


def snapshot_facts(teller: Teller, name: str, version: int) -> Facts:
    """Everything that is known of a snapshot. Raises UsageError when neither the table nor a run knows it."""
    from tables import snapshots

    folder = snapshots.table_folder(teller.store, name)
    using = [record for record in reversed(teller.found) if _snapshot_of(teller, record) == (name, version)]
    digest, files, gone = None, 0, None
    try:
        found = snapshots.open_snapshot(teller.store, name, version)
        digest, files = str(found.digest), len(found.files)
        if missing := [file.name for file in found.files if not file.path.is_file()]:
            gone = f"{len(missing)} of its {files} files are gone, {missing[0]} the first"
    except RaycycleError as error:
        if not using:
            raise _no_snapshot(teller, f"{name}@{version}") from None
        gone = error.what
    digest = digest or next((stage.outputs.get("rows") for record in using if (stage := record.stage("ingest"))), None)
    maker = next((record for record in using if (stage := record.stage("ingest")) and stage.ran), None)
    ingested = maker.stage("ingest") if maker else None
    learned = [record for record in using if record.stage("prepare")]
    return {
        "kind": "snapshot",
        "dataset": name,
        "version": version,
        "digest": digest,
        "rows": _rows(digest),
        "files": files,
        "gone": gone,
        "folder": str(folder),
        "made_by": maker.run_id if maker else (using[0].stage("ingest") or _NOTHING).made_by if using else None,
        "made": maker.started if maker else None,
        "source": ingested.inputs.get("source") if ingested else None,
        **_counts(teller.file(maker, "ingest", "ingested.json") if maker else {}),
        "learned": [{"run_id": record.run_id, "started": record.started, "status": record.status} for record in learned],
        "versions": list(dict.fromkeys(made for record in learned if (made := version_of(record)))),
    }


def version_facts(teller: Teller, reference: str) -> Facts:
    """Everything that is known of a model version; from the records alone where tracking is down."""
    version, down = _registered(teller, reference)
    name = str(version)
    record = teller.run(version.run_id)
    if record is None:
        teller.note(f"the record of run {version.run_id[:SHORT]}, which made {name}, is gone or damaged")
    evaluation = teller.file(record, "evaluate", "evaluation.json") if record else {}
    data, won = (_data(teller, record), _won(teller, record, evaluation)) if record else ({}, {})
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
        "also_made_by": [each.run_id for each in teller.found if version_of(each) == name and each.run_id != version.run_id],
        "data": data,
        "won": won,
        "gates": evaluation.get("verdicts", []),
        "against": evaluation.get("champion_name") or None,
        "answers": _answers(teller, version.name),
        "notes": _notes(record, data, won) if record else {},
    }


_NOTHING = StageRun(stage="", ran=False, why="", seconds=0.0)


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


def _data(teller: Teller, record: Record) -> Facts:
    stage = record.stage("ingest")
    if stage is None:
        return {}
    ingested = teller.file(record, "ingest", "ingested.json")
    made = record.made.get("snapshot") or ingested
    digest = stage.outputs.get("rows")
    return {
        "snapshot": f"{made['name']}@{made['version']}" if made else None,
        "digest": digest,
        "rows": _rows(digest),
        "source": stage.inputs.get("source"),
        **_counts(ingested),
    }


def _counts(ingested: Facts) -> Facts:
    return {"quarantined": ingested.get("quarantined"), "warned": ingested.get("warned")}


def _rows(digest: str | None) -> int | None:
    """The number of rows, which is a part of their digest (`rows1:ROWS:SUM`)."""
    parts = (digest or "").split(":")
    return int(parts[1]) if len(parts) == 3 and parts[1].isdigit() else None


def _stage(stage: StageRun) -> Facts:
    fields = ("stage", "ran", "why", "seconds", "made_by", "key", "folder", "inputs", "outputs", "resources")
    return {name: getattr(stage, name) for name in fields}


def _won(teller: Teller, record: Record, evaluation: Facts) -> Facts:
    """The best trial, how it was found, and how good it is."""
    swept = teller.file(record, "sweep", "swept.json")
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


def _outcome(teller: Teller, record: Record, evaluation: Facts) -> Facts:
    made, deployed = record.made, record.stage("deploy")
    version, registered = version_of(record), record.stage("register")
    champion = teller.registry.champion_now(version.partition("/")[0]) if version else None
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


def _snapshot_of(teller: Teller, record: Record) -> tuple[str, int] | None:
    """The snapshot a run used: by its end, or, where it was killed before, by the stage that made it."""
    stage = record.stage("ingest")
    made = record.made.get("snapshot")
    if made is None and stage:
        try:
            made = kept_json(teller.store, stage, "ingested.json")
        except (RaycycleError, OSError):
            return None
    return (made["name"], made["version"]) if made else None


def _snapshots(teller: Teller) -> list[str]:
    """Every snapshot of the store by its name, the newest of each table first; only names of files are read."""
    found = []
    for table in sorted(teller.store.tables.iterdir()):
        versions = [int(file.stem) for file in (table / "_delta_log").glob("*.json") if file.stem.isdigit()]
        found += [f"{table.name}@{version}" for version in sorted(versions, reverse=True)]
    return found


def _no_snapshot(teller: Teller, wanted: str) -> UsageError:
    name, known = wanted.partition("@")[0], _snapshots(teller)
    there = [each for each in known if each.partition("@")[0] == name]
    tables = dict.fromkeys(each.partition("@")[0] for each in known)
    return UsageError(
        "there is no such snapshot" if there else f"there is no snapshot of this dataset{suggest(name, tables)}",
        value=wanted,
        allowed=some(there or known) or "none yet",
        next="raycycle run --until ingest makes one",
    )


def _registered(teller: Teller, reference: str) -> tuple[Registered, bool]:
    """The version, and whether that is by the records alone because tracking is down."""
    try:
        return teller.registry.find(reference), False
    except TrackingDown as down:
        # The oldest run that ended with the version is the one that registered it: later ones found it there.
        for record in reversed(teller.found):
            stage = record.stage("register")
            if stage and version_of(record) == reference:
                teller.note(f"its aliases: {down.what}")
                name, _, number = reference.partition("/")
                passed = bool(_passed(record, teller.file(record, "evaluate", "evaluation.json")))
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


def _answers(teller: Teller, name: str) -> Facts:
    """Which version the endpoint answers with, which one before it, and whether the platform is up."""
    from serve.releases import releases_file  # it brings Arrow with it, which a run's story does not need

    file, up = releases_file(teller.store), platform.current(teller.store)
    entry: Facts = {}
    if file.exists():
        try:
            entry = read_json(file)["models"].get(name) or {}
        except (RaycycleError, KeyError, TypeError, AttributeError):
            teller.note(f"who answers: {file} is damaged")
    previous = entry.get("previous") or {}
    return {"up": up is not None, "url": up.url if up else None, "version": entry.get("version"), "previous": previous.get("version")}


def _reproduce(teller: Teller, record: Record) -> Facts:
    """What would keep `raycycle reproduce` from replaying the run, and what may make it come out otherwise."""
    prevented, doubts = [*_no_data(teller, record), *_no_code(teller, record), *_no_champion(teller, record)], []
    if redacted := record.changes.redacted:
        doubts.append(f"secrets were taken out of {len(redacted)} kept files ({some(redacted, 3)}), so these differ from what ran")
    if left_out := [path for path in record.changes.left_out if path != "."]:
        doubts.append(f"{len(left_out)} files of the code were not kept ({some(left_out, 3)})")
    if (record.config.get("sweep") or {}).get("mode") == "fast":
        doubts.append("it searched in fast mode, whose trials depend on the clock")
    doubts += [f"the environment differs: {difference}" for difference in compare(record.environment, environment())]
    return {
        "command": f"raycycle reproduce {record.run_id[:SHORT]}",
        "possible": not prevented,
        "prevented": prevented,
        "doubts": doubts,
        "certificate": _certificate(teller, record),
    }


def _no_data(teller: Teller, record: Record) -> Iterator[str]:
    from tables import snapshots

    if (made := record.made.get("snapshot")) is None:
        yield "the run ended before its record named a snapshot"
        return
    try:
        found = snapshots.open_snapshot(teller.store, made["name"], made["version"])
    except RaycycleError as error:
        yield f"its snapshot is gone ({error.what})"
        return
    if str(found.digest) != made["digest"]:
        yield f"{found} is not the snapshot that the run learned from"
    if missing := [file.name for file in found.files if not file.path.is_file()]:
        yield f"{len(missing)} of the {len(found.files)} files of {found} are gone"


def _no_code(teller: Teller, record: Record) -> Iterator[str]:
    changes = record.changes
    if changes.commit is None and not changes.repository:
        if not record.pack or not (teller.store.root / "cache" / "code" / record.pack[:16]).is_dir():
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


def _no_champion(teller: Teller, record: Record) -> Iterator[str]:
    """The champion of then is needed to judge the candidate again."""
    stage = record.stage("evaluate")
    digest = stage.inputs.get("champion") if stage else None
    if digest in (None, "none"):
        return
    kept = (teller.store.root / "cache" / "stages").glob("*/evaluate/*/bundle/bundle.json")
    if not any(digests.of_file(manifest) == digest for manifest in kept):
        yield f"the champion it was measured against ({_short(digest)}) is gone from the cache"


def _certificate(teller: Teller, record: Record) -> Facts | None:
    """How the last replay of the run ended, by its certificate."""
    folder = teller.store.runs / record.run_id / "certificate"
    if not (folder / certificate.JSON_FILE).is_file():
        return None
    try:
        found = certificate.read(folder, teller.store)
    except RaycycleError as error:
        teller.note(error.message.partition("\n")[0])
        return None
    return {"verdict": found.verdict, "made": found.made, "by": found.by, "file": str(folder / certificate.JSON_FILE)}


def _notes(record: Record, data: Facts, won: Facts) -> dict[str, str]:
    """A line of plain words for the boxes of the graph, by stage."""
    notes = {}
    if data.get("snapshot"):
        notes["ingest"] = f"{data['snapshot']}, {data['rows'] or 0:,} rows"
    if won:
        notes["sweep"] = f"{won['trials'] or 'its'} trials, best {won['trainer']}"
        if (value := won["holdout"].get("metrics", {}).get(won["metric"])) is not None:
            notes["evaluate"] = f"{won['trainer']}, {won['metric']} {_figure(value)}"
    if version := version_of(record):
        notes["register"] = f"{version}, {'refused' if record.made.get('passed') is False else 'passed'}"
    return notes


# Words: what a person reads


Said = Iterator[tuple[str, str]]


def _tell_run(facts: Facts) -> Said:
    yield "", f"Run {facts['run_id']}: {facts['run_verb']} of {facts['dataset']}, {_status(facts['status'])}."
    took = f" It took {facts['took_s']:.1f} s." if facts["took_s"] is not None else ""
    until = f" up to the stage {facts['until']}" if facts["until"] != "report" else ""
    yield "who", f"{facts['who'] or 'Somebody'} started it on {_when(facts['started'])}{until}, with seed {facts['seed']}.{took}"
    if facts["command"]:
        yield "command", shlex.join(facts["command"])
    if facts["error"]:
        yield "error", facts["error"]
    yield "code", _code_words(facts["code"])
    yield "machine", _machine_words(facts["environment"])
    yield from _tell_data(facts["data"])
    for at, stage in enumerate(facts["stages"]):
        yield ("" if at else "stages") or " ", _stage_words(stage)
    yield from _tell_won(facts["won"])
    yield from _tell_gates(facts["gates"])
    yield "outcome", _outcome_words(facts["outcome"], facts["status"])
    yield from _tell_reproduce(facts["reproduce"])


def _tell_snapshot(facts: Facts) -> Said:
    rows = f"{facts['rows']:,} rows" if facts["rows"] is not None else "rows that are not known"
    yield "", f"Snapshot {facts['dataset']}@{facts['version']}: {rows}, digest {facts['digest'] or 'not known'}."
    yield "files", f"It cannot be read any more: {facts['gone']}." if facts["gone"] else f"{facts['files']} files in {facts['folder']}."
    if facts["made"]:
        source = f"from a source with the fingerprint {_short(facts['source'])}" if facts["source"] else "from a source without fingerprint"
        yield "made", f"Run {facts['made_by'][:SHORT]} made it on {_when(facts['made'])}, {source}."
    else:
        made_by = f"run {facts['made_by'][:SHORT]}, whose record is gone" if facts["made_by"] else "no run that is known"
        yield "made", f"It was made by {made_by}."
    yield from _tell_counts(facts)
    runs = [f"{each['run_id'][:SHORT]} ({each['started'][:10]}, {each['status']})" for each in facts["learned"]]
    yield "learned", f"{_count(len(runs), 'run')} learned from it: {some(runs, 8)}." if runs else "No run has learned from it."
    yield "versions", f"Model versions that came of it: {some(facts['versions'])}." if facts["versions"] else "No model version came of it."


def _tell_version(facts: Facts) -> Said:
    name = f"{facts['model']}/{facts['version']}"
    aliases = "aliases not known" if facts["aliases"] is None else " and ".join(facts["aliases"]) or "without alias"
    yield "", f"Model version {name}: {aliases}; its gates said {'yes' if facts['passed'] else 'no'}."
    when = f" on {_when(facts['made'])}" if facts["made"] else ""
    others = f" The same model came of {_count(len(facts['also_made_by']), 'other run')}." if facts["also_made_by"] else ""
    yield "made", f"Run {facts['run_id'][:SHORT]} made it{when}.{others}"
    state = {"there": "lies in", "gone": "is gone from", "damaged": "has another digest in"}.get(facts["bundle"])
    yield "bundle", f"Digest {facts['digest']}" + (f"; the bundle {state} {facts['folder']}." if state else ".")
    yield from _tell_data(facts["data"])
    yield from _tell_won(facts["won"])
    yield from _tell_gates(facts["gates"])
    yield "answers", _answers_words(facts, name)


def _code_words(code: Facts) -> str:
    if code["commit"] is None and code["branch"] is None:
        return f"No commit is known: {code['left_out'].get('.', 'no git repository')}. The workers imported pack {_short(code['pack'])}."
    said = f"Commit {code['commit'][:SHORT] if code['commit'] else 'none yet'} on {code['branch'] or 'no branch'}"
    said += f", with {_count(len(code['changed']), 'changed file')} ({some(code['changed'], 4)})." if code["changed"] else ", unchanged."
    if code["redacted"]:
        said += f" Secrets were taken out of {_count(len(code['redacted']), 'kept file')} ({some(code['redacted'], 4)})."
    if code["left_out"]:
        said += f" Not kept: {some([f'{path} ({why})' for path, why in code['left_out'].items()], 3)}."
    return said


def _machine_words(found: Facts) -> str:
    threads = "".join(f", {name}={value}" for name, value in sorted((found["threads"] or {}).items()))
    return (
        f"{found['implementation'] or 'Python'} {found['python']}, lock file {_short(found['lock_digest'])}; "
        f"{found['processor']} ({found['machine']}), {found['usable_cpus']} CPUs, {found['memory_gib']} GiB, {found['system']}{threads}."
    )


def _tell_data(data: Facts) -> Said:
    if not data:
        yield "data", "It ended before it had any."
        return
    rows = f"{data['rows']:,} rows, " if data["rows"] is not None else ""
    source = f" Its source had the fingerprint {_short(data['source'])}." if data["source"] else " Its source has no fingerprint."
    yield "data", f"Snapshot {data['snapshot'] or 'not known'}: {rows}digest {data['digest']}.{source}"
    yield from _tell_counts(data)


def _tell_counts(found: Facts) -> Said:
    for name, what in (("quarantined", "Not let in"), ("warned", "Let in with a warning")):
        if counts := found[name]:
            rules = [f"{rule} ({count:,})" for rule, count in sorted(counts.items(), key=lambda each: -each[1])]
            yield " ", f"{what}: {_count(sum(counts.values()), 'row')}, by rule {some(rules, 5)}."
        elif counts is not None and name == "quarantined":
            yield " ", "No row was quarantined."


def _stage_words(stage: Facts) -> str:
    name, why, seconds = stage["stage"], stage["why"], f"{stage['seconds']:.1f} s"
    how = f"ran in {seconds} ({why})" if stage["ran"] else f"was kept, {why} ({seconds})"
    read = f"; read {_digests(stage['inputs'])}" if stage["inputs"] and name != "report" else ""
    return f"- {name} {how}{read}; made {_digests(stage['outputs']) or 'nothing'}"


def _digests(found: dict[str, str | None]) -> str:
    return ", ".join(f"{name} {_short(digest)}" for name, digest in found.items())


def _tell_won(won: Facts) -> Said:
    if not won:
        return
    params = ", ".join(f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in won["params"].items())
    of = f" of {won['trials']}" if won["trials"] else ""
    ended = ", ".join(f"{count} {status}" for status, count in won["not_finished"].items() if count)
    yield "won", f"{won['trainer']}, trial {won['trial']}{of}{f' ({ended})' if ended else ''}, with {params or 'its defaults'}."
    metric, holdout = won["metric"], won["holdout"]
    said = [f"{metric} {_figure(won['validation'][metric])} on the validation rows"] if metric in won["validation"] else []
    if metric in holdout.get("metrics", {}):
        interval = holdout["intervals"].get(metric)
        between = f" (95 %: {_figure(interval[0])} to {_figure(interval[1])})" if interval else ""
        said.append(f"{_figure(holdout['metrics'][metric])}{between} on {holdout['rows']:,} rows nobody learned from")
        rivals = {"a constant answer": won["constant"], "the champion of then": won["champion"] or {}}
        said += [f"{who} has {_figure(theirs[metric])}" for who, theirs in rivals.items() if metric in theirs]
    if said:
        yield " ", f"{'; '.join(said)}."


def _tell_gates(verdicts: Sequence[Facts]) -> Said:
    if verdicts:
        passed = sum(verdict["passed"] for verdict in verdicts)
        yield "gates", f"{passed} of {len(verdicts)} said yes."
        for verdict in verdicts:
            yield " ", f"- {verdict['name']} {'yes' if verdict['passed'] else 'NO'}: {verdict['reason']}"


def _outcome_words(found: Facts, status: str) -> str:
    against = f"against champion {found['against']}" if found["against"] else "with no champion to beat"
    if found["version"] is None:
        waits = found["registered"] == "tracking is down"
        return (
            f"A model was made, {against}; it waits in the spool to be registered."
            if waits
            else f"Nothing was registered: the run {'goes on' if status == 'RUNNING' else 'did not come so far'}."
        )
    said = f"Registered as {found['version']}, {against}"
    if found["passed"] is False:
        said += f"; refused: {'; '.join(found['refused']) or 'by its gates'}."
    elif found["released"]:
        said += "; it passed its gates and was released as champion."
    else:
        policy = found["release_policy"]
        why = f"deploy={policy['deploy']}" if policy.get("deploy") == "none" else "the run ended before"
        said += f"; it passed its gates and was not released ({why})."
    now, known = found["champion_now"], "; tracking is down, so this is the last known" if found["champion_stale"] else ""
    return f"{said} The champion is {'this very version' if now == found['version'] else now or 'nobody'} now{known}."


def _answers_words(facts: Facts, name: str) -> str:
    found = facts["answers"]
    live, before = found["version"], found["previous"]
    where = f"at {found['url']}" if found["up"] else "once the platform is up (raycycle up)"
    if live is None:
        said = f"No version of {facts['model']} was ever released here."
    elif live == facts["version"]:
        said = f"It answers {where}; it replaced {facts['model']}/{before}." if before else f"It answers {where}; it is the first that did."
    else:
        said = f"{facts['model']}/{live} answers {where}{', in the place of this one' if before == facts['version'] else ''}."
    return f"{said} {name} was measured against {facts['against']}." if facts["against"] else f"{said} It was measured against no champion."


def _tell_reproduce(found: Facts) -> Said:
    if found["prevented"]:
        yield "again", f"It cannot be reproduced: {'; '.join(found['prevented'])}."
    else:
        yield "again", f"{found['command']} can replay it."
    for doubt in found["doubts"]:
        yield " ", f"- but {doubt}"
    if made := found["certificate"]:
        yield " ", f"Replayed by {made['by']} on {_when(made['made'])}: {made['verdict']}."


def _status(status: str) -> str:
    return {"RUNNING?": "perhaps running (its process cannot be seen from here)"}.get(status, status)


def _when(time: str) -> str:
    return f"{time[:10]} at {time[11:19]} UTC"


def _short(digest: str | None) -> str:
    """The first letters of a digest; a digest of rows begins with how many they are."""
    if not digest:
        return "unknown"
    parts = digest.split(":")
    return f"{parts[1]}:{parts[2][:SHORT]}" if _rows(digest) is not None else digest[:SHORT]


def _figure(value: float | str) -> str:
    """A metric; what is not finite is kept as text, since JSON has no word for it."""
    return f"{float(value):.4f}"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"
