"""The bytes of a file, here or on a storage, unpacked where they are packed; a bomb is refused before it goes off."""

from __future__ import annotations

import io
import weakref
from typing import Any

import pyarrow as pa

from conf.errors import UsageError
from tables.sources.objects import StoredObject, refused

PACKED = (".gz", ".bz2", ".zst")
_MAGIC = {b"\x1f\x8b": "gzip", b"BZh": "bz2", b"\x28\xb5\x2f\xfd": "zstd"}
BLOCK_BYTES = 8 << 20
# A packed file may unpack to this much, or to so many times its size: what a bomb is made of unpacks to a thousand times.
FREE_BYTES, MAX_RATIO, MAX_BYTES = 1 << 30, 200, 1 << 40


def open_raw(path: str) -> pa.NativeFile:
    return path.open() if isinstance(path, StoredObject) else pa.OSFile(path)


def open_bytes(path: str, held: list[weakref.ref[Any]] | None = None) -> pa.NativeFile:
    """The bytes of the file, unpacked when they are packed, whatever it is called; `held` learns of Python objects that Arrow holds."""
    raw = open_raw(path)
    start = raw.read(4)
    raw.seek(0)
    codec = next((name for magic, name in _MAGIC.items() if start.startswith(magic)), None)
    if codec is None:
        return raw
    size = raw.size()
    # The unpacker asks for little at a time, and each question to a storage takes a while.
    packed = pa.BufferedInputStream(raw, BLOCK_BYTES) if isinstance(path, StoredObject) else raw
    bounded = _Bounded(pa.CompressedInputStream(packed, codec), path, size)
    if held is not None:
        held.append(weakref.ref(bounded))
    return pa.PythonFile(bounded, mode="r")


class _Bounded(io.RawIOBase):
    """What a packed file holds, as long as it is in proportion to its size."""

    def __init__(self, stream: pa.NativeFile, path: str, packed: int) -> None:
        self._stream, self._path, self._count = stream, path, 0
        self._limit = min(FREE_BYTES + MAX_RATIO * packed, MAX_BYTES)

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return bytes(self.read_buffer(size))

    def read_buffer(self, size: int = -1) -> pa.Buffer:
        """What Arrow asks for first, since it need not be copied."""
        data = self._stream.read_buffer(size if size >= 0 else None)
        self._count += data.size
        if self._count > self._limit:
            raise UsageError(
                f"the packed file holds more than {self._limit:,} bytes: it may be made to fill a disk or a memory",
                value=str(self._path),
                allowed=f"{FREE_BYTES:,} bytes, or {MAX_RATIO} times its size",
                next="if it is right, unpack it and name the unpacked file",
            )
        return data


def head(path: str, size: int) -> bytes:
    try:
        with open_bytes(path) as stream:
            return stream.read(size)
    except OSError as error:
        raise unreadable(path, error) from None


def unreadable(path: str, error: Exception, what: str = "the file is damaged or cut off") -> UsageError:
    if isinstance(path, StoredObject) and isinstance(error, OSError) and "AWS Error" in str(error):
        return refused(str(path), error)
    if isinstance(error, FileNotFoundError):
        return UsageError("the file is missing", value=str(path))
    if isinstance(error, PermissionError):
        return UsageError("the file may not be read", value=str(path), next="give this user the right to read it")
    return UsageError(f"{what} ({error})", value=str(path), next="fetch or write it again")
