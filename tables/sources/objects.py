"""Objects on S3-compatible storage, as files: listed, told apart by their ETag, and opened.

Keys come from the environment or the files that every AWS tool reads; no message shows them.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyarrow as pa
from pyarrow import fs

from conf.errors import UsageError

SCHEME = "s3://"
_KEYS = {"access_key": "AWS_ACCESS_KEY_ID", "secret_key": "AWS_SECRET_ACCESS_KEY", "session_token": "AWS_SESSION_TOKEN"}
_REFUSED = ("ACCESS_DENIED", "INVALID_ACCESS_KEY_ID", "INVALID_CLIENT_TOKEN_ID", "SIGNATURE_DOES_NOT_MATCH", "MISSING_AUTHENTICATION_TOKEN")
_AT_ONCE = 16


class StoredObject(str):
    """The s3:// address of an object, and the `storage` that opens it: that may hold keys, so nothing but the address is ever shown."""

    storage: fs.FileSystem

    @classmethod
    def at(cls, path: str, storage: fs.FileSystem) -> StoredObject:
        made = cls(path)
        made.storage = storage
        return made

    def open(self) -> pa.NativeFile:
        """Raises UsageError when the storage cannot be reached or refuses."""
        try:
            return self.storage.open_input_file(self.removeprefix(SCHEME))
        except OSError as error:
            raise refused(str(self), error) from None

    def stamp(self) -> list[Any]:
        """Size and ETag: another upload of other bytes has another."""
        with self.open() as stream:
            return [stream.size(), stream.metadata()["ETag"].decode()]


def endpoint_of(endpoint: str | None) -> str | None:
    """Where the storage answers: as configured, else as the environment says; None is AWS itself."""
    return endpoint or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or None


def region() -> str | None:
    return os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")


def keys() -> dict[str, str]:
    """Those of this process's environment. Ray's workers were started in another one, so they are handed over."""
    found = {name: os.environ[variable] for name, variable in _KEYS.items() if os.environ.get(variable)}
    return found if {"access_key", "secret_key"} <= set(found) else {}


def connected(endpoint: str | None) -> fs.FileSystem:
    where = endpoint_of(endpoint)
    if where and "@" in where:
        raise UsageError(
            "source.endpoint holds a user or a password", allowed="http(s)://HOST[:PORT]", next="set AWS_ACCESS_KEY_ID instead"
        )
    # Anything but AWS takes any region, and must not be asked for through AWS.
    place = region() or ("us-east-1" if where else None)
    return fs.S3FileSystem(**keys(), endpoint_override=where, region=place, connect_timeout=5, request_timeout=60)


def listed(path: str, endpoint: str | None) -> list[tuple[StoredObject, int]]:
    """The object `path`, those below it, or those that match it as a glob, each with its size in bytes; sorted, empty if there is none."""
    storage, steps = connected(endpoint), path.removeprefix(SCHEME).strip("/").split("/")
    plain = next((i for i, step in enumerate(steps) if _is_pattern(step)), len(steps))
    root = "/".join(steps[:plain])
    if not root:
        raise UsageError("the bucket is missing", value=path, allowed="s3://BUCKET/KEY, s3://BUCKET/FOLDER/ or a glob in quotes")
    try:
        itself = storage.get_file_info(root) if plain == len(steps) and plain > 1 else None
        if itself is not None and itself.type == fs.FileType.File:
            found = [itself]
        else:
            found = storage.get_file_info(fs.FileSelector(root, recursive=True, allow_not_found=True))
    except OSError as error:
        raise refused(path, error) from None
    kept = [each for each in found if each.type == fs.FileType.File and (plain == len(steps) or _matches(each.path.split("/"), steps))]
    return [(StoredObject.at(SCHEME + each.path, storage), each.size) for each in sorted(kept, key=lambda each: each.path)]


def stamps(objects: Sequence[StoredObject]) -> list[list[Any]]:
    """Each one's size and ETag; many are asked for at once, since the answer takes longer than the question."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        return list(pool.map(StoredObject.stamp, objects))


def refused(path: str, error: OSError) -> UsageError:
    """What the storage said, without its words: they may quote a key or a signature."""
    code = found[1] if (found := re.search(r"AWS Error ([A-Z_0-9]+)", str(error))) else type(error).__name__
    if isinstance(error, FileNotFoundError):
        return UsageError("the object is missing", value=path, allowed="s3://BUCKET/KEY, s3://BUCKET/FOLDER/ or a glob in quotes")
    if code in _REFUSED or "HTTP Status 403" in str(error) or "HTTP Status 401" in str(error):
        return UsageError(
            f"the storage refuses access ({code})", value=path, next="check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and rights"
        )
    return UsageError(f"the storage cannot be read ({code})", value=path, next="check source.endpoint or AWS_ENDPOINT_URL, and the network")


def _is_pattern(step: str) -> bool:
    return any(each in step for each in "*?[")


def _matches(steps: list[str], pattern: list[str]) -> bool:
    """As `glob` does: `*` stays within a folder, `**` is any number of folders."""
    if not pattern:
        return not steps
    if pattern[0] == "**":
        return _matches(steps, pattern[1:]) or (bool(steps) and _matches(steps[1:], pattern))
    return bool(steps) and fnmatch.fnmatchcase(steps[0], pattern[0]) and _matches(steps[1:], pattern[1:])
