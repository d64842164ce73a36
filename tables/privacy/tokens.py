"""The vault: a random token for each value that was ever tokenised, and the only way from a token back to its value."""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from cluster.store import Store, writing
from conf.errors import RaycycleError

_WAIT_S = 60.0
_ASKED = 500


@dataclass(frozen=True)
class Vault:
    """The tokens of a store, in a folder of their own that its owner alone may read. The same value has the same token in every table."""

    store: Store

    @property
    def file(self) -> Path:
        folder = self.store.folder("vault")
        folder.chmod(0o700)
        return folder / "tokens.db"

    def tokens(self, values: Sequence[str]) -> list[str]:
        """The token of each value, new ones made durable before they are returned, all or none."""
        known = dict.fromkeys(values, "")
        with self._opened() as vault:
            known |= _lookup(vault, list(known))
            if missing := sorted(value for value, token in known.items() if not token):
                # Another process may be first: what lies in the vault afterwards is the token, not what was proposed.
                vault.execute("BEGIN IMMEDIATE")
                proposed = [(value, f"tok_{secrets.token_hex(12)}") for value in missing]
                vault.executemany("INSERT INTO tokens VALUES (?, ?) ON CONFLICT (value) DO NOTHING", proposed)
                vault.execute("COMMIT")
                known |= _lookup(vault, missing)
        return [known[value] for value in values]

    def value(self, token: str) -> str | None:
        """The value behind a token, None for a token that is not of this vault."""
        with self._opened() as vault:
            row = vault.execute("SELECT value FROM tokens WHERE token = ?", [token]).fetchone()
        return row[0] if row else None

    @contextlib.contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        file = self.file
        # Made by us, since SQLite would make it readable by others; its journals take the mode of the file.
        os.close(os.open(file, os.O_CREAT | os.O_WRONLY, 0o600))
        try:
            with writing(file), contextlib.closing(sqlite3.connect(file, timeout=_WAIT_S, isolation_level=None)) as vault:
                vault.execute("PRAGMA synchronous = FULL")
                vault.execute("CREATE TABLE IF NOT EXISTS tokens (value TEXT PRIMARY KEY, token TEXT NOT NULL UNIQUE) WITHOUT ROWID")
                yield vault
        except sqlite3.Error as error:  # its message names tables and columns, never a value
            raise RaycycleError(f"the vault cannot be used ({error})", value=str(file), next="restore it from a backup") from None


def _lookup(vault: sqlite3.Connection, values: list[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for start in range(0, len(values), _ASKED):
        asked = values[start : start + _ASKED]
        found.update(vault.execute(f"SELECT value, token FROM tokens WHERE value IN ({','.join('?' * len(asked))})", asked))  # noqa: S608
    return found
