"""What a source's rows depend on, as one digest: the names and contents of its files, and how they are read."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cluster.store import read_json, write_json
from conf.errors import RaycycleError, UsageError
from ledger.digests import of_file, of_value

# A file changed this shortly before it was read may change again without its time moving on: clocks of file systems are coarse.
FRESH_S = 2.0
Stamp = list[int]


def fingerprint(files: Mapping[str, Path], options: Mapping[str, Any], memo: Path | None = None) -> str:
    """SHA-256 over each file's name (`files`: relative name -> file) and content, and the reading `options` (JSON values).

    `memo` is a JSON file of digests already taken; it spares reading a file whose path, size, time and inode are what they were.
    """
    known = _remembered(memo)
    contents: dict[str, str] = {}
    fresh: dict[str, list[Any]] = {}
    for name, file in sorted(files.items()):
        path, stamp = str(file.absolute()), _stamp(file)
        if (entry := known.get(path)) and entry[:-1] == stamp:
            contents[name] = entry[-1]
            continue
        contents[name] = of_file(file)
        if _stamp(file) == stamp and time.time() - stamp[1] / 1e9 > FRESH_S:
            fresh[path] = [*stamp, contents[name]]
    if memo is not None and fresh:
        kept = {path: entry for path, entry in known.items() if Path(path).exists()}
        write_json(memo, {"format": 1, "files": {**kept, **fresh}})
    return of_value({"format": 1, "files": contents, "options": dict(options)})


def _stamp(file: Path) -> Stamp:
    try:
        stat = file.stat()
    except OSError as error:
        raise UsageError(f"the file cannot be read ({error.strerror})", value=str(file), next="check source.path") from None
    return [stat.st_size, stat.st_mtime_ns, stat.st_ino]


def _remembered(memo: Path | None) -> dict[str, list[Any]]:
    """A damaged memo is an empty one: it only saves time."""
    if memo is None or not memo.exists():
        return {}
    try:
        stored = read_json(memo)
    except RaycycleError:
        return {}
    return stored["files"] if isinstance(stored, dict) and stored.get("format") == 1 else {}
