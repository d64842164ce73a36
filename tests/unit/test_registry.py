"""The memo of champions: believed only while the database is the one it was written for, and read without MLflow."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

from cluster.store import Store, write_json
from ledger.registry import FORMAT, Registered, Registry
from ledger.tracking import Tracking, redacted

CHAMPION = Registered("flights", 3, "d" * 64, Path("/bundle"), "a1", True, ("champion",))


class Opened(Exception):
    """Tracking was opened."""


class Closed(Tracking):
    """A tracking store that fails the test which opens it."""

    @property
    def client(self) -> object:
        raise Opened


@pytest.fixture
def registry(store: Store) -> Registry:
    """A registry over a small database, with a memo that fits it."""
    with sqlite3.connect(store.root / "mlflow.db") as connection:
        connection.execute("create table t (x)")
    connection.close()
    registry = Registry(Closed(store))
    write_memo(store, registry, signature=registry._signature())
    return registry


def write_memo(store: Store, registry: Registry, **fields: object) -> None:
    champions = {"flights": asdict(CHAMPION) | {"folder": "/bundle"}}
    memo = {"format": FORMAT, "tracking": redacted(registry._tracking.uri), "signature": None, "champions": champions}
    write_json(store.root / "registry.json", memo | fields)


def test_the_memo_answers_while_the_database_is_unchanged(registry: Registry) -> None:
    assert registry.champion_now("flights").version == CHAMPION
    assert registry.champion_now("flights").stale is False
    assert registry.champion_now("unknown").version is None


def test_the_memo_is_not_believed_after_a_write(registry: Registry, store: Store) -> None:
    with sqlite3.connect(store.root / "mlflow.db") as connection:
        connection.execute("insert into t values (1)")
    with pytest.raises(Opened):
        registry.champion_now("flights")


@pytest.mark.parametrize("beside", ["-journal", "-wal"])
def test_the_memo_is_not_believed_while_a_write_goes_on(registry: Registry, store: Store, beside: str) -> None:
    (store.root / f"mlflow.db{beside}").write_bytes(b"pages")
    with pytest.raises(Opened):
        registry.champion_now("flights")


@pytest.mark.parametrize("fields", [{"signature": None}, {"format": 99}, {"tracking": "sqlite:////other.db"}])
def test_a_memo_of_another_time_format_or_store_is_not_believed(registry: Registry, store: Store, fields: dict[str, object]) -> None:
    write_memo(store, registry, **{"signature": registry._signature()} | fields)
    with pytest.raises(Opened):
        registry.champion_now("flights")


@pytest.mark.parametrize("damage", ["", "{", None])
def test_a_damaged_or_missing_memo_is_none(registry: Registry, store: Store, damage: str | None) -> None:
    memo = store.root / "registry.json"
    memo.unlink() if damage is None else memo.write_text(damage)
    with pytest.raises(Opened):
        registry.champion_now("flights")


def test_the_memo_needs_no_mlflow(registry: Registry, store: Store) -> None:
    script = """
import sys
from cluster.store import Store
from ledger.registry import Registry
from ledger.tracking import Tracking
assert Registry(Tracking(Store.open(sys.argv[1]))).champion_now("flights").version.version == 3
assert not {"mlflow", "sqlalchemy", "pandas"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", script, str(store.root)], check=True, timeout=60)
