"""Objects of an S3-compatible store, with as much of a path's manner as tables need. Address and keys come from the environment.

$ AWS_ACCESS_KEY_ID=... AWS_SECRET_ACCESS_KEY=... AWS_ENDPOINT_URL=https://host raycycle run store=objects ...
"""

from __future__ import annotations

import contextlib
import errno
import fnmatch
import functools
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.store import write_atomic
from conf.errors import RaycycleError, UsageError
from conf.uris import S3

if TYPE_CHECKING:
    from pyarrow.fs import FileInfo, S3FileSystem

_VARIABLES = ("AWS_ENDPOINT_URL", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
_DENIED = re.compile(r"ACCESS_DENIED|AccessDenied|InvalidAccessKeyId|SignatureDoesNotMatch|ExpiredToken|InvalidToken|\b40[13]\b", re.I)
_BUCKET = re.compile(r"NoSuchBucket|NO_SUCH_BUCKET|bucket does not exist", re.I)
_SILENT = re.compile(r"NETWORK_CONNECTION|error sending request|connect|timed? ?out|resolve host|dns", re.I)


@dataclass(frozen=True, order=True)
class ObjectPath:
    """One object, or the folder of those whose keys begin so. It holds no credentials, so that it may travel to workers."""

    bucket: str
    key: str

    @classmethod
    def parse(cls, uri: str) -> ObjectPath:
        """Raises UsageError unless `uri` is s3://BUCKET or s3://BUCKET/PREFIX."""
        found = S3.fullmatch(uri)
        if found is None:
            raise UsageError("not the place of objects", value=uri.partition(":")[0], allowed="s3://BUCKET/PREFIX")
        return cls(found["bucket"], found["prefix"].strip("/"))

    def __str__(self) -> str:
        return f"s3://{self._path}"

    @property
    def _path(self) -> str:
        return f"{self.bucket}/{self.key}".rstrip("/")

    @property
    def name(self) -> str:
        return self.key.rpartition("/")[2]

    @property
    def stem(self) -> str:
        return self.name.rpartition(".")[0] or self.name

    @property
    def parent(self) -> ObjectPath:
        return ObjectPath(self.bucket, self.key.rpartition("/")[0])

    def __truediv__(self, name: str) -> ObjectPath:
        return ObjectPath(self.bucket, f"{self.key}/{name}".lstrip("/"))

    def read_bytes(self) -> bytes:
        with _telling(self), filesystem().open_input_file(self._path) as file:
            content: bytes = file.read()
            return content

    def read_text(self, encoding: str = "utf-8") -> str:
        return self.read_bytes().decode(encoding)

    def write_bytes(self, data: bytes) -> None:
        """The object appears whole or not at all."""
        with _telling(self), filesystem().open_output_stream(self._path) as out:
            out.write(data)

    def is_file(self) -> bool:
        return bool(self._info().is_file)

    def is_dir(self) -> bool:
        return not self._info().is_file and bool(self._infos())

    def unlink(self, missing_ok: bool = False) -> None:
        with _telling(self):
            try:
                filesystem().delete_file(self._path)
            except FileNotFoundError:
                if not missing_ok:
                    raise

    def glob(self, pattern: str) -> Iterator[ObjectPath]:
        return (each for each in self.iterdir() if fnmatch.fnmatchcase(each.name, pattern))

    def iterdir(self) -> Iterator[ObjectPath]:
        return (self / info.base_name for info in self._infos())

    def _info(self) -> FileInfo:
        with _telling(self):
            return filesystem().get_file_info(self._path)

    def _infos(self) -> list[FileInfo]:
        from pyarrow.fs import FileSelector

        with _telling(self):
            found: list[FileInfo] = filesystem().get_file_info(FileSelector(self._path, allow_not_found=True))
            return found


Folder = Path | ObjectPath


@dataclass(frozen=True)
class Listed:
    """A file of a folder; `modified` is in seconds since 1970, by the clock of what stores it."""

    name: str
    size: int
    modified: float


def listed(folder: Folder) -> list[Listed]:
    """The files of a folder, by their names; none where it does not exist."""
    if isinstance(folder, ObjectPath):
        infos = [info for info in folder._infos() if info.is_file]
        found = [Listed(info.base_name, info.size, info.mtime_ns / 1e9) for info in infos]
    else:
        files = [file for file in folder.iterdir() if file.is_file()] if folder.is_dir() else []
        found = [Listed(file.name, (stat := file.stat()).st_size, stat.st_mtime) for file in files]
    return sorted(found, key=lambda each: each.name)


def put(file: Folder, data: bytes) -> None:
    """Write a small file that appears whole or not at all."""
    if isinstance(file, ObjectPath):
        file.write_bytes(data)
    else:
        write_atomic(file, data)


def filesystem() -> S3FileSystem:
    """The object store that the environment names."""
    return _filesystem(tuple(os.environ.get(name) for name in _VARIABLES))


@functools.lru_cache(maxsize=8)
def _filesystem(variables: tuple[str | None, ...]) -> S3FileSystem:
    from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem

    endpoint, *regions = variables[:3]
    options: dict[str, Any] = {"region": region} if (region := regions[0] or regions[1] or (endpoint and "us-east-1")) else {}
    patience = AwsStandardS3RetryStrategy(max_attempts=3)
    return S3FileSystem(endpoint_override=endpoint, connect_timeout=5, request_timeout=60, retry_strategy=patience, **options)


def unreachable(place: Folder | str, error: BaseException) -> RaycycleError | None:
    """What a person needs to know where the store, not the question, was wrong. The driver's own words may name keys: not shown."""
    said, uri = str(error), str(place)
    endpoint = os.environ.get("AWS_ENDPOINT_URL")
    if _BUCKET.search(said):
        return UsageError("there is no such bucket", value=uri, next="make the bucket, or set store.tables to another")
    if _DENIED.search(said):
        variables = "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_SESSION_TOKEN, AWS_REGION"
        return UsageError("the object store refuses the credentials", value=uri, allowed=f"{variables} of a user who may read and write it")
    if _SILENT.search(said):
        return RaycycleError(
            "the object store does not answer", value=uri, next="check AWS_ENDPOINT_URL, then run again" if endpoint else "run again"
        )
    return None


@contextlib.contextmanager
def _telling(place: ObjectPath) -> Iterator[None]:
    """Tell in words what a person can mend; a missing object stays FileNotFoundError, the rest an OSError without the driver's words."""
    try:
        yield
    except OSError as error:
        if known := unreachable(place, error):
            raise known from None
        number = errno.ENOENT if isinstance(error, FileNotFoundError) else errno.EIO
        raise OSError(number, os.strerror(number), str(place)) from None
