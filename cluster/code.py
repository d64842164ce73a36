"""The code that workers import: a copy of our packages, so that a running endpoint never sees half an edit."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from cluster.store import Store, publish
from conf.targets import PACKAGES, SOURCE


@dataclass(frozen=True)
class Code:
    """The copy in the store's cache, in a folder named by its digest; as text, how much it is."""

    folder: Path
    digest: str
    files: int
    bytes: int

    def __str__(self) -> str:
        return f"{self.files} files, {self.bytes / 1024:,.0f} KiB"


def pack(store: Store) -> Code:
    """Copy our packages beside the store's caches, unless this very code is there already."""
    files = sorted(
        file
        for package in PACKAGES
        for file in (SOURCE / package).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts and file.suffix != ".pyc" and not file.name.startswith(".")
    )
    contents = {str(file.relative_to(SOURCE)): file.read_bytes() for file in files}
    digest = hashlib.sha256()
    for name, content in contents.items():
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    folder = store.folder("cache") / "code" / digest.hexdigest()[:16]
    if not folder.exists():
        with publish(folder) as draft:
            for name, content in contents.items():
                (draft / name).parent.mkdir(parents=True, exist_ok=True)
                (draft / name).write_bytes(content)
    return Code(folder, digest.hexdigest(), len(contents), sum(map(len, contents.values())))
