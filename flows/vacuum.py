"""Which versions of a table somebody still needs, and the removal of the others: told first, done only when asked for.

$ raycycle data vacuum flights --keep 3          # says what would go
$ raycycle data vacuum flights --keep 3 --yes
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from cluster.store import Store, read_json
from conf.errors import UsageError
from flows.facts import snapshot_of
from flows.reproduce import replays
from flows.runs import SHORT, status_now, version_of
from flows.versions import Version, size, versions
from ledger import locks, records
from ledger.records import Record
from ledger.registry import Registered
from ledger.stages import StageCache

if TYPE_CHECKING:
    from tables.retention import Use, Vacuum

KEEP = 3


class Models(Protocol):
    """What is asked of the registry (`ledger.registry.Registry`)."""

    def names(self) -> list[str]: ...
    def versions(self, name: str) -> list[Registered]: ...


@dataclass(frozen=True)
class Vacuumed:
    """What a vacuum of a table removed, or would remove; `versions` as they were before."""

    plan: Vacuum
    versions: list[Version]

    @property
    def name(self) -> str:
        return self.plan.name

    def as_json(self) -> dict[str, Any]:
        return {
            "dataset": self.name,
            "dry_run": self.plan.dry_run,
            "kept": {str(version): list(why) for version, why in self.plan.kept.items()},
            "gone": list(self.plan.gone),
            "files": len(self.plan.files),
            "bytes": self.plan.size,
        }

    def lines(self) -> list[str]:
        said = []
        for each in self.versions:
            if each.version in self.plan.kept:
                said.append(f"{each!s:<20} stays  {'; '.join(self.plan.kept[each.version])}")
            elif each.version in self.plan.gone:
                runs = f"; {len(each.runs)} run{'' if len(each.runs) == 1 else 's'} cannot be replayed then" if each.runs else ""
                said.append(f"{each!s:<20} goes   {each.rows or 0:,} rows, nobody needs it{runs}")
        freed = f"{size(self.plan.size)} in {len(self.plan.files)} file{'' if len(self.plan.files) == 1 else 's'}"
        if not self.plan.dry_run:
            return [*said, f"{freed} freed"]
        if not self.plan.files and not self.plan.gone:
            return [*said, "nothing would go"]
        return [*said, f"{freed} would be freed; nothing was removed: --yes does it"]


def vacuum(store: Store, registry: Models, name: str, keep: int = KEEP, *, dry_run: bool = True) -> Vacuumed:
    """Find out who needs which version, and remove the files of the others unless `dry_run`.

    Raises UsageError when there is no such table, and TrackingDown when it cannot be known which models are registered.
    """
    from tables import retention

    found = versions(store, name)
    if keep < 1:
        raise UsageError("--keep is out of range", value=keep, allowed="1 or more")

    def needed(there: Sequence[Any]) -> dict[int, tuple[str, ...]]:
        kept = retention.retained(there, [*uses(store, registry, name)], keep)
        if not dry_run:
            # Before the files: a run that finds such a result would take a version that is no more.
            _forget(store, name, {version.number for version in there} - kept.keys())
        return kept

    return Vacuumed(retention.vacuum(store, name, needed, dry_run=dry_run), found)


def uses(store: Store, registry: Models, name: str) -> Iterator[Use]:
    """Everybody who needs a version of the table: registered models, those that answer, running jobs and replays."""
    from tables.retention import Use

    known = {record.run_id: record for record in records.every(store)[0]}
    yield from _registered(store, registry, name, known)
    yield from _answering(store, name, known)
    yield from _running(store, name, known)
    for _, begins, _ in replays(store):
        record = next((each for run_id, each in known.items() if run_id.startswith(begins)), None)
        if record and record.dataset == name:
            yield Use(f"replay of run {begins}", _version(store, name, record))


def _registered(store: Store, registry: Models, name: str, known: dict[str, Record]) -> Iterator[Use]:
    from tables.retention import Use

    for model in registry.names():
        for version in registry.versions(model):
            record = known.get(version.run_id)
            aliases = f" ({', '.join(sorted(version.aliases))})" if version.aliases else ""
            if record is None:
                # Its run's record is gone: it may have learned from any version, of the table of its name as far as can be told.
                if model == name:
                    yield Use(f"model {version}{aliases}", None)
            elif record.dataset == name and (used := _version(store, name, record)) is not None:
                yield Use(f"model {version}{aliases}", used)


def _answering(store: Store, name: str, known: dict[str, Record]) -> Iterator[Use]:
    """The versions that the endpoint answers with, and those a rollback would go back to, whatever the registry says of them."""
    from serve.releases import releases_file
    from tables.retention import Use

    file = releases_file(store)
    models = read_json(file)["models"] if file.exists() else {}
    for model, entry in sorted(models.items()):
        for what, number in (("answers", entry.get("version")), ("answered before", (entry.get("previous") or {}).get("version"))):
            wanted = f"{model}/{number}"
            made = [each for each in known.values() if version_of(each) == wanted and each.dataset == name]
            for used in {_version(store, name, each) for each in made} - {None}:
                yield Use(f"{wanted} {what}", used)


def _running(store: Store, name: str, known: dict[str, Record]) -> Iterator[Use]:
    """Runs that are not at their end, and those whose model waits for tracking to be registered."""
    from tables.retention import Use

    for record in known.values():
        running = status_now(store, record).startswith("RUNNING")
        waits = (store.root / "spool" / f"{record.run_id}.jsonl").exists()
        if record.dataset == name and (running or waits):
            asked = record.config.get("snapshot")
            what = "running" if running else "not yet told to tracking"
            yield Use(f"run {record.run_id[:SHORT]} ({what})", _version(store, name, record) if asked is None else asked)


def _version(store: Store, name: str, record: Record) -> int | None:
    used = snapshot_of(store, record)
    return used[1] if used and used[0] == name else None


def _forget(store: Store, name: str, gone: set[int]) -> None:
    """Drop the kept results of ingest that name a version which goes, so that the next run reads its source again."""
    cache = StageCache(store, name, lambda text: None)
    for kept in cache.all("ingest"):
        file = kept.folder / "ingested.json"
        try:
            made = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if made.get("name") == name and made.get("version") in gone:
            with locks.unless_held(store, f"stage-{kept.folder.name}") as mine:
                if mine:
                    shutil.rmtree(kept.folder, ignore_errors=True)
