"""The state folder of raycycle (`store.root`): where each kind of state lies, and writes that are never half visible."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import math
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conf.errors import RaycycleError, UsageError, root_cause

if TYPE_CHECKING:
    from cluster.objects import Folder

FORMAT = 1
_HERE, _RENAME_EXCHANGE = -100, 2  # AT_FDCWD and the flag, from Linux fcntl.h
_FULL = re.compile(r"No space left on device|Disk quota exceeded|\d+ requested and \d+ written")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,99}")


@dataclass(frozen=True)
class Store:
    """The folder that holds everything a project remembers; `tables_uri` is where tables lie that are not in it. Made by `Store.open`."""

    root: Path
    tables_uri: str | None = None

    @classmethod
    def open(cls, root: str | Path | None = None, tables: str | None = None) -> Store:
        """Open, or create on first use, the store at `root`, else `$RAYCYCLE_HOME`, else `./.raycycle`; `tables`: s3://BUCKET/PREFIX."""
        path = Path(root or os.environ.get("RAYCYCLE_HOME") or ".raycycle").expanduser().absolute()
        try:
            path.mkdir(parents=True, exist_ok=True)
            _check_format(path / "format.json")
        except OSError as error:
            raise UsageError(
                f"the store folder cannot be used ({error.strerror or error})",
                value=str(path),
                allowed="a folder that this user may create and write",
                next="set RAYCYCLE_HOME, or store.root=FOLDER, to a writable folder",
            ) from error
        return cls(path, tables)

    def with_tables(self, uri: str | None) -> Store:
        """The same store with its tables at `uri`, where nobody named another place."""
        return self if self.tables_uri or uri is None else replace(self, tables_uri=uri)

    def folder(self, kind: str) -> Path:
        path = self.root / kind
        path.mkdir(parents=True, exist_ok=True)
        return path

    @property
    def tables(self) -> Folder:
        if self.tables_uri is None:
            return self.folder("tables")
        from cluster.objects import ObjectPath

        return ObjectPath.parse(self.tables_uri)

    @property
    def artifacts(self) -> Path:
        return self.folder("artifacts")

    @property
    def runs(self) -> Path:
        return self.folder("runs")

    @property
    def jobs(self) -> Path:
        return self.folder("jobs")

    @property
    def quarantine(self) -> Path:
        path = self.folder("quarantine")
        path.chmod(0o700)  # its rows are as they came
        return path

    @property
    def locks(self) -> Path:
        return self.folder("locks")

    @property
    def keys(self) -> Path:
        path = self.folder("keys")
        path.chmod(0o700)
        return path

    @property
    def ray(self) -> Path:
        return self.folder("ray")


def _check_format(file: Path) -> None:
    if not file.exists():
        write_json(file, {"format": FORMAT})
        return
    found = read_json(file).get("format")
    if found != FORMAT:
        raise UsageError(
            f"{file} was written by another version of raycycle", value=found, allowed=f"format {FORMAT}", next="use another store.root"
        )


def safe_name(kind: str, name: str) -> str:
    """Return `name` if it can be a file name anywhere; refuse paths, encodings, NUL and hidden names."""
    if not isinstance(name, str) or not _NAME.fullmatch(name) or ".." in name:
        raise UsageError(
            f"{kind} name is not usable", value=name, allowed="letters, digits, '_', '-' and single '.', not first, at most 100 characters"
        )
    return name


def write_atomic(file: Path, data: bytes | str, mode: int = 0o644) -> Path:
    """Write `data` beside `file`, make it durable, then move it into place: a reader sees the old bytes or the new."""
    payload = data.encode() if isinstance(data, str) else data
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(payload)
            out.flush()
            os.fsync(out.fileno())
        Path(temporary).chmod(mode)
        Path(temporary).replace(file)
    except OSError as error:
        Path(temporary).unlink(missing_ok=True)
        raise RaycycleError(
            f"could not write {len(payload)} bytes ({error.strerror})",
            value=str(file),
            next="free space or fix permissions, then run again",
        ) from error
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return file


def append_line(file: Path, line: str) -> None:
    """Add one line to a file in one write: after a crash the file ends with it, without it, or with a torn line that lacks its end."""
    payload = f"{line}\n".encode()
    try:
        handle = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            if os.write(handle, payload) < len(payload):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(handle)
    except OSError as error:
        raise RaycycleError(
            f"could not write {len(payload)} bytes ({error.strerror})",
            value=str(file),
            next="free space or fix permissions, then run again",
        ) from error


