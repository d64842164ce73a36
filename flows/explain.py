"""The story of an id: of a run, a snapshot or a model version, what it is, where it came from, and what came of it.

$ raycycle explain latest        also: a run's first letters, flights@3 (a snapshot), flights/2, flights@champion
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from cluster.store import Store, safe_name, write_atomic
from conf.errors import RaycycleError, UsageError, suggest
from flows import lineage_graph, told
from flows.facts import Facts, Remembered, Versions, run_facts, snapshot_facts, snapshots_of, version_facts
from flows.runs import version_of
from ledger import records
from ledger.records import Record

KINDS = "RUN (its first letters will do), latest, DATASET@VERSION, MODEL/VERSION, MODEL@champion, MODEL@candidate"
_RUN = re.compile(r"[0-9a-f]{1,32}")
_SNAPSHOT = re.compile(r"(?P<name>[^@/]+)@(?P<version>\d{1,9})")
_VERSION = re.compile(r"(?P<name>[^@/]+)(/(?P<version>\d{1,9})|@(?P<alias>[a-z]\w*))")


@dataclass(frozen=True)
class Explained:
    """`facts` for scripts, `lines` for a person; `record` is the run whose graph shows where the thing came from, if it is known."""

    facts: Facts
    lines: list[str]
    record: Record | None


def explain(store: Store, registry: Versions, reference: str) -> Explained:
    """Tell of what `reference` names. Raises UsageError, with what is close to it, when it names nothing or several things."""
    known = Remembered(store, registry)
    if reference == records.LATEST or _RUN.fullmatch(reference):
        record = records.chosen(reference, known.found, known.damaged)
        return _explained(known, run_facts(known, record), record)
    if parsed := _SNAPSHOT.fullmatch(reference):
        facts = snapshot_facts(known, safe_name("dataset", parsed["name"]), int(parsed["version"]))
        return _explained(known, facts, known.run(facts["made_by"] or ""))
    if parsed := _VERSION.fullmatch(reference):
        safe_name("model", parsed["name"])
        facts = version_facts(known, reference)
        return _explained(known, facts, known.run(facts["run_id"]))
    close = suggest(reference, [*snapshots_of(store), *{made for record in known.found if (made := version_of(record))}])
    raise UsageError(f"this is not the id of anything{close}", value=reference, allowed=KINDS, next="raycycle runs")


def write_graph(store: Store, explained: Explained, into: Path | None) -> Path | None:
    """Draw where it came from, into the folder of its run unless told otherwise; None when its run is not known."""
    if explained.record is None:
        return None
    if into is not None and into.suffix != ".svg":
        raise UsageError("--graph is not the name of an SVG file", value=str(into), allowed="FILE.svg")
    graph = lineage_graph.of_run(explained.record, explained.facts.get("notes", {}))
    if into is not None and not into.parent.is_dir():
        raise UsageError("the folder of --graph is not there", value=str(into.parent), next=f"mkdir -p {shlex.quote(str(into.parent))}")
    file = into or store.runs / explained.record.run_id / f"explain-{explained.facts['kind'].replace(' ', '-')}.svg"
    try:
        return write_atomic(file, lineage_graph.draw(graph))
    except OSError as error:
        raise RaycycleError(f"the graph cannot be written ({error.strerror})", value=str(file), next="--graph FILE.svg") from None


def _explained(known: Remembered, facts: Facts, record: Record | None) -> Explained:
    if facts["kind"] != "snapshot":
        facts["notes"] = told.notes(record, facts["data"], facts["won"]) if record else {}
    facts["untold"] = known.untold
    return Explained(facts, told.lines(facts), record)
