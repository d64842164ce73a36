"""What is up, and which versions answer.

$ raycycle status
"""

from __future__ import annotations

import json
import urllib.request
from dataclasses import dataclass
from typing import Any

from cluster import platform
from cluster.platform import PlatformStatus
from cluster.store import Store
from ledger.identities import read_token, token_file


@dataclass(frozen=True)
class Status:
    """The platform's processes, and what its endpoint says of its models (None when it does not answer)."""

    platform: PlatformStatus
    models: list[dict[str, Any]] | None
    token_file: str

    def as_json(self) -> dict[str, Any]:
        return {**self.platform.as_json(), "models": self.models, "token_file": self.token_file}

    def lines(self) -> list[str]:
        found = self.platform
        if found.state != "up" or found.platform is None:
            return ["down" if found.state == "down" else f"crashed: {found.processes} processes are left (raycycle down cleans up)"]
        running = found.platform
        said = [f"up since {running.started}: {running.url}, {running.cpus:g} CPUs, {found.processes} processes, logs in {running.logs}"]
        if self.models is None:
            return [*said, "the endpoint does not answer"]
        return said + (
            [f"  {m['name']}/{m['version']}" for m in self.models] or ["  no model is released yet (raycycle run, raycycle deploy)"]
        )


def status(store: Store) -> Status:
    found = platform.status(store)
    models = _models(store, found.platform.url) if found.state == "up" and found.platform else None
    return Status(found, models, str(token_file(store)))


def _models(store: Store, url: str) -> list[dict[str, Any]] | None:
    request = urllib.request.Request(f"{url}/v1/models", headers={"Authorization": f"Bearer {read_token(store)}"})  # noqa: S310 - our own loopback URL
    try:
        with urllib.request.urlopen(request, timeout=5) as reply:  # noqa: S310
            return list(json.load(reply)["models"])
    except (OSError, ValueError, KeyError):
        return None
