"""Registered model versions: a name, a number, the digest of a bundle, and the aliases candidate and champion."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.store import safe_name
from conf.errors import RaycycleError, UsageError, suggest
from ledger.tracking import Tracking, local_path

if TYPE_CHECKING:
    from mlflow.entities.model_registry import ModelVersion

CANDIDATE, CHAMPION = "candidate", "champion"
DIGEST, PASSED = "raycycle.digest", "raycycle.gates_passed"
_REFERENCE = re.compile(r"(?P<name>[^@/]+)(?:/(?P<version>\d+)|@(?P<alias>\w+))?")


@dataclass(frozen=True)
class Registered:
    """One version: where its bundle lies, and the digest that the bundle must have."""

    name: str
    version: int
    digest: str
    folder: Path
    run_id: str
    passed: bool
    aliases: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name}/{self.version}"


class Registry:
    """Model versions in MLflow's registry. An alias moves last: a crash before changes nothing."""

    def __init__(self, tracking: Tracking) -> None:
        self._tracking, self._client = tracking, tracking.client

    def register(self, name: str, run_id: str, folder: Path, digest: str, *, passed: bool, tags: Mapping[str, str]) -> Registered:
        """Make the bundle in `folder` the next version; the same bundle again is the version that is there."""
        from mlflow.exceptions import MlflowException

        safe_name("model", name)
        for version in self.versions(name):
            if version.digest == digest:
                return version
        try:
            self._client.create_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
        all_tags = {DIGEST: digest, PASSED: str(passed).lower(), **tags}
        made = self._client.create_model_version(name, source=folder.as_uri(), run_id=run_id, tags=all_tags)
        return self._as_registered(self._client.get_model_version(name, made.version))

    def names(self) -> list[str]:
        return [str(model.name) for model in self._client.search_registered_models()]

    def versions(self, name: str) -> list[Registered]:
        """All versions of a model, newest first; empty when the model is unknown."""
        found = self._client.search_model_versions(f"name = '{safe_name('model', name)}'", order_by=["version_number DESC"])
        return [self._as_registered(self._client.get_model_version(name, each.version)) for each in found]

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
        return next((version for version in self.versions(name) if CHAMPION in version.aliases), None)

    def set_alias(self, version: Registered, alias: str) -> Registered:
        self._client.set_registered_model_alias(version.name, alias, str(version.version))
        return self._as_registered(self._client.get_model_version(version.name, str(version.version)))

    def _as_registered(self, found: ModelVersion) -> Registered:
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
            run_id=str(found.run_id),
            passed=tags.get(PASSED) == "true",
            aliases=tuple(found.aliases),
        )
