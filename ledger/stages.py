"""The stage cache: what a stage made lies under the digest of all that it follows from, and is found there instead of being made again."""

from __future__ import annotations

import contextlib
import datetime as dt
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

from cluster.store import Store, drop_drafts, publish, read_json, safe_name, write_json
from conf.errors import RaycycleError
from ledger import digests, locks
from ledger.code import UsedCode

RECORD = "stage.json"


class Cause(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """All that the result of a stage follows from: its code and libraries, the keys of the configuration it reads, and its inputs' digests.

    `config` is flat: `trainer.max_depth` -> 6.
    """

    stage: str
    modules: dict[str, str]
    libraries: dict[str, str]
    config: dict[str, Any]
    inputs: dict[str, str | None]

    @property
    def key(self) -> str:
        return digests.of_value(msgspec.to_builtins(self))[:32]

    def difference(self, earlier: Cause) -> str:
        """What is not as it was, in words: the first of the inputs, of the configuration, and of the code and libraries."""
        inputs = (name for name in sorted(self.inputs | earlier.inputs) if self.inputs.get(name) != earlier.inputs.get(name))
        # Compared as written: 1 and 1.0 equal each other, and are different keys of the cache.
        config = (name for name in sorted(self.config | earlier.config) if repr(self.config.get(name)) != repr(earlier.config.get(name)))
        said = _first(f"input {name} changed" for name in inputs)
        said += _first(f"config {name} {_shown(earlier.config.get(name))} -> {_shown(self.config.get(name))}" for name in config)
        code = UsedCode(self.modules, self.libraries).difference(UsedCode(earlier.modules, earlier.libraries))
        return "; ".join([*said, *([code] if code else [])]) or "nothing changed"

    def but(self, name: str) -> Cause:
        """The same cause without one of its inputs."""
        return msgspec.structs.replace(self, inputs={each: digest for each, digest in self.inputs.items() if each != name})


def _first(said: Iterable[str]) -> list[str]:
    """The first, with how many more there are; none where there is none."""
    first, *more = [*said] or [""]
    return [f"{first} and {len(more)} more" if more else first] if first else []


def _shown(value: Any) -> str:
    text = "unset" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:59]}…"


