"""Who asks: bearer tokens, kept only as their SHA-256, and the roles and models each may use."""

from __future__ import annotations

import hashlib
import json
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.store import Store, read_json, write_atomic
from conf.errors import RaycycleError, UsageError, suggest

FORMAT = 1
ROLES = ("viewer", "predictor", "labeler", "operator", "approver", "admin")
EVERY_MODEL = ("*",)


@dataclass(frozen=True)
class Identity:
    """One caller. `admin` includes every role; `models` of `("*",)` means all."""

    subject: str
    roles: frozenset[str]
    models: tuple[str, ...] = EVERY_MODEL

    def has(self, role: str) -> bool:
        return role in self.roles or "admin" in self.roles

    def may_use(self, model: str) -> bool:
        return self.models == EVERY_MODEL or model in self.models


class Identities:
    """The tokens that a store knows. Make one with `Identities.open`."""

    def __init__(self, store: Store) -> None:
        self._store, self._written = store, 0
        self._by_digest: dict[str, Identity] = {}
        self._read()

    @classmethod
    def open(cls, store: Store) -> Identities:
        """Read the store's tokens; the first call makes one for the local user, with every role, in `keys/token`."""
        ensure_local_token(store)
        return cls(store)

    def verify(self, token: str) -> Identity | None:
        """Who holds this token. What is looked up is its digest, so time tells nothing about any token."""
        digest = hashlib.sha256(token.encode("utf-8", "surrogatepass")).hexdigest()
        found = self._by_digest.get(digest)
        if found is None and _written(self._store) != self._written:  # a token made since: it works at once
            self._read()
            found = self._by_digest.get(digest)
        return found

    def _read(self) -> None:
        self._written = _written(self._store)
        self._by_digest = {digest: _identity(entry) for digest, entry in _entries(self._store).items()}


def token_file(store: Store) -> Path:
    """Where the local user's own token lies, readable by that user alone."""
    return store.keys / "token"


def ensure_local_token(store: Store) -> Path:
    """The local user's token file, made once however many commands start together."""
    from filelock import FileLock

    file = token_file(store)
    with FileLock(store.locks / "tokens.lock", timeout=30):
        if not file.exists():
            token = secrets.token_urlsafe(32)
            _add(store, token, Identity("local", frozenset(ROLES)))
            write_atomic(file, token, mode=0o600)  # no line end: scripts put what they read into a header
    return file


def add_token(store: Store, identity: Identity) -> str:
    """Make a token for `identity` and return it: it is shown once, and kept only as a digest."""
    from filelock import FileLock

    if unknown := sorted(identity.roles - set(ROLES)):
        raise UsageError(f"unknown role{suggest(unknown[0], ROLES)}", value=unknown[0], allowed=", ".join(ROLES))
    token = secrets.token_urlsafe(32)
    with FileLock(store.locks / "tokens.lock", timeout=30):
        _add(store, token, identity)
    return token


def read_token(store: Store) -> str:
    """The local user's token."""
    file = ensure_local_token(store)
    _refuse_if_open(file)
    return file.read_text(encoding="ascii").strip()


def _file(store: Store) -> Path:
    return store.root / "tokens.json"


def _written(store: Store) -> int:
    file = _file(store)
    return file.stat().st_mtime_ns if file.exists() else 0


def _add(store: Store, token: str, identity: Identity) -> None:
    entry = {"subject": identity.subject, "roles": sorted(identity.roles), "models": list(identity.models)}
    entries = {**_entries(store), hashlib.sha256(token.encode()).hexdigest(): entry}
    write_atomic(_file(store), json.dumps({"format": FORMAT, "tokens": entries}, sort_keys=True, indent=1) + "\n", mode=0o600)


def _entries(store: Store) -> dict[str, dict[str, Any]]:
    file = _file(store)
    if not file.exists():
        return {}
    _refuse_if_open(file)
    state = read_json(file)
    if state.get("format") != FORMAT:
        raise RaycycleError(f"{file} was written by another version of raycycle", value=state.get("format"), allowed=f"format {FORMAT}")
    entries: dict[str, dict[str, Any]] = state["tokens"]
    return entries


def _identity(entry: dict[str, Any]) -> Identity:
    return Identity(entry["subject"], frozenset(entry["roles"]), tuple(entry["models"]))


def _refuse_if_open(file: Path) -> None:
    mode = file.stat().st_mode & 0o777
    if mode & 0o077:
        raise RaycycleError(f"{file} can be read by others", value=f"mode {mode:o}", allowed="mode 600", next=f"chmod 600 {file}")
