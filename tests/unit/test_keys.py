"""The project's key: one for all processes, private, never overwritten, and what it signs nobody else can."""

from __future__ import annotations

import hashlib
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from cluster.store import Store
from conf.errors import RaycycleError
from ledger.keys import key_id, private_file, public_file, public_key, sign, verify

ROOT = Path(__file__).resolve().parents[2]
# From RFC 8032, section 7.1, test 2.
RFC_PUBLIC = bytes.fromhex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c")
RFC_SIGNATURE = bytes.fromhex(
    "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
)
RFC_DER = bytes.fromhex("302a300506032b6570032100") + RFC_PUBLIC  # RFC 8410


def rfc_pem() -> bytes:
    from base64 import b64encode

    return b"-----BEGIN PUBLIC KEY-----\n" + b64encode(RFC_DER) + b"\n-----END PUBLIC KEY-----\n"


def test_what_the_project_signs_verifies_and_nothing_else_does(store: Store) -> None:
    signature = sign(store, b"verdict: equal")
    pem = public_key(store)
    assert len(signature) == 64
    assert verify(pem, b"verdict: equal", signature)
    assert not verify(pem, b"verdict: Equal", signature)
    assert not verify(pem, b"", signature)
    assert not any(verify(pem, b"verdict: equal", wrong) for wrong in (b"", signature[:-1], signature + b"\0", bytes(64)))


def test_the_test_vector_of_the_standard_verifies_and_its_id_is_of_the_der() -> None:
    assert verify(rfc_pem(), b"\x72", RFC_SIGNATURE)
    assert key_id(rfc_pem()) == hashlib.sha256(RFC_DER).hexdigest()[:16]


def test_files_have_their_forms_and_modes(store: Store) -> None:
    sign(store, b"")
    assert stat.S_IMODE(private_file(store).stat().st_mode) == 0o600
    assert stat.S_IMODE(public_file(store).stat().st_mode) == 0o644
    assert stat.S_IMODE(private_file(store).parent.stat().st_mode) == 0o700
    assert private_file(store).read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----\n")
    assert public_file(store).read_bytes() == public_key(store)
    assert load_pem_private_key(private_file(store).read_bytes(), None).public_key() == load_pem_public_key(public_key(store))


def test_the_key_stays_and_the_same_bytes_give_the_same_signature(store: Store) -> None:
    first = sign(store, b"a"), public_key(store)
    assert (sign(store, b"a"), public_key(store)) == first


def test_two_stores_have_two_keys(store: Store, tmp_path: Path) -> None:
    other = Store.open(tmp_path / "other")
    assert key_id(public_key(store)) != key_id(public_key(other))
    assert not verify(public_key(other), b"a", sign(store, b"a"))


def test_sixteen_processes_at_once_agree_on_one_key(store: Store) -> None:
    code = (
        "import sys; from cluster.store import Store; from ledger import keys; import cryptography.hazmat.primitives.serialization\n"
        "store = Store.open(sys.argv[1]); print('ready', flush=True); sys.stdin.readline()\n"
        "signature = keys.sign(store, b'a'); pem = keys.public_key(store); assert keys.verify(pem, b'a', signature)\n"
        "print(keys.key_id(pem), signature.hex())"
    )
    words = [sys.executable, "-c", code, str(store.root)]
    started = [
        subprocess.Popen(words, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(16)
    ]
    for process in started:
        assert process.stdout and process.stdout.readline() == "ready\n"
    for process in started:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate(timeout=120) for process in started]
    assert [process.returncode for process in started] == [0] * 16, said
    assert {out for out, _ in said} == {f"{key_id(public_key(store))} {sign(store, b'a').hex()}\n"}
    assert sorted(file.name for file in store.keys.iterdir()) == ["project.pem", "project.pub.pem"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o777])
def test_a_private_file_that_others_can_read_is_refused(store: Store, mode: int) -> None:
    sign(store, b"")
    private_file(store).chmod(mode)
    for ask in (lambda: sign(store, b""), lambda: public_key(store)):
        with pytest.raises(RaycycleError, match="chmod 600"):
            ask()


