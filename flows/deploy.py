"""Make a registered version the one that answers; the alias `champion` moves when the endpoint has verified it.

$ raycycle deploy flights 7
"""

from __future__ import annotations

from cluster import platform
from cluster.progress import Progress
from cluster.store import Store
from conf.errors import RefusedError
from flows.status import status
from ledger.registry import CHAMPION, Registered, Registry
from serve import releases
from serve.app import ensure_app, warm
from serve.releases import Released


def deploy(version: Registered, store: Store, registry: Registry, progress: Progress) -> tuple[Registered, Released]:
    """The version as champion, and its release; nothing is done where it answers already.

    Raises RefusedError when the version failed its gates, or when a replica could not verify it (the old one keeps answering).
    """
    refuse_failed(version)
    if CHAMPION in version.aliases and (url := answering(store, version)):
        progress.note("deploy", f"{version} answers already at {url}")
        progress.seconds.setdefault("deploy", 0.0)
        return version, Released(version.name, version.version, url, 0, None, "", 0.0)
    with progress.stage("deploy") as bar:
        ensure_app(store)
        released = releases.release(store, version.name, version.version, version.folder, version.digest)
        bar.note = f"{version} answers at {released.url}"
        return registry.set_alias(version, CHAMPION), released


def answering(store: Store, version: Registered) -> str | None:
    """Where the endpoint answers with this very version; None when it does not."""
    found = status(store)
    live = [(model["name"], model["version"], model["digest"]) for model in found.models or []]
    if (version.name, version.version, version.digest) in live and found.platform.platform:
        return releases.predict_url(found.platform.platform, version.name)
    return None


def refuse_failed(version: Registered) -> None:
    if not version.passed:
        raise RefusedError(
            f"{version} failed its gates",
            allowed="a version that passed every gate",
            next=f"raycycle report {version.run_id} says which gate, and why",
        )


def start_platform(store: Store, progress: Progress, port: int | None, cpus: int | None) -> platform.Platform:
    """The platform of the store with its endpoint, started where it is not up."""
    with progress.stage("up") as bar:
        running = platform.up(store, http_port=port, cpus=cpus, say=progress.say, meanwhile=warm)
        ensure_app(store)
        bar.note = f"{'started' if running.fresh else 'already up'}, {running.url}"
        return running
