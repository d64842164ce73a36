"""Which files a path names: one file, a folder or a glob, on this machine or on S3-compatible storage."""

from __future__ import annotations

import glob
import itertools
import urllib.parse
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from conf.errors import UsageError, suggest
from tables.sources import objects
from tables.sources.formats import SUFFIXES
from tables.sources.objects import SCHEME


@dataclass(frozen=True)
class Location:
    """`path` as it was written, and the `endpoint` of its storage."""

    path: str
    endpoint: str | None = None

    @property
    def is_stored(self) -> bool:
        return self.path.startswith(SCHEME)

    @property
    def root(self) -> str:
        return self.path.rstrip("/") if self.is_stored else str(Path(self.path).expanduser().absolute())

    def files(self) -> list[str]:
        """Each data file, sorted by path; hidden, empty and marker files (_SUCCESS) are not data. Raises UsageError if there is none."""
        paths = self._stored() if self.is_stored else self._local()
        if not paths:
            raise _nothing_found(self)
        return paths

    def _stored(self) -> list[str]:
        listed = objects.listed(self.path, self.endpoint)
        if any("_delta_log" in PurePosixPath(str(each)).parts for each, _ in listed):
            raise _delta(self.root)
        named = self._is_pattern or [str(each) for each, _ in listed] == [self.root]
        return [each for each, size in listed if named or (size and _is_data(PurePosixPath(self.name_of(each))))]

    def _local(self) -> list[str]:
        root = Path(self.root)
        if root.is_file():
            return [str(root)]
        if root.is_dir():
            if (root / "_delta_log").is_dir():
                raise _delta(str(root))
            return [str(p) for p in sorted(root.rglob("*")) if _is_data(p.relative_to(root)) and p.is_file() and p.stat().st_size]
        return [p for p in sorted(glob.glob(str(root), recursive=True)) if Path(p).is_file()]  # noqa: PTH207

    @property
    def _is_pattern(self) -> bool:
        return glob.has_magic(self.root)

    def name_of(self, file: str) -> str:
        """The file's name relative to the folder, or to the first part with a wildcard: the folder may lie anywhere."""
        parts = PurePosixPath(self.root).parts
        plain = len(list(itertools.takewhile(lambda part: not glob.has_magic(part), parts)))
        if not self.is_stored and Path(self.root).is_dir():
            plain = len(parts)  # a folder may have brackets in its name
        found = PurePosixPath(str(file)).parts
        return "/".join(found[min(plain, len(found) - 1) :])

    def partitions_of(self, file: str) -> dict[str, str | None]:
        """Columns that Spark and pandas keep in the folders' names below the root (`year=2024/part.parquet`)."""
        if self._is_pattern if self.is_stored else not Path(self.root).is_dir():
            return {}
        pairs = [part.split("=", 1) for part in self.name_of(file).split("/")[:-1] if "=" in part]
        return {name: None if value == "__HIVE_DEFAULT_PARTITION__" else urllib.parse.unquote(value) for name, value in pairs}


def _is_data(relative: Path | PurePosixPath) -> bool:
    return not any(part.startswith((".", "_")) for part in relative.parts) and any(s.lower() in SUFFIXES for s in relative.suffixes[-2:])


def _delta(root: str) -> UsageError:
    return UsageError(
        "the folder is a Delta table",
        value=root,
        allowed="a file or folder of CSV, JSON lines or Parquet",
        next="use _target_: tables.sources.delta.Delta with this path",
    )


def _nothing_found(location: Location) -> UsageError:
    root = Path(location.root)
    if location.is_stored:
        return UsageError(
            "no object has this name", value=location.root, allowed="an object, a folder with data files, or a glob in quotes"
        )
    if root.is_dir():
        return UsageError("the folder holds no data file", value=str(root), allowed="files ending in .csv .tsv .jsonl .parquet (also .gz)")
    near = suggest(root.name, [p.name for p in root.parent.iterdir()]) if root.parent.is_dir() else ""
    return UsageError(f"the file is missing{near}", value=str(root), allowed="a file, a folder, or a glob in quotes")
