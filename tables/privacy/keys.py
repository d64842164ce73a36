"""The keys of keyed hashes (HMAC-SHA256, RFC 2104): from the environment, or from the store, which makes one on first use.

$ raycycle data rotate-key
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from cluster.store import Store, write_atomic
from conf.errors import RaycycleError, UsageError
from ledger.keys import private_bytes

VARIABLE = "RAYCYCLE_PRIVACY_KEY"
MIN_CHARACTERS = 32


@dataclass(frozen=True)
class Keyring:
    """The keys of a store by their ids. It holds no key, only where they lie, so that none travels in what workers are sent.

    Keys in the variable `RAYCYCLE_PRIVACY_KEY` (several with commas between them, the current one first) go before those of the store.
    """

    store: Store

    @property
    def file(self) -> Path:
        """Every key that the store ever used, readable by its owner alone."""
        return self.store.keys / "privacy.json"

    def current(self) -> str:
        """The id of the key that new snapshots are hashed with; the first call makes one."""
        if given := _given():
            return next(iter(given))
        current, _ = self._read() or self._make()
        return current

    def key(self, wanted: str) -> bytes:
        """Raises RaycycleError when no key of that id is here."""
        if found := _given().get(wanted):
            return found
        _, kept = self._read() or ("", {})
        if wanted not in kept:
            raise RaycycleError(
                "the key that these columns were hashed with is not here",
                value=wanted,
                allowed=f"a key in {VARIABLE} or in {self.file}",
                next=f"restore it from a backup, or set {VARIABLE} before `raycycle up`",
            )
        return kept[wanted]

    def rotate(self) -> str:
        """Make another key the current one, and keep the old ones for the models that learned with them; returns its id."""
        if _given():
            raise UsageError(f"the current key is that of {VARIABLE}", next=f"put another before it: {VARIABLE}=NEW,OLD")
        self.current()
        current, _ = self._make(another=True)
        return current

    def _make(self, *, another: bool = False) -> tuple[str, dict[str, bytes]]:
        from filelock import FileLock

        with FileLock(self.store.locks / "keys.lock", timeout=30):
            lying = self._read()
            if lying and not another:
                return lying
            fresh = secrets.token_bytes(32)
            current, keys = key_id(fresh), {**(lying[1] if lying else {}), key_id(fresh): fresh}
            plain = {"format": 1, "current": current, "keys": {each: key.hex() for each, key in sorted(keys.items())}}
            write_atomic(self.file, json.dumps(plain, indent=1) + "\n", mode=0o600)
        return current, keys

    def _read(self) -> tuple[str, dict[str, bytes]] | None:
        text = private_bytes(self.file)
        if text is None:
            return None
        try:
            plain = json.loads(text)
            keys = {each: bytes.fromhex(key) for each, key in plain["keys"].items()}
            whole = plain["format"] == 1 and plain["current"] in keys and all(key_id(key) == each for each, key in keys.items())
        except (ValueError, LookupError, TypeError, AttributeError):  # never chained: a parser quotes what it reads
            whole = False
        if not whole:
            raise RaycycleError(f"{self.file} is damaged", next="restore it from a backup: hashes of before need its keys")
        return plain["current"], keys


def key_id(key: bytes) -> str:
    """The short name of a key, which tells nothing about it."""
    return hmac.digest(key, b"raycycle privacy key", hashlib.sha256).hex()[:16]


def _given() -> dict[str, bytes]:
    """The keys of the environment by id, the current one first."""
    texts = [text.strip() for text in os.environ.get(VARIABLE, "").split(",") if text.strip()]
    if any(len(text) < MIN_CHARACTERS for text in texts):
        raise UsageError(f"a key in {VARIABLE} is too short", allowed=f"{MIN_CHARACTERS} characters or more", next="openssl rand -hex 32")
    return {key_id(text.encode()): text.encode() for text in texts}
