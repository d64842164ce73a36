"""Which versions of a table are still needed, by whom, and the removal of the files that none of those names.

$ raycycle data vacuum flights --dry-run
"""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import unquote

from cluster.objects import Folder, Listed, ObjectPath, listed
from cluster.store import Store
from conf.errors import UsageError
from ledger import locks
from tables.log import Tombstone, Version, bury, history, named
from tables.parts import orphans_of
from tables.places import delta, table_folder

SAFE_AGE_S = 7 * 86_400.0


@dataclass(frozen=True)
class Use:
    """Who needs a version, in words: "model flights/7", "run 1f0c (running)". `version` None: which one is not known, so any may be it."""

    who: str
    version: int | None


@dataclass(frozen=True)
class Vacuum:
    """What a vacuum removes, or with `dry_run` would: the versions `gone`, their files, left-over ones. `kept` says why of each other."""

    name: str
    kept: Mapping[int, tuple[str, ...]]
    gone: tuple[int, ...]
    files: tuple[Listed, ...]
    dry_run: bool

    @property
    def size(self) -> int:
        """In bytes."""
        return sum(file.size for file in self.files)


def retained(versions: Sequence[Version], uses: Iterable[Use], newest: int) -> dict[int, tuple[str, ...]]:
    """The versions to keep, each with the reasons: the `newest` ones, and all that somebody uses or may use.

    Of `versions` (as `history` tells them) those already vacuumed are never kept. Raises UsageError unless `newest` is 1 or more.
    """
    if newest < 1:
        raise UsageError("the newest version is always kept", value=newest, allowed="1 or more")
    there = sorted((version.number for version in versions if version.vacuumed is None), reverse=True)
    why: dict[int, list[str]] = {number: ["newest"] for number in there[:newest]}
    for use in uses:
        for number in there if use.version is None else [use.version]:
            if number in there:
                why.setdefault(number, []).append(use.who if use.version is not None else f"{use.who}, whose version is not known")
    return {number: tuple(dict.fromkeys(why[number])) for number in sorted(why, reverse=True)}


def vacuum(
    store: Store,
    name: str,
    keep: Callable[[Sequence[Version]], Mapping[int, Sequence[str]]],
    *,
    dry_run: bool = True,
    safe_age_s: float | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> Vacuum:
    """Remove every file that no kept version names; opening a removed version says from then on when it was vacuumed.

    `keep` is asked, under the table's lock, which of the versions to keep and why (`retained`); the latest is kept whatever it says.
    First each version is marked as gone, then its files are removed: one that is killed in between is finished by the next. A reader
    of a removed version gets its rows or the word that it was vacuumed. What is younger than `safe_age_s` stays (null: a week in an
    object store, where writers and readers on other machines hold no lock of this one; 0 in a folder).
    Raises UsageError when there is no such table.
    """
    with locks.lease(store, f"table-{name}", say) as lease:
        plan = _plan(store, name, keep, dry_run, safe_age_s)
        if not dry_run:
            lease.check()
            _remove(table_folder(store, name), plan, history(store, name))
    return plan


def _plan(
    store: Store, name: str, keep: Callable[[Sequence[Version]], Mapping[int, Sequence[str]]], dry_run: bool, safe_age_s: float | None
) -> Vacuum:
    folder = table_folder(store, name)
    age = safe_age_s if safe_age_s is not None else SAFE_AGE_S if isinstance(folder, ObjectPath) else 0.0
    versions = history(store, name)
    if not versions:
        raise UsageError("there is no such table", value=name, next="raycycle data snapshots")
    there = [version for version in versions if version.vacuumed is None]
    kept = {number: tuple(why) for number, why in keep(versions).items()}
    kept.setdefault(versions[0].number, ("newest",))
    for version, after in zip(there[1:], there, strict=False):
        if _age(after.made) < age:  # it was the latest until then
            kept.setdefault(version.number, (f"was the latest less than {age / 3600:.0f} hours ago",))
    gone = tuple(version.number for version in there if version.number not in kept)
    return Vacuum(name, dict(sorted(kept.items(), reverse=True)), gone, tuple(_unneeded(folder, kept, age)), dry_run)


def _unneeded(folder: Folder, kept: Iterable[int], age: float) -> list[Listed]:
    """The files that no kept version names; one that no version at all names may be a writer's that is not done, until it is old."""
    # The log is read after the folder: what a writer commits meanwhile is either not in the one or in the other.
    files = listed(folder)
    orphans = {file.name for file in orphans_of(folder) if time.time() - file.modified >= age}
    known = named(folder)
    needed = set().union(*(_files(folder, version) for version in kept))
    return [file for file in files if file.name in orphans or (file.name in known and file.name not in needed)]


def _remove(folder: Folder, plan: Vacuum, versions: Sequence[Version]) -> None:
    date = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    names = tuple(file.name for file in plan.files)
    for version in versions:
        if version.number in plan.gone:
            digest = str(version.digest) if version.digest else "not known"
            own = tuple(sorted({*names} & _files(folder, version.number)))
            bury(folder, Tombstone(version.number, digest, version.rows or 0, date, own))
    for name in names:
        (folder / name).unlink(missing_ok=True)


def _files(folder: Folder, version: int) -> set[str]:
    return {unquote(uri.rsplit("/", 1)[-1]) for uri in delta(folder, version).file_uris()}


def _age(made: str) -> float:
    return time.time() - dt.datetime.fromisoformat(made).timestamp()
