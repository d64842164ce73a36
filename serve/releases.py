"""Which version of which model answers: held durably by one detached actor, pushed to the replicas, and changed by `release`."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from cluster.platform import Platform, current
from cluster.session import NAMESPACE, connect
from cluster.store import Store, read_json, write_json
from conf.errors import RaycycleError, RefusedError, UsageError
from serve.models import Release

FORMAT = 1
ACTOR = "releases"
POLL_S = 2.0
LOST_AFTER_S = 10.0


class State(msgspec.Struct, frozen=True):
    """What replicas are told: the versions that answer, and those on trial, to be loaded and verified beside them."""

    sequence: int
    live: dict[str, Release]
    trial: dict[str, Release]


class Outcome(msgspec.Struct, frozen=True):
    """How a release ended; `reason` says why it was withdrawn, and is empty when it answers."""

    ok: bool
    reason: str
    replicas: int
    previous: int | None


class Releases:
    """The actor. A release is in two steps: every living replica verifies it (or it is withdrawn), then all swap."""

    def __init__(self, file: str) -> None:
        self._file = Path(file)
        self._live: dict[str, Release] = {}
        self._previous: dict[str, Release] = {}
        self._trial: dict[str, Release] = {}
        self._sequence = 0
        self._seen: dict[str, float] = {}
        self._said: dict[tuple[str, str, str], dict[str, str]] = {}
        self._changed = asyncio.Condition()
        self._read()

    async def wait(self, replica: str, seen: int) -> State:
        """The state, as soon as its sequence is not `seen`, or after `POLL_S`. Calling it is a replica's sign of life."""
        self._seen[replica] = time.monotonic()
        if seen == self._sequence:
            await self._until(lambda: self._sequence != seen, POLL_S)
        self._seen[replica] = time.monotonic()
        return State(self._sequence, dict(self._live), dict(self._trial))

    async def acknowledge(self, replica: str, release: Release, step: str, reason: str) -> None:
        """A replica has taken `step` (`verified` or `swapped`) with `release`, or could not, for `reason`."""
        self._said.setdefault((release.name, release.digest, step), {})[replica] = reason
        await self._notify()

    async def release(self, release: Release, timeout_s: float) -> Outcome:
        name = release.name
        if name in self._trial:
            raise RefusedError(
                f"another release of {name!r} is under way", value=self._trial[name].version, next="wait for it, then try again"
            )
        for step in ("verified", "swapped"):
            self._said.pop((name, release.digest, step), None)
        before = self._live.get(name)
        old = before.version if before else None
        await self._change(trial={**self._trial, name: release})
        try:
            if reason := await self._all_said(release, "verified", timeout_s):
                return Outcome(False, reason, len(self._living()), old)
            previous = {**self._previous, name: before} if before and before != release else self._previous
            await self._change(live={**self._live, name: release}, previous=previous, trial=self._without(name))
        finally:
            if name in self._trial:
                await self._change(trial=self._without(name))
        reason = await self._all_said(release, "swapped", timeout_s)
        return Outcome(True, reason, len(self._living()), old)

    async def state(self) -> State:
        return State(self._sequence, dict(self._live), dict(self._trial))

    async def _all_said(self, release: Release, step: str, timeout_s: float) -> str:
        """Wait for every living replica; the first reason against, or an empty string."""
        said = self._said.setdefault((release.name, release.digest, step), {})
        if not await self._until(lambda: any(said.values()) or (bool(self._living()) and self._living() <= set(said)), timeout_s):
            missing = len(self._living() - set(said)) or "no"
            return f"{missing} replica answered within {timeout_s:g} s"
        return next((reason for reason in said.values() if reason), "")

    async def _until(self, happened: Any, timeout_s: float) -> bool:
        """Whether `happened()` within the time; asked again every half second, since a replica's death notifies nobody."""
        end = time.monotonic() + timeout_s
        while not happened():
            if (left := end - time.monotonic()) <= 0:
                return False
            try:
                async with asyncio.timeout(min(left, 0.5)), self._changed:
                    await self._changed.wait()
            except TimeoutError:
                continue
        return True

    def _living(self) -> set[str]:
        now = time.monotonic()
        self._seen = {replica: at for replica, at in self._seen.items() if now - at < LOST_AFTER_S}
        return set(self._seen)

    def _without(self, name: str) -> dict[str, Release]:
        return {each: trial for each, trial in self._trial.items() if each != name}

    async def _change(
        self, trial: dict[str, Release], live: dict[str, Release] | None = None, previous: dict[str, Release] | None = None
    ) -> None:
        """Make the change durable, then tell everyone. Nothing awaits between the two, so changes cannot interleave."""
        live, previous = self._live if live is None else live, self._previous if previous is None else previous
        entries = {name: {**msgspec.to_builtins(each), "previous": msgspec.to_builtins(previous.get(name))} for name, each in live.items()}
        write_json(self._file, {"format": FORMAT, "sequence": self._sequence + 1, "models": entries})
        self._sequence, self._trial, self._live, self._previous = self._sequence + 1, trial, live, previous
        await self._notify()

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()

    def _read(self) -> None:
        if not self._file.exists():
            return
        state = read_json(self._file)
        if state.get("format") != FORMAT:
            raise RaycycleError(f"{self._file} was written by another version of raycycle", value=state.get("format"))
        # A restart counts as a change: replicas may have swapped to what was never made durable.
        self._sequence = state["sequence"] + 1
        for name, entry in state["models"].items():
            previous = entry.pop("previous")
            self._live[name] = msgspec.convert(entry, Release)
            if previous:
                self._previous[name] = msgspec.convert(previous, Release)


