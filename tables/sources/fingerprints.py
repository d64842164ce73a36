"""What a source's rows depend on, as one digest: the names and contents of its files, and how they are read."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster.store import read_json, write_json
from conf.errors import RaycycleError, UsageError
from ledger.digests import of_file, of_value
from tables.sources.objects import StoredObject, stamps

# A file changed this shortly before it was read may change again without its time moving on: clocks of file systems are coarse.
FRESH_S = 2.0
Stamp = list[Any]


def fingerprint(files: Mapping[str, str | Path], options: Mapping[str, Any], memo: Path | None = None) -> str:
    """SHA-256 over each file's name (`files`: relative name -> file) and content, and the reading `options` (JSON values).

    `memo` is a JSON file of digests already taken; it spares reading a file whose path, size, time and inode are what they were.
    A stored object is not read: its size and ETag stand for its content.
    """
    objects = {name: file for name, file in files.items() if isinstance(file, StoredObject)}
    contents = {name: f"etag {etag} of {size} bytes" for name, (size, etag) in zip(objects, stamps([*objects.values()]), strict=True)}
    local = {name: Path(file) for name, file in files.items() if name not in objects}
    return of_value({"format": 1, "files": contents | _digests(local, memo), "options": dict(options)})


def _digests(files: Mapping[str, Path], memo: Path | None) -> dict[str, str]:
    known = _remembered(memo)
    contents: dict[str, str] = {}
    fresh: dict[str, list[Any]] = {}
    for name, file in sorted(files.items()):
        path, before = str(file.absolute()), stamp(file)
        if (entry := known.get(path)) and entry[:-1] == before:
            contents[name] = entry[-1]
            continue
        contents[name] = of_file(file)
        if stamp(file) == before and time.time() - before[1] / 1e9 > FRESH_S:
            fresh[path] = [*before, contents[name]]
    if memo is not None and fresh:
        kept = {path: entry for path, entry in known.items() if Path(path).exists()}
        write_json(memo, {"format": 1, "files": {**kept, **fresh}})
    return contents


def stamp(file: str | Path) -> Stamp:
    """What tells that a file is still the one it was, without reading it: size, time and inode, or size and ETag."""
    if isinstance(file, StoredObject):
        return file.stamp()
    try:
        stat = Path(file).stat()
    except OSError as error:
        raise UsageError(f"the file cannot be read ({error.strerror})", value=str(file), next="check source.path") from None
    return [stat.st_size, stat.st_mtime_ns, stat.st_ino]


def refuse_changed(file: str | Path, before: Stamp) -> None:
    """Raises RaycycleError when the file is no longer the one that was listed: half of its rows would be of another table."""
    try:
        same = stamp(file) == before
    except UsageError:
        same = False
    if not same:
        raise RaycycleError(
            "the file was changed or removed while it was read", value=str(file), next="run again when nothing writes to the source"
        )


def _remembered(memo: Path | None) -> dict[str, list[Any]]:
    """A damaged memo is an empty one: it only saves time."""
    if memo is None or not memo.exists():
        return {}
    try:
        stored = read_json(memo)
    except RaycycleError:
        return {}
    return stored["files"] if isinstance(stored, dict) and stored.get("format") == 1 else {}