class StageRecord(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`stage.json`: what a stage made and from what. `outputs` digest what the results mean, `files` the bytes they are kept in.

    `seconds` of wall time; `resources`: processor seconds, CPUs and the like, as far as they are known; `sha256` seals the rest.
    """

    stage: str
    cause: Cause
    outputs: dict[str, str]
    files: dict[str, str]
    run_id: str
    made: str
    seconds: float
    resources: dict[str, float] = {}
    format: Literal[1] = 1
    sha256: str = ""


@dataclass(frozen=True)
class Kept:
    """A result that lies in the cache."""

    folder: Path
    record: StageRecord

    @classmethod
    def read(cls, folder: Path) -> Kept | None:
        """The result in `folder`; None where there is none. Raises RaycycleError when its record is damaged."""
        file = folder / RECORD
        if not file.exists():
            return None
        plain = read_json(file)
        try:
            record = msgspec.convert(plain, StageRecord)
        except msgspec.ValidationError as error:
            raise RaycycleError(f"{file} is no stage record of this version ({error})", next=f"remove {folder} and run again") from None
        if not digests.is_sealed(plain):
            raise RaycycleError(f"{file} is damaged: its content has another digest than it says", next=f"remove {folder} and run again")
        return cls(folder, record)

    def verified(self, *parts: str) -> Kept:
        """This, after the bytes of its files (those below `parts` only, if any) were compared with the record.

        Raises RaycycleError, naming the first file that differs.
        """
        for path, wanted in self.record.files.items():
            if parts and path.split("/")[0] not in parts:
                continue
            file = self.folder / path
            found = digests.of_file(file) if file.is_file() and not file.is_symlink() else None
            if found != wanted:
                raise RaycycleError(
                    f"{file} differs from its digest",
                    value=found or "no such file",
                    allowed=wanted,
                    next=f"restore the file, or run again with --from {self.record.stage}",
                )
        return self


@dataclass
class StageCache:
    """The kept results of one dataset's stages."""

    store: Store
    dataset: str
    say: Callable[[str], None]

    def folder(self, cause: Cause) -> Path:
        return self._stage(cause.stage) / cause.key

    def work(self, cause: Cause) -> Path:
        """Where a stage that takes long keeps what it has so far; it lies there until the stage has ended well."""
        path = self._unfinished(cause)
        path.mkdir(parents=True, exist_ok=True)
        return path

    def find(self, cause: Cause) -> Kept | None:
        kept = Kept.read(self.folder(cause))
        if kept and self._left(cause):
            self._tidy(cause)
        return kept

    def made(self, cause: Cause) -> Kept:
        """What was just published."""
        if kept := self.find(cause):
            return kept
        raise RaycycleError("a result that was just kept is gone", value=str(self.folder(cause)), next="run again")

    def all(self, stage: str) -> list[Kept]:
        """Every kept result of a stage, newest first."""
        folders = [folder for folder in self._stage(stage).glob("*") if (folder / RECORD).is_file() and not folder.name.startswith(".")]
        found = []
        for folder in folders:
            with contextlib.suppress(RaycycleError):  # a damaged one is named when it is wanted itself
                found += [kept] if (kept := Kept.read(folder)) else []
        return sorted(found, key=lambda kept: kept.record.made, reverse=True)

    def why(self, cause: Cause) -> str:
        """Why there is no result of this cause yet."""
        earlier = self.all(cause.stage)
        return cause.difference(earlier[0].record.cause) if earlier else "no earlier result"

    @contextlib.contextmanager
    def making(self, cause: Cause) -> Iterator[locks.Lease]:
        """The right to make the result of `cause`, held by one process at a time; what a killed one left of its draft is removed."""
        with locks.lease(self.store, f"stage-{cause.key}", self.say) as lease:
            drop_drafts(self.folder(cause))
            yield lease

    @contextlib.contextmanager
    def publishing(self, cause: Cause, lease: locks.Lease, run_id: str) -> Iterator[Draft]:
        """A draft that becomes the result of `cause` in one step when the block ends well, if the lease is still the newest."""
        started = dt.datetime.now(dt.UTC)
        with publish(self.folder(cause)) as folder:
            draft = Draft(folder)
            try:
                yield draft
            except FileNotFoundError:
                lease.check()  # who took the work over removed this draft: that is what is to be told
                raise
            record = StageRecord(
                stage=cause.stage,
                cause=cause,
                outputs=draft.outputs,
                files=digests.of_folder(folder),
                run_id=run_id,
                made=started.isoformat(),
                seconds=draft.seconds,
                resources=draft.resources,
            )
            write_json(folder / RECORD, digests.sealed(msgspec.to_builtins(record)))
            lease.check()
        shutil.rmtree(self._unfinished(cause), ignore_errors=True)

    def _left(self, cause: Cause) -> bool:
        return next(self._stage(cause.stage).glob(f"*{cause.key}.*"), None) is not None

    def _tidy(self, cause: Cause) -> None:
        """Remove what a process left that was killed just after it published, unless one makes the result anew."""
        with locks.unless_held(self.store, f"stage-{cause.key}") as mine:
            if mine:
                drop_drafts(self.folder(cause))
                shutil.rmtree(self._unfinished(cause), ignore_errors=True)

    def _unfinished(self, cause: Cause) -> Path:
        return self._stage(cause.stage) / f"{cause.key}.unfinished"

    def _stage(self, stage: str) -> Path:
        return self.store.folder("cache") / "stages" / safe_name("dataset", self.dataset) / stage


def kept_bundle(store: Store, digest: str) -> Path | None:
    """The bundle with this digest among the candidates that were kept, of any dataset; no registry is asked."""
    manifests = (store.root / "cache" / "stages").glob("*/evaluate/*/bundle/bundle.json")
    return next((manifest.parent for manifest in manifests if digests.of_file(manifest) == digest), None)


@dataclass
class Draft:
    """A result on its way: the folder to write into, the digests of what it means, and what it cost."""

    folder: Path
    outputs: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    resources: dict[str, float] = field(default_factory=dict)


def flat(config: Mapping[str, Any], prefixes: tuple[str, ...]) -> dict[str, Any]:
    """The keys of a nested configuration that begin with one of `prefixes`, as `a.b.c` -> value."""

    def walk(node: Any, path: str) -> Iterator[tuple[str, Any]]:
        if isinstance(node, Mapping) and node:
            for key, value in node.items():
                yield from walk(value, f"{path}.{key}" if path else str(key))
        else:
            yield path, node

    return {key: value for key, value in walk(config, "") if any(key == p or key.startswith(f"{p}.") for p in prefixes)}