@dataclass(frozen=True)
class Released:
    """A release that answers. `replicas` took it (0: they had it already); `previous` is the version it took over from; `note` says what
    is still to come, if anything."""

    name: str
    version: int
    url: str
    replicas: int
    previous: int | None
    note: str
    seconds: float


def predict_url(platform: Platform, name: str) -> str:
    """Where a model answers."""
    return f"{platform.url}/v1/models/{name}/predict"


def start_actor(store: Store) -> Any:
    """The store's `Releases` actor, started if it is not there. Needs a connection to the platform."""
    import ray

    options = {"name": ACTOR, "namespace": NAMESPACE, "lifetime": "detached", "num_cpus": 0, "max_restarts": -1, "get_if_exists": True}
    remote: Any = ray.remote(Releases)
    actor = remote.options(**options).remote(str(releases_file(store)))
    ray.get(actor.state.remote(), timeout=60)
    return actor


def releases_file(store: Store) -> Path:
    return store.root / "releases.json"


def release(store: Store, name: str, version: int, folder: Path, digest: str, *, timeout_s: float = 120.0) -> Released:
    """Make `version` answer for `name`, once every living replica has verified it; raises RefusedError when one could not."""
    platform = current(store)
    if platform is None:
        raise UsageError("the platform is not up", value=str(store.root), next="raycycle up")
    started = time.monotonic()
    with connect(store):
        import ray

        wanted = Release(name=name, version=version, folder=str(Path(folder).resolve()), digest=digest)
        try:
            outcome: Any = ray.get(ray.get_actor(ACTOR, NAMESPACE).release.remote(wanted, timeout_s), timeout=2 * timeout_s + 10)
        except ValueError:
            raise RaycycleError("the endpoint is not up", value=platform.url, next="raycycle up") from None
        except ray.exceptions.RayTaskError as error:
            if isinstance(error.cause, RaycycleError):
                raise error.cause from None
            raise
    if not outcome.ok:
        raise RefusedError(
            f"{name} version {version} was not released: {outcome.reason}",
            value=digest,
            allowed=f"version {outcome.previous} goes on answering" if outcome.previous else "",
            next=f"raycycle explain {name}/{version}",
        )
    return Released(
        name, version, predict_url(platform, name), outcome.replicas, outcome.previous, outcome.reason, time.monotonic() - started
    )