def finite(value: Any, otherwise: Callable[[float], Any] = str) -> Any:
    """`value` with every NaN and infinity replaced, by its name as text unless told otherwise: they are no JSON."""
    if isinstance(value, dict):
        return {key: finite(each, otherwise) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [finite(each, otherwise) for each in value]
    return otherwise(value) if isinstance(value, float) and not math.isfinite(value) else value


def write_json(file: Path, value: Any) -> Path:
    """Write canonical JSON (sorted keys, no NaN): the same value always gives the same bytes."""
    return write_atomic(file, json.dumps(value, sort_keys=True, indent=1, allow_nan=False, ensure_ascii=False) + "\n")


def read_json(file: Path) -> Any:
    """Read a JSON file of the store; a damaged one is named instead of a bare parse error."""
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise RaycycleError(f"{file} is damaged ({error})", next="restore it from a backup, or remove it and run again") from error


@contextlib.contextmanager
def publish(folder: Path) -> Iterator[Path]:
    """Yield an empty folder beside `folder`; when the block ends well it takes the name `folder` in one step."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    except OSError as error:
        raise UsageError(
            f"the folder cannot be written ({error.strerror})", value=str(folder), next="choose another, or mend its rights"
        ) from None
    try:
        draft.chmod(0o755)
        with writing(draft, folder):
            yield draft
        _take_name(draft, folder)
    except BaseException:
        shutil.rmtree(draft, ignore_errors=True)
        raise


def _take_name(draft: Path, folder: Path) -> None:
    try:
        draft.replace(folder)
    except OSError:
        if not folder.exists():  # else something has that name, perhaps since a moment ago
            raise
        exchange(draft, folder)
        shutil.rmtree(draft, ignore_errors=True)


def drop_drafts(folder: Path) -> None:
    """Remove what killed processes left of `folder` on its way to being published. The caller holds the lock under which it is made."""
    draft = re.compile(re.escape(f".{folder.name}.") + r"[a-z0-9_]{8}")  # as mkdtemp ends it; of a name that goes on, it is another's
    for left in folder.parent.glob(".*"):
        if draft.fullmatch(left.name):
            shutil.rmtree(left, ignore_errors=True)


@contextlib.contextmanager
def writing(place: Path, name: Path | None = None) -> Iterator[None]:
    """Say of a full disk what was being written, how far it came and what is free; libraries that write below `place` name nothing.

    `name` is what a person knows the file or folder by, where that is not `place`.
    """
    try:
        yield
    except Exception as error:
        if not is_full_disk(error) or isinstance(root_cause(error), RaycycleError):  # that one knows better what it wrote
            raise
        written = sum(file.stat().st_size for file in (place.rglob("*") if place.is_dir() else [place]) if file.is_file())
        raise RaycycleError(
            f"could not write ({os.strerror(errno.ENOSPC)}): {written} bytes were written, {_free(place)} bytes are free",
            value=str(name or place),
            next="free space, then run again",
        ) from error


def is_full_disk(error: Exception) -> bool:
    """Whether a write failed for want of space. NumPy and safetensors give no number, only words."""
    return getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or bool(_FULL.search(str(error)))


def _free(place: Path) -> int:
    return shutil.disk_usage(next(each for each in (place, *place.parents) if each.exists())).free


def linked(folder: Path, name: Path) -> Path:
    """`name`, made a relative link to `folder`: a short way to it for a person, that holds when the store is moved."""
    name.unlink(missing_ok=True)
    name.symlink_to(os.path.relpath(folder, name.parent), target_is_directory=True)
    return name


def exchange(one: Path, other: Path) -> None:
    """Let two folders swap names in one step (renameat2 of Linux); elsewhere in two, with the old one put back if the second fails."""
    libc = ctypes.CDLL(None, use_errno=True)
    if hasattr(libc, "renameat2") and libc.renameat2(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return
    aside = other.with_name(f"{one.name}.old")
    other.replace(aside)
    try:
        one.replace(other)
    except BaseException:
        aside.replace(other)
        raise
    aside.replace(one)
