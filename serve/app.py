"""The Serve application: one deployment whose replicas follow the `Releases` actor.

$ raycycle up
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from cluster.environment import LOOPBACK
from cluster.platform import Platform, current
from cluster.session import NAMESPACE, connect
from cluster.store import Store
from conf.errors import RaycycleError, UsageError
from ledger.identities import Identities
from serve import releases
from serve.endpoint import Endpoint, Settings
from serve.models import Loader, Release
from tables.privacy.keys import Keyring
from trainers.bundle import Bundle

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

APP = "raycycle"
_log = logging.getLogger("ray.serve")


class Replica:
    """One process of the endpoint: the endpoint itself, and a task that keeps it at the released versions."""

    def __init__(self, store_root: str, loader: Loader, settings: Settings) -> None:
        self.endpoint = Endpoint(loader, Identities.open(Store(Path(store_root))).verify, settings)
        self._tasks: set[asyncio.Task[None]] = set()
        self._taking = asyncio.Lock()  # first come, first served: states are taken in the order they were heard

    async def reconfigure(self, config: dict[str, Any]) -> None:
        """Serve awaits this before it sends requests here, so a new replica answers with the released models from the start."""
        import ray

        self._name = ray.get_runtime_context().get_actor_id()
        if self._tasks:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(60):
                await self._take(await self._ask(-1))
        self._spawn(self._follow())

    async def __call__(self, request: Request) -> Response:
        return await self.endpoint(request)

    async def _follow(self) -> None:
        """Poll for ever; loading happens aside, so that a long one does not look like a death."""
        seen = -1
        while True:
            state = await self._ask(seen)
            if state.sequence != seen:
                seen = state.sequence
                self._spawn(self._take(state))

    async def _ask(self, seen: int) -> releases.State:
        """The state from the actor; while the actor is away, what this replica knows goes on."""
        import ray

        while True:
            try:
                state: releases.State = await ray.get_actor(releases.ACTOR, NAMESPACE).wait.remote(self._name, seen)
                return state
            except (ray.exceptions.RayError, ValueError) as error:
                _log.warning("the releases actor does not answer (%s); keeping the last known versions", type(error).__name__)
                await asyncio.sleep(0.5)

    async def _take(self, state: releases.State) -> None:
        async with self._taking:
            reasons = await self.endpoint.follow(state.live, state.trial.values())
            for name, release in state.live.items():
                await self._tell(release, "swapped", reasons.get(name, ""))
            for release in state.trial.values():
                try:
                    await self.endpoint.prepare(release)
                    await self._tell(release, "verified", "")
                except Exception as error:
                    await self._tell(release, "verified", str(error) or type(error).__name__)

    async def _tell(self, release: Release, step: str, reason: str) -> None:
        import ray

        with contextlib.suppress(ray.exceptions.RayError, ValueError):
            await ray.get_actor(releases.ACTOR, NAMESPACE).acknowledge.remote(self._name, release, step, reason)

    def _spawn(self, work: Any) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def build_app(store: Store, *, replicas: int = 1, settings: Settings | None = None, loader: Loader | None = None) -> Any:
    from ray import serve

    loader = loader or partial(Bundle.open, keyring=Keyring(store))
    deployment = serve.deployment(
        name="Endpoint",
        num_replicas=replicas,
        max_ongoing_requests=10_000,  # the bounded queues shed before Serve would
        user_config={},
        graceful_shutdown_timeout_s=5,
        logging_config={"enable_access_log": False, "log_level": "WARNING"},  # a line a request costs 5 % of it
        ray_actor_options={"num_cpus": 0, "resources": {"serve": 1}},
    )
    return deployment(Replica).bind(str(store.root), loader, settings or Settings())


def ensure_app(
    store: Store, *, replicas: int = 1, settings: Settings | None = None, loader: Loader | None = None, timeout_s: float = 60.0
) -> str:
    """Start Serve and the endpoint on the store's platform, unless they answer already; returns the endpoint's URL."""
    platform = current(store)
    if platform is None:
        raise UsageError("the platform is not up", value=str(store.root), next="raycycle up")
    with FileLock(store.locks / "endpoint.lock", timeout=2 * timeout_s):
        if is_live(platform):
            return platform.url
        Identities.open(store)
        with connect(store):
            _start(store, platform, build_app(store, replicas=replicas, settings=settings, loader=loader), timeout_s)
        deadline = time.monotonic() + timeout_s
        while not is_live(platform):
            if time.monotonic() > deadline:
                raise _failure(platform, f"the endpoint does not answer after {timeout_s:g} s")
            time.sleep(0.05)
    return platform.url


def warm() -> None:
    """The slow imports of `ensure_app`; give it to `platform.up(meanwhile=...)`."""
    import ray.serve  # noqa: F401


def _start(store: Store, platform: Platform, app: Any, timeout_s: float) -> None:
    """Start proxies, the releases actor and the replicas at once: each is a process that first spends a second on imports."""
    import ray
    from ray import serve

    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    with ThreadPoolExecutor(2) as pool:
        actor = pool.submit(releases.start_actor, store)
        proxies = pool.submit(serve.start, http_options={"host": LOOPBACK, "port": platform.http_port})
        deadline = time.monotonic() + timeout_s
        # Without a controller, serve.run would start one of its own, that listens everywhere.
        while not proxies.done() and not _is_named("SERVE_CONTROLLER_ACTOR", "serve"):
            if time.monotonic() > deadline:
                raise _failure(platform, f"Serve did not start within {timeout_s:g} s")
            time.sleep(0.05)
        try:
            if proxies.done():
                proxies.result()
            serve.run(app, name=APP, route_prefix="/")
            proxies.result(timeout_s)
            actor.result(timeout_s)
        except (ray.exceptions.RayError, RuntimeError, TimeoutError) as error:
            raise _failure(platform, f"the endpoint did not start ({' '.join(str(error).split())[:300]})") from error


def _is_named(name: str, namespace: str) -> bool:
    import ray

    try:
        ray.get_actor(name, namespace)
    except ValueError:
        return False
    return True


def _failure(platform: Platform, what: str) -> RaycycleError:
    return RaycycleError(what, value=platform.url, next=f"read {platform.logs}/serve, then raycycle down, up")


def is_live(platform: Platform) -> bool:
    connection = http.client.HTTPConnection(LOOPBACK, platform.http_port, timeout=2)
    try:
        connection.request("GET", "/v2/health/live")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
