"""One process at a time, each with a larger number than the last."""

from __future__ import annotations

import threading

import pytest

from cluster.store import Store, read_json
from conf.errors import RaycycleError
from ledger import locks


def nobody(said: str) -> None:
    raise AssertionError(f"nobody was to wait, but: {said}")


def test_the_number_grows_with_each_holder(store: Store) -> None:
    numbers = []
    for _ in range(3):
        with locks.lease(store, "work", nobody) as lease:
            numbers.append(lease.number)
            lease.check()
    with locks.lease(store, "other", nobody) as lease:
        numbers.append(lease.number)
    assert numbers == [1, 2, 3, 1]


def test_the_number_grows_after_a_holder_that_failed(store: Store) -> None:
    with pytest.raises(ZeroDivisionError), locks.lease(store, "work", nobody):
        raise ZeroDivisionError
    with locks.lease(store, "work", nobody) as lease:
        assert lease.number == 2


def test_an_old_lease_may_no_longer_publish(store: Store) -> None:
    with locks.lease(store, "work", nobody) as old:
        old.check()
    old.check()
    with locks.lease(store, "work", nobody):
        with pytest.raises(RaycycleError, match="taken this work over") as caught:
            old.check()
        assert "the newest lease, 2" in caught.value.allowed


def test_a_lease_whose_file_is_gone_may_not_publish(store: Store) -> None:
    with locks.lease(store, "work", nobody) as lease:
        lease.file.unlink()
        with pytest.raises(RaycycleError):
            lease.check()


def test_who_waits_is_told_once_who_is_waited_for(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "ASK_EVERY_S", 0.01)
    told: list[str] = []
    waits, got = threading.Event(), []

    def waiting(said: str) -> None:
        told.append(said)
        waits.set()

    def wait() -> None:
        with locks.lease(store, "work", waiting) as lease:
            got.append(lease.number)

    with locks.lease(store, "work", nobody) as mine:
        holder = read_json(mine.file)
        thread = threading.Thread(target=wait)
        thread.start()
        assert waits.wait(5)
        thread.join(0.1)
        assert got == [], "the holder keeps it"
    thread.join(5)
    assert got == [2]
    assert told == [f"waiting for process {holder['pid']} on {holder['host']}, which does the same work"]


def test_unless_held_says_whether_the_lock_is_free_and_ends_no_lease(store: Store) -> None:
    with locks.lease(store, "work", nobody) as lease:
        with locks.unless_held(store, "work") as free:
            assert not free
        lease.check()
    with locks.unless_held(store, "work") as free:
        assert free
    lease.check()


def test_a_holder_that_is_not_known_is_another_process() -> None:
    assert locks._described({}) == "another process"
