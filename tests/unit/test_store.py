"""The store: writes are seen whole or not at all, and names cannot lead elsewhere."""

from __future__ import annotations

import json
import os
import stat
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.store import Store, publish, read_json, safe_name, write_atomic, write_json
from conf.errors import RaycycleError, UsageError


def test_the_root_is_what_is_said_else_the_variable_else_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAYCYCLE_HOME", raising=False)
    assert Store.open().root == tmp_path / ".raycycle"
    monkeypatch.setenv("RAYCYCLE_HOME", str(tmp_path / "home"))
    assert Store.open().root == tmp_path / "home"
    assert Store.open(tmp_path / "said").root == tmp_path / "said"


def test_folders_are_made_when_asked_for_and_keys_are_private(store: Store) -> None:
    assert {path.name for path in store.root.iterdir()} == {"format.json"}
    assert all(
        folder.is_dir() for folder in (store.tables, store.artifacts, store.runs, store.jobs, store.quarantine, store.locks, store.ray)
    )
    assert stat.S_IMODE(store.keys.stat().st_mode) == 0o700


def test_a_store_of_another_format_is_refused(store: Store) -> None:
    assert Store.open(store.root) == store
    (store.root / "format.json").write_text('{"format": 99}')
    with pytest.raises(UsageError, match="another version"):
        Store.open(store.root)
    (store.root / "format.json").write_text("{")
    with pytest.raises(RaycycleError, match="damaged"):
        Store.open(store.root)


def test_a_folder_that_cannot_be_made_says_what_to_set(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for place in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UsageError, match="cannot be used") as caught:
            Store.open(place)
        assert "RAYCYCLE_HOME" in caught.value.next


@pytest.mark.parametrize("name", ["flights", "a", "A-1_b.c", "x" * 100, "2013"])
def test_usable_names(name: str) -> None:
    assert safe_name("dataset", name) == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", ".a", "a..b", "a/b", "a\\b", "/a", "-a", "a b", "ü", "a\n", "a\x00", "x" * 101, "%2e", None, 3]
)
def test_names_that_lead_elsewhere_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="dataset name is not usable"):
        safe_name("dataset", name)


@given(st.text(max_size=12))
def test_a_safe_name_stays_in_its_folder(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    try:
        path = Path("/store") / safe_name("dataset", name)
    except UsageError:
        return
    assert path.parent == Path(os.path.normpath(path)).parent == Path("/store")


def test_a_write_that_fails_leaves_the_old_bytes_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_atomic(tmp_path / "deep" / "f.txt", "old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RaycycleError, match="No space left"):
        write_atomic(file, "new")
    assert file.read_text() == "old"
    assert list(file.parent.iterdir()) == [file]


def test_an_interrupted_write_leaves_the_old_bytes_and_no_litter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_atomic(tmp_path / "f.txt", b"old")

    def interrupted(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_atomic(file, b"new")
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"old"]


def test_a_reader_sees_the_old_bytes_or_the_new(tmp_path: Path) -> None:
    file = write_atomic(tmp_path / "f", "a" * 50_000)
    seen: set[str] = set()
    stop = threading.Event()

    def reading() -> None:
        while not stop.is_set():
            text = file.read_text()
            seen.add(f"{len(text)}{''.join(sorted(set(text)))}")

    reader = threading.Thread(target=reading)
    reader.start()
    for letter in "bacabc" * 3:
        write_atomic(file, letter * 50_000)
    stop.set()
    reader.join()
    assert seen <= {"50000a", "50000b", "50000c"}


def test_the_mode_is_the_one_asked_for(tmp_path: Path) -> None:
    assert stat.S_IMODE(write_atomic(tmp_path / "open", "x").stat().st_mode) == 0o644
    assert stat.S_IMODE(write_atomic(tmp_path / "secret", "x", 0o600).stat().st_mode) == 0o600


values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(values)
def test_json_comes_back_and_the_same_value_is_the_same_bytes(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    folder = tmp_path_factory.mktemp("json", numbered=True)
    assert read_json(write_json(folder / "a.json", value)) == value
    again = json.loads(json.dumps(value), object_pairs_hook=lambda pairs: dict(reversed(pairs)))
    assert write_json(folder / "b.json", again).read_bytes() == (folder / "a.json").read_bytes()


def test_json_has_no_nan_and_damage_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "f.json", float("nan"))
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "f.json").write_bytes(b"\xff{")
    with pytest.raises(RaycycleError, match=r"f\.json is damaged"):
        read_json(tmp_path / "f.json")


def test_a_published_folder_appears_whole_and_replaces_the_old_one(tmp_path: Path) -> None:
    for text in ("one", "two"):
        with publish(tmp_path / "out") as draft:
            (draft / text).write_text(text)
            assert not (tmp_path / "out" / text).exists()
        assert [path.name for path in (tmp_path / "out").iterdir()] == [text]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_folder_whose_making_failed_never_appears(tmp_path: Path, error: type[BaseException]) -> None:
    with publish(tmp_path / "out") as draft:
        (draft / "old").write_text("")
    with pytest.raises(error), publish(tmp_path / "out") as draft:
        (draft / "new").write_text("")
        raise error
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["old"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_published_folder_takes_the_place_of_the_old_one_in_one_step(tmp_path: Path) -> None:
    for name in ("old", "new"):
        with publish(tmp_path / "out") as draft:
            (draft / name).write_text("")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_without_renameat2_a_failing_second_step_puts_the_old_folder_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with publish(tmp_path / "out") as draft:
        (draft / "old").write_text("")
    move = Path.replace

    def fails(self: Path, target: Path) -> Path:
        if target.name == "out" and (self / "new").exists():
            raise OSError("no")
        return move(self, target)

    monkeypatch.setattr(Path, "replace", fails)
    monkeypatch.setattr("cluster.store.ctypes.CDLL", lambda *_, **__: object())
    with pytest.raises(OSError, match="no"), publish(tmp_path / "out") as draft:
        (draft / "new").write_text("")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["old"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
