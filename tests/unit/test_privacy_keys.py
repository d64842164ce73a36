"""Keys of hashes and the vault of tokens: closed to others, whole after a kill, and the same for parallel writers."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cluster.store import Store
from conf.errors import RaycycleError, UsageError
from tables.privacy.keys import VARIABLE, Keyring, key_id
from tables.privacy.tokens import Vault

GIVEN, OLDER = "g" * 32, "o" * 40


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.open(tmp_path)


def test_the_first_use_makes_one_key_that_only_its_owner_reads(store: Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        ids = set(pool.map(lambda _: Keyring(store).current(), range(8)))
    assert len(ids) == 1 and Keyring(store).file.stat().st_mode & 0o777 == 0o600
    assert Keyring(store).key(ids.pop()) not in pickle.dumps(Keyring(store))


def test_rotation_keeps_old_keys_and_a_lost_one_is_named(store: Store) -> None:
    keyring = Keyring(store)
    first = keyring.current()
    old = keyring.key(first)
    assert keyring.rotate() == keyring.current() != first and keyring.key(first) == old
    with pytest.raises(RaycycleError, match="not here: 'beef'"):
        keyring.key("beef")


def test_keys_of_the_environment_go_first(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, f"{GIVEN},{OLDER}")
    keyring = Keyring(store)
    assert keyring.current() == key_id(GIVEN.encode()) and keyring.key(key_id(OLDER.encode())) == OLDER.encode()
    assert not keyring.file.exists()
    with pytest.raises(UsageError, match=VARIABLE):
        keyring.rotate()
    monkeypatch.setenv(VARIABLE, "tooshort")
    with pytest.raises(UsageError, match="too short") as refused:
        keyring.current()
    assert "tooshort" not in refused.value.message


@pytest.mark.parametrize("content", ["", "{}", '{"format": 1, "current": "a", "keys": {"a": "00"}}'])
def test_a_damaged_or_open_key_file_is_refused(store: Store, content: str) -> None:
    keyring = Keyring(store)
    keyring.current()
    keyring.file.write_text(content)
    with pytest.raises(RaycycleError, match="damaged"):
        keyring.current()
    keyring.file.chmod(0o644)
    with pytest.raises(RaycycleError, match="can be read by others"):
        keyring.current()


def test_parallel_writers_give_a_value_one_token(store: Store) -> None:
    values = [f"value {number}" for number in range(200)]
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(lambda start: dict(zip(values[start:], Vault(store).tokens(values[start:]), strict=True)), range(0, 120, 20)))
    assert all(found[0][value] == token for each in found for value, token in each.items())
    assert len(set(found[0].values())) == 200 and not any(value in token for value, token in found[0].items())
    assert Vault(store).value(found[0]["value 7"]) == "value 7" and Vault(store).value("tok_0") is None
    assert {file.stat().st_mode & 0o777 for file in Vault(store).file.parent.iterdir()} == {0o600}
    assert Vault(store).file.parent.stat().st_mode & 0o777 == 0o700


def test_tokens_survive_writers_that_are_killed(store: Store) -> None:
    program = (
        "import itertools, sys; from cluster.store import Store; from tables.privacy.tokens import Vault\n"
        "vault = Vault(Store.open(sys.argv[1]))\n"
        "for n in itertools.count():\n"
        "    values = [f'{n} {i}' for i in range(50)]\n"
        "    print('\\n'.join(map('\\t'.join, zip(values, vault.tokens(values)))), flush=True)\n"
    )
    told: dict[str, str] = {}
    for _ in range(3):
        writer = subprocess.Popen([sys.executable, "-c", program, str(store.root)], stdout=subprocess.PIPE, text=True, cwd=Path.cwd())
        assert writer.stdout is not None
        first = writer.stdout.readline()
        time.sleep(0.15)
        os.kill(writer.pid, signal.SIGKILL)
        lines = [first, *writer.stdout.read().splitlines(keepends=True)]
        writer.wait()
        for line in lines:
            if line.endswith("\n"):
                value, token = line.split("\t")
                assert told.setdefault(value, token) == token
    assert Vault(store).tokens(list(told)) == [token.strip() for token in told.values()]