@pytest.mark.parametrize("dangling", [False, True])
def test_a_link_in_place_of_the_private_file_is_refused(store: Store, tmp_path: Path, dangling: bool) -> None:
    sign(store, b"")
    elsewhere = private_file(store).rename(tmp_path / "project.pem")
    public_file(store).unlink()
    if dangling:
        elsewhere.unlink()
    private_file(store).symlink_to(elsewhere)
    for ask in (lambda: sign(store, b""), lambda: public_key(store)):
        with pytest.raises(RaycycleError, match="symbolic link"):
            ask()
    assert private_file(store).is_symlink()
    assert elsewhere.exists() is not dangling


def p256() -> bytes:
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def encrypted() -> bytes:
    key = ed25519.Ed25519PrivateKey.generate()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))


@pytest.mark.parametrize("make", [bytes, lambda: b"\0\xff", lambda: b"-----BEGIN PRIVATE KEY-----\n", p256, encrypted, rfc_pem])
@pytest.mark.parametrize("public_too", [True, False])
def test_a_damaged_private_file_is_told_and_left_alone(store: Store, make: Callable[[], bytes], public_too: bool) -> None:
    sign(store, b"")
    if not public_too:
        public_file(store).unlink()
    damage = make()
    private_file(store).write_bytes(damage)
    for ask in (lambda: sign(store, b""), lambda: public_key(store)):
        with pytest.raises(RaycycleError, match=r"project\.pem is damaged"):
            ask()
    assert private_file(store).read_bytes() == damage
    assert public_file(store).exists() is public_too


def test_a_folder_in_place_of_the_private_file_is_told(store: Store) -> None:
    private_file(store).mkdir(mode=0o700)
    with pytest.raises(RaycycleError, match="cannot be read"):
        sign(store, b"")


def test_an_error_never_shows_the_private_key(store: Store) -> None:
    sign(store, b"")
    pem = private_file(store).read_text()
    private_file(store).write_text(pem.replace("-----END", "!-----END"))
    with pytest.raises(RaycycleError) as caught:
        sign(store, b"")
    secret = pem.splitlines()[1]
    assert secret not in str(caught.value)
    assert caught.value.__cause__ is None and caught.value.__context__ is None


def test_a_missing_public_file_is_written_again(store: Store) -> None:
    pem = public_key(store)
    for ask in (lambda: sign(store, b""), lambda: public_key(store)):
        public_file(store).unlink()
        ask()
        assert public_file(store).read_bytes() == pem
        assert stat.S_IMODE(public_file(store).stat().st_mode) == 0o644


def test_a_lost_private_file_is_no_reason_for_a_new_key(store: Store) -> None:
    pem, signature = public_key(store), sign(store, b"a")
    private_file(store).unlink()
    with pytest.raises(RaycycleError, match="missing"):
        sign(store, b"b")
    assert verify(public_key(store), b"a", signature) and public_file(store).read_bytes() == pem
    assert not private_file(store).exists()


def test_a_private_file_of_another_key_is_refused(store: Store, tmp_path: Path) -> None:
    other = Store.open(tmp_path / "other")
    sign(store, b"")
    sign(other, b"")
    private_file(store).write_bytes(private_file(other).read_bytes())
    with pytest.raises(RaycycleError, match="not the public half"):
        sign(store, b"")


@pytest.mark.parametrize("pem", [b"", b"\xff", b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n"])
def test_a_damaged_public_key_is_told(store: Store, pem: bytes) -> None:
    signature = sign(store, b"a")
    for ask in (lambda: verify(pem, b"a", signature), lambda: key_id(pem)):
        with pytest.raises(RaycycleError, match="public key is damaged"):
            ask()
    public_file(store).write_bytes(pem)
    with pytest.raises(RaycycleError, match=r"project\.pub\.pem is damaged"):
        sign(store, b"a")
    assert public_file(store).read_bytes() == pem
