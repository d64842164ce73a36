"""Registered model versions: a name, a number, the digest of a bundle, and the aliases candidate and champion."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from cluster.store import read_json, safe_name, write_json
from conf.errors import RaycycleError, UsageError, suggest
from conf.uris import redacted
from ledger.tracking import RUN_TAG, Tracking, TrackingDown, local_path, pages

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

FORMAT = 1
CANDIDATE, CHAMPION = "candidate", "champion"
DIGEST, PASSED = "raycycle.digest", "raycycle.gates_passed"
_REFERENCE = re.compile(r"(?P<name>[^@/]+)(?:/(?P<version>\d+)|@(?P<alias>\w+))?")


@dataclass(frozen=True)
class Registered:
    """One version: where its bundle lies, the digest that the bundle must have, and the run of ours that made it."""

    name: str
    version: int
    digest: str
    folder: Path
    run_id: str
    passed: bool
    aliases: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name}/{self.version}"


@dataclass(frozen=True)
class Champion:
    """The champion of a model, None where there is none. `stale`: tracking is down, so this is what was known when it last answered."""

    version: Registered | None
    stale: bool = False


class Registry:
    """Model versions in MLflow's registry. An alias moves last: a crash before changes nothing.

    Making one costs nothing; the first question opens `tracking`, and raises TrackingDown when it does not answer.
    """

    def __init__(self, tracking: Tracking) -> None:
        self._tracking, self._store = tracking, tracking.store

    def register(self, name: str, run_id: str, folder: Path, digest: str, *, passed: bool, tags: Mapping[str, str]) -> Registered:
        """Make the bundle in `folder` the next version; the same bundle again is the version that is there. `run_id` is MLflow's."""
        safe_name("model", name)
        with FileLock(self._store.locks / "registry.lock"), self._tracking.asking() as client:
            from mlflow.exceptions import MlflowException

            if known := self.registered(name, digest):
                return known
            try:
                client.create_registered_model(name)
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
            all_tags = {DIGEST: digest, PASSED: str(passed).lower(), **tags}
            made = client.create_model_version(name, source=folder.as_uri(), run_id=run_id, tags=all_tags)
        self.remember()
        return self._version(name, made.version)

    def registered(self, name: str, digest: str) -> Registered | None:
        """The version of the model that has this digest."""
        with self._tracking.asking() as client:
            found = client.search_model_versions(f"name = '{safe_name('model', name)}' and tags.`{DIGEST}` = '{digest}'")
            return self._version(name, found[0].version) if found else None

    def names(self) -> list[str]:
        with self._tracking.asking() as client:
            return [str(model.name) for model in pages(client.search_registered_models)]

    def versions(self, name: str) -> list[Registered]:
        """All versions of a model, newest first; empty when the model is unknown."""
        wanted = f"name = '{safe_name('model', name)}'"
        with self._tracking.asking() as client:
            found = pages(lambda **page: client.search_model_versions(wanted, order_by=["version_number DESC"], **page))
            return [self._version(name, each.version) for each in found]

    def find(self, reference: str) -> Registered:
        """The version that `flights/7`, `flights@champion` or `flights` (its champion) names."""
        parsed = _REFERENCE.fullmatch(reference)
        if parsed is None:
            raise UsageError("not the name of a model", value=reference, allowed="NAME, NAME@champion, NAME@candidate, NAME/VERSION")
        name = safe_name("model", parsed["name"])
        known = self.versions(name)
        if not known:
            self.known(name)
        for version in known:
            if parsed["version"] and version.version == int(parsed["version"]):
                return version
            if not parsed["version"] and (parsed["alias"] or CHAMPION) in version.aliases:
                return version
        raise UsageError(
            "the model has no such version" if parsed["version"] else f"the model has no {parsed['alias'] or CHAMPION} yet",
            value=reference,
            allowed=", ".join(
                [f"{name}@{alias}" for version in known for alias in version.aliases] + [str(version) for version in known[:10]]
            ),
            next=f"raycycle deploy {name} VERSION makes one champion",
        )

    def known(self, name: str) -> str:
        """`name` itself where a model has it; else raises UsageError with the close match."""
        names = self.names()
        if safe_name("model", name) not in names:
            raise UsageError(
                f"there is no such model{suggest(name, names)}",
                value=name,
                allowed=", ".join(names) or "none yet",
                next="raycycle run makes one",
            )
        return name

    def champion(self, name: str) -> Registered | None:
        return self.by_alias(name, CHAMPION)

    def by_alias(self, name: str, alias: str) -> Registered | None:
        with self._tracking.asking() as client:
            from mlflow.exceptions import MlflowException

            try:
                return _as_registered(client.get_model_version_by_alias(safe_name("model", name), alias))
            except MlflowException as error:  # no such model, or no such alias
                if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                    raise
                return None

    def known_now(self, name: str, digest: str) -> Registered | None:
        """The champion or candidate with this digest, by the memo alone: None says nothing."""
        memo = self._memo()
        if not memo or not memo["signature"] or memo["signature"] != self._signature():
            return None
        found = [_from_json(each) for kind in ("champions", "candidates") if (each := memo[kind].get(name))]
        return next((version for version in found if version and version.digest == digest), None)

    def champion_now(self, name: str) -> Champion:
        """The champion by the memo where nothing has changed since it was written (no MLflow import), else by the registry.

        With tracking down it is the memo's, however old, marked as stale.
        """
        safe_name("model", name)
        memo = self._memo()
        if memo and memo["signature"] and memo["signature"] == self._signature():
            return Champion(_from_json(memo["champions"].get(name)))
        try:
            found = self.champion(name)
        except TrackingDown:
            return Champion(_from_json(memo["champions"].get(name)) if memo else None, stale=True)
        self.remember()
        return Champion(found)

    def set_alias(self, version: Registered, alias: str) -> Registered:
        with self._tracking.asking() as client:
            client.set_registered_model_alias(version.name, alias, str(version.version))
        self.remember()
        return self._version(version.name, str(version.version))

    def remember(self) -> None:
        """Write down the champions, for the commands that follow. That fails in silence: the memo only saves time."""
        with contextlib.suppress(Exception), FileLock(self._store.locks / "memo.lock", timeout=10):
            before, known = self._signature(), {f"{alias}s": self._aliased(alias) for alias in (CHAMPION, CANDIDATE)}
            # A change by another process meanwhile: what was read is old already, so it is kept but not believed.
            signature = before if before == self._signature() else None
            memo = {"format": FORMAT, "tracking": redacted(self._tracking.uri), "signature": signature, **known}
            write_json(self._store.root / "registry.json", memo)

    def _aliased(self, alias: str) -> dict[str, Any]:
        return {name: asdict(found) | {"folder": str(found.folder)} for name in self.names() if (found := self.by_alias(name, alias))}

    def _memo(self) -> dict[str, Any] | None:
        try:
            memo: dict[str, Any] = read_json(self._store.root / "registry.json")
        except (OSError, RaycycleError):
            return None
        return memo if memo.get("format") == FORMAT and memo["tracking"] == redacted(self._tracking.uri) else None

    def _signature(self) -> list[Any] | None:
        """What changes with each write to the SQLite file; None where a file cannot tell."""
        file = self._tracking.sqlite_file
        if file is None or not file.exists():
            return None
        beside = [file.with_name(file.name + end) for end in ("-wal", "-journal")]
        return [file.stat().st_size, file.stat().st_mtime_ns, *(each.stat().st_size if each.exists() else None for each in beside)]

    def _version(self, name: str, number: str) -> Registered:
        with self._tracking.asking() as client:
            return _as_registered(client.get_model_version(name, str(number)))


def _as_registered(found: ModelVersion) -> Registered:
    tags: dict[str, Any] = dict(found.tags)
    if DIGEST not in tags:
        raise RaycycleError(
            f"{found.name}/{found.version} was not registered by raycycle: it has no digest", next="register it by raycycle run"
        )
    return Registered(
        name=found.name,
        version=int(found.version),
        digest=tags[DIGEST],
        folder=local_path(str(found.source)),
        run_id=tags.get(RUN_TAG, str(found.run_id)),
        passed=tags.get(PASSED) == "true",
        aliases=tuple(found.aliases),
    )


def _from_json(found: dict[str, Any] | None) -> Registered | None:
    return Registered(**found | {"folder": Path(found["folder"]), "aliases": tuple(found["aliases"])}) if found else None
