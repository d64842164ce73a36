"""SHA-256 of files, folders and values: how everything stored is named and checked."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from conf.targets import SOURCE


def of_file(file: Path) -> str:
    """The SHA-256 of a file's bytes, in hexadecimal as all digests here."""
    with file.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def of_value(value: Any) -> str:
    """Digest of a JSON value; the order of keys does not matter."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()).hexdigest()


SEAL = "sha256"


def sealed(plain: dict[str, Any]) -> dict[str, Any]:
    """The JSON object with the digest of the rest of it, so that one which somebody edited is noticed."""
    rest = {name: value for name, value in plain.items() if name != SEAL}
    return {**rest, SEAL: of_value(rest)}


def is_sealed(plain: dict[str, Any]) -> bool:
    return sealed(plain)[SEAL] == plain.get(SEAL)


def of_folder(folder: Path) -> dict[str, str]:
    """`{relative path: sha256}` of every file below `folder`."""
    return {str(file.relative_to(folder)): of_file(file) for file in sorted(folder.rglob("*")) if file.is_file()}


def lock_digest() -> str | None:
    """Digest of the lock file that this source tree runs with; None when installed without one."""
    lock = SOURCE / "requirements.lock"
    return of_file(lock) if lock.exists() else None
