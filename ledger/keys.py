"""The project's Ed25519 key (RFC 8032): what it signs, anyone can check with the public half and public tools."""

from __future__ import annotations

import hashlib
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.store import Store, write_atomic
from conf.errors import RaycycleError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey


def private_file(store: Store) -> Path:
    """Where the private half lies (PKCS#8 PEM), readable by its owner alone."""
    return store.keys / "project.pem"


def public_file(store: Store) -> Path:
    """Where the public half lies (SubjectPublicKeyInfo PEM), for everyone to read."""
    return store.keys / "project.pub.pem"


def exists(store: Store) -> bool:
    """Whether the project has a key, or the public half of one."""
    return os.path.lexists(private_file(store)) or public_file(store).exists()


def sign(store: Store, data: bytes) -> bytes:
    """The signature of `data`, 64 raw bytes. The first call makes the project's key."""
    return _private(store).sign(data)


def verify(public_pem: bytes, data: bytes, signature: bytes) -> bool:
    """Whether `signature` is that of exactly these bytes. Raises RaycycleError when `public_pem` is no Ed25519 key."""
    from cryptography.exceptions import InvalidSignature

    try:
        _public(public_pem, "the public key").verify(signature, data)
    except InvalidSignature:
        return False
    return True


def public_key(store: Store) -> bytes:
    """The project's public key in PEM, made on first use. A store with the public half alone can check, but not sign."""
    if not os.path.lexists(private_file(store)) and public_file(store).exists():
        return _pem(_published(store))
    return _pem(_private(store).public_key())


def key_id(public_pem: bytes) -> str:
    """The short name of a key: the first 16 hexadecimal digits of the SHA-256 of its DER form."""
    return hashlib.sha256(_der(_public(public_pem, "the public key"))).hexdigest()[:16]


def _private(store: Store) -> Ed25519PrivateKey:
    """The private key, made where there is none, once it is known to fit the published half."""
    from filelock import FileLock

    key = _read(private_file(store))
    if key is None or not public_file(store).exists():
        with FileLock(store.locks / "keys.lock", timeout=30):
            key = _read(private_file(store)) or _make(store)
            if not public_file(store).exists():
                write_atomic(public_file(store), _pem(key.public_key()))
    # A flipped bit in the private file is still a key, only another one: the public half is what tells.
    if _der(_published(store)) != _der(key.public_key()):
        raise RaycycleError(
            f"{public_file(store)} is not the public half of {private_file(store)}", next="restore both files from one backup"
        )
    return key


def _make(store: Store) -> Ed25519PrivateKey:
    """A new key; the private half is durable before the public half exists."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    if public_file(store).exists():
        raise RaycycleError(
            f"{private_file(store)} is missing, but the public half of it is there",
            next=f"restore it from a backup, or move {public_file(store)} away to begin with a new key",
        )
    key = Ed25519PrivateKey.generate()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    write_atomic(private_file(store), pem, mode=0o600)
    return key


def _read(file: Path) -> Ed25519PrivateKey | None:
    """The private key in `file`, None where there is no such file. Raises RaycycleError for what cannot be trusted or read."""
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    pem = private_bytes(file)
    if pem is None:
        return None
    try:
        key = load_pem_private_key(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):  # never chained: some parsers quote what they read
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise RaycycleError(
            f"{file} is damaged",
            allowed="an Ed25519 private key in PEM (PKCS#8), not encrypted",
            next="restore it from a backup; without one, move both project files away to begin with a new key",
        )
    return key


def private_bytes(file: Path) -> bytes | None:
    """What `file` holds. Its mode is read from the opened file, so that nothing can be swapped in between."""
    if file.is_symlink():
        raise RaycycleError(f"{file} is a symbolic link", allowed="a file of its own", next="put the key itself there")
    try:
        with os.fdopen(os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as opened:
            mode, pem = stat.S_IMODE(os.fstat(opened.fileno()).st_mode), opened.read()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise RaycycleError(f"{file} cannot be read ({error.strerror})", next="mend its rights, or restore it from a backup") from None
    if mode & 0o077:
        raise RaycycleError(f"{file} can be read by others", value=f"mode {mode:o}", allowed="mode 600", next=f"chmod 600 {file}")
    return pem


def _published(store: Store) -> Ed25519PublicKey:
    file = public_file(store)
    try:
        return _public(file.read_bytes(), str(file))
    except OSError as error:
        raise RaycycleError(f"{file} cannot be read ({error.strerror})", next="mend its rights") from None


def _public(pem: bytes, name: str) -> Ed25519PublicKey:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise RaycycleError(f"{name} is damaged", allowed="an Ed25519 public key in PEM", next="restore it from a backup")
    return key


def _pem(key: Ed25519PublicKey) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def _der(key: Ed25519PublicKey) -> bytes:
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
