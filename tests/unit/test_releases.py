"""The releases actor, as a plain object with replicas played by tasks."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from conf.errors import RefusedError
from serve import releases
from serve.models import Release
from serve.releases import Releases


def version(number: int, name: str = "flights") -> Release:
    return Release(name=name, version=number, folder=f"/bundles/{number}", digest=f"sha{number}")


class Replica:
    """Follows the actor as the real one does; refuses the versions in `bad`."""

    def __init__(self, actor: Releases, name: str, bad: tuple[int, ...] = ()) -> None:
        self.actor, self.name, self.bad = actor, name, bad
        self.live: dict[str, Release] = {}
        self.task = asyncio.create_task(self._follow())

    async def _follow(self) -> None:
        seen = -1
        while True:
            state = await self.actor.wait(self.name, seen)
            seen = state.sequence
            self.live = state.live
            for each in state.live.values():
                await self.actor.acknowledge(self.name, each, "swapped", "")
            for each in state.trial.values():
                await self.actor.acknowledge(self.name, each, "verified", "golden mismatch" if each.version in self.bad else "")


def run(test: Callable[[Releases], Coroutine[Any, Any, None]], file: Path) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(test(Releases(str(file))), 20)

    asyncio.run(bounded())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "releases.json"


def test_a_release_waits_for_every_replica_and_is_durable(file: Path) -> None:
    async def test(actor: Releases) -> None:
        replicas = [Replica(actor, "a"), Replica(actor, "b")]
        await asyncio.sleep(0)
        first = await actor.release(version(1), 5)
        assert (first.ok, first.reason, first.replicas, first.previous) == (True, "", 2, None)
        second = await actor.release(version(2), 5)
        assert second.ok and second.previous == 1
        assert all(replica.live["flights"].version == 2 for replica in replicas)
        stored = json.loads(file.read_text())
        assert stored["models"]["flights"]["version"] == 2 and stored["models"]["flights"]["previous"]["version"] == 1
        restarted = Releases(str(file))
        state = await restarted.state()
        assert state.live == {"flights": version(2)} and state.sequence > stored["sequence"]

    run(test, file)


def test_one_refusal_withdraws_the_release_everywhere(file: Path) -> None:
    async def test(actor: Releases) -> None:
        good, bad = Replica(actor, "good"), Replica(actor, "bad", bad=(2,))
        await asyncio.sleep(0)
        assert (await actor.release(version(1), 5)).ok
        outcome = await actor.release(version(2), 5)
        assert (outcome.ok, outcome.reason, outcome.previous) == (False, "golden mismatch", 1)
        await asyncio.sleep(0.05)
        assert good.live["flights"].version == bad.live["flights"].version == 1
        assert (await actor.state()).trial == {}
        assert json.loads(file.read_text())["models"]["flights"]["version"] == 1
        bad.bad = ()
        assert (await actor.release(version(2), 5)).ok  # the old refusal is forgotten

    run(test, file)


def test_without_a_replica_nothing_is_released(file: Path) -> None:
    async def test(actor: Releases) -> None:
        outcome = await actor.release(version(1), 0.2)
        assert not outcome.ok and "no replica" in outcome.reason
        assert (await actor.state()).live == {}

    run(test, file)


def test_a_replica_that_dies_during_a_release_does_not_hold_it_up(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(releases, "LOST_AFTER_S", 0.3)
    monkeypatch.setattr(releases, "POLL_S", 0.1)

    async def test(actor: Releases) -> None:
        stays, dies = Replica(actor, "stays"), Replica(actor, "dies")
        await asyncio.sleep(0.05)
        dies.task.cancel()
        await asyncio.gather(dies.task, return_exceptions=True)
        outcome = await actor.release(version(1), 5)
        assert outcome.ok and outcome.replicas == 1
        assert stays.live["flights"].version == 1

    run(test, file)


def test_two_releases_of_one_model_at_once_refuse_the_second(file: Path) -> None:
    async def test(actor: Releases) -> None:
        first = asyncio.create_task(actor.release(version(1), 5))
        await asyncio.sleep(0.01)
        with pytest.raises(RefusedError, match="under way"):
            await actor.release(version(2), 5)
        replica = Replica(actor, "a")
        other = await actor.release(version(7, "taxi"), 5)
        assert other.ok and (await first).ok
        assert {name: each.version for name, each in replica.live.items()} == {"flights": 1, "taxi": 7}

    run(test, file)


def test_waiting_returns_at_once_when_something_is_new_and_after_a_while_when_not(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(releases, "POLL_S", 0.05)

    async def test(actor: Releases) -> None:
        state = await actor.wait("a", -1)
        assert (await actor.wait("a", state.sequence)).sequence == state.sequence

    run(test, file)
