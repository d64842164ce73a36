"""Tokens: made once, kept as digests, readable by their owner alone."""

from __future__ import annotations

import stat
from concurrent.futures import ThreadPoolExecutor

import pytest

from cluster.store import Store
from conf.errors import RaycycleError, UsageError
from ledger.identities import Identities, Identity, add_token, ensure_local_token, read_token, token_file


def test_the_first_start_makes_a_token_with_every_role(store: Store) -> None:
    token = read_token(store)
    identity = Identities.open(store).verify(token)
    assert identity and identity.subject == "local"
    assert identity.has("admin") and identity.has("predictor") and identity.may_use("anything")
    assert read_token(store) == token


def test_files_are_private_and_hold_no_token_in_clear(store: Store) -> None:
    token = read_token(store)
    for file in (token_file(store), store.root / "tokens.json"):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert token not in (store.root / "tokens.json").read_text()


@pytest.mark.parametrize("token", ["", "wrong", "a" * 43, "\udc00", "ü", "\x00"])
def test_an_unknown_token_is_nobody(store: Store, token: str) -> None:
    assert Identities.open(store).verify(token) is None


def test_racing_starters_agree_on_one_token(store: Store) -> None:
    with ThreadPoolExecutor(8) as pool:
        tokens = set(pool.map(lambda _: read_token(store), range(16)))
    assert len(tokens) == 1
    assert Identities.open(store).verify(tokens.pop())


def test_roles_and_models_limit_an_identity(store: Store) -> None:
    token = add_token(store, Identity("app", frozenset({"predictor"}), ("flights",)))
    identity = Identities.open(store).verify(token)
    assert identity and identity.has("predictor") and not identity.has("viewer") and not identity.has("admin")
    assert identity.may_use("flights") and not identity.may_use("taxi")


def test_a_token_made_later_works_without_a_restart(store: Store) -> None:
    identities = Identities.open(store)
    assert identities.verify(add_token(store, Identity("late", frozenset({"viewer"}))))


def test_admin_has_each_role() -> None:
    assert Identity("boss", frozenset({"admin"})).has("labeler")


def test_an_unknown_role_is_refused_with_a_suggestion(store: Store) -> None:
    with pytest.raises(UsageError, match="did you mean 'predictor'"):
        add_token(store, Identity("app", frozenset({"predicter"})))


@pytest.mark.parametrize("name", ["keys/token", "tokens.json"])
def test_a_file_that_others_can_read_is_refused(store: Store, name: str) -> None:
    ensure_local_token(store)
    (store.root / name).chmod(0o640)
    with pytest.raises(RaycycleError, match="chmod 600"):
        if name == "tokens.json":
            Identities.open(store)
        else:
            read_token(store)
