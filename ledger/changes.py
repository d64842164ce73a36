"""What a run's code differs in from its commit, kept without its secrets, and the same tree made again later.

$ raycycle reproduce RUN
"""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec

from cluster.store import publish
from conf.errors import RaycycleError, UsageError
from ledger.redaction import FORMATS, redact

LARGEST_BYTES = 5_000_000
TOTAL_BYTES = 100_000_000
MOST_FILES = 2_000
GIT_LIMIT_S = 10.0
KEY_FILES = re.compile(
    r"(?i)(.*\.(pem|key|p8|p12|pfx|jks|keystore|kdbx?|ppk|gpg|pgp|asc|keytab)|id_(rsa|dsa|ecdsa|ed25519)(_sk)?"
    r"|\.?(netrc|pgpass|htpasswd|git-credentials|pypirc)|_netrc|credentials)"
)


class GitError(Exception):
    """Git is missing, too slow, or said no; the text is its reason in one line."""


@dataclass(frozen=True)
class Changed:
    """One file as it is kept: digest and size are those of the kept bytes, for a digest of the original would let a weak secret be guessed.

    `mode` is git's (100644, 100755, 120000 for a link, whose content is its text); `redacted` counts the secrets taken out.
    """

    sha256: str
    size: int
    mode: str
    redacted: int = 0


@dataclass(frozen=True)
class Changes:
    """The state of a work tree; paths are relative to it. Without a repository, commit and branch are None and `left_out["."]` says why."""

    commit: str | None = None
    branch: str | None = None
    files: dict[str, Changed | None] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        if not self.repository:
            return f"code not kept: {self.left_out.get('.', 'no git repository')}"
        counts = {"changed": len(self.files), "left out": len(self.left_out), "with secrets replaced": len(self.redacted)}
        told = ", ".join(f"{count} {what}" for what, count in counts.items() if count)
        return f"{self.commit[:12] if self.commit else 'no commit yet'} on {self.branch or 'no branch'}, {told or 'unchanged'}"

    @property
    def repository(self) -> bool:
        return self.commit is not None or self.branch is not None

    @property
    def redacted(self) -> list[str]:
        """The files that lost a secret: what is restored differs from what ran."""
        return [path for path, changed in self.files.items() if changed and changed.redacted]

    def plain(self) -> dict[str, Any]:
        """As a JSON value; `of` reads it back."""
        return asdict(self)

    @classmethod
    def of(cls, plain: Any) -> Changes:
        try:
            return msgspec.convert(plain, cls)
        except msgspec.ValidationError as error:
            raise RaycycleError(f"the record of the code is damaged ({error})", next="restore it from a backup") from error


def capture(work_tree: Path, into: Path, exclude: Iterable[Path] = ()) -> Changes:
    """Write what differs from the commit below `into`, secrets replaced. Nothing under `into` or `exclude` (a store in the tree) counts.

    Never fails for want of a repository: the result then says why no code was kept.
    """
    root = work_tree.resolve()
    try:
        if _git(root, "rev-parse", "--is-inside-work-tree").strip() != b"true":
            return Changes(left_out={".": "a git repository without a work tree"})
        prefix = os.fsdecode(_git(root, "rev-parse", "--show-prefix").removesuffix(b"\n"))
        hidden = [f":(exclude,literal){inside}" for inside in _inside(root, [into, *exclude])]
        # Renames are told as one file gone and one come: the two are enough to restore both. A range of untracked files is listed in full.
        state = _git(
            root,
            *("status", "--porcelain=v2", "--branch", "-z", "--untracked-files=all", "--no-renames"),
            *("--ignore-submodules=none", "--", ".", *hidden),
        )
    except GitError as error:
        return Changes(left_out={".": str(error)})
    commit, branch, entries = _parse(state, prefix)
    changes = Changes(commit, branch)
    if entries:
        with publish(into) as draft:
            _keep(root, entries, draft, changes)
    return changes


def restore(work_tree: Path, changes: Changes, kept: Path, into: Path) -> None:
    """Make the tree that ran, in the new folder `into`; the repository is only read.

    Raises UsageError when the commit is gone or no code was kept, RaycycleError when a kept file is damaged.
    """
    if not changes.repository:
        raise UsageError("the code of this run was not kept", value=changes.left_out.get("."), next="run inside a git repository")
    if into.exists() and any(into.iterdir()):
        raise UsageError("the folder for the code is not empty", value=str(into), next="name a new folder")
    with publish(into) as draft:
        if changes.commit is not None:
            _check_out(work_tree.resolve(), changes.commit, draft)
        for path in (path for path, changed in changes.files.items() if changed is None):
            _remove(draft, path)
        for path, changed in changes.files.items():
            if changed is not None:
                _put(draft, path, changed, kept)


def _git(folder: Path, *words: str, index: Path | None = None, given: bytes | None = None) -> bytes:
    """Run git without its locks, its daemon, and the variables that a surrounding hook may have set."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("GIT_")}
    environment |= {"GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
    if index is not None:
        environment["GIT_INDEX_FILE"] = str(index)
    settings = ("-c", "core.fsmonitor=false", "-c", "core.sparseCheckout=false") if index is not None else ("-c", "core.fsmonitor=false")
    command = ["git", "-C", str(folder), *settings, *words]
    try:
        done = subprocess.run(command, capture_output=True, input=given, timeout=GIT_LIMIT_S, env=environment)
    except FileNotFoundError:
        raise GitError("git is not installed") from None
    except subprocess.TimeoutExpired:
        raise GitError(f"git {words[0]} took longer than {GIT_LIMIT_S:g} s") from None
    if done.returncode:
        told = done.stderr.decode(errors="replace").strip().splitlines() or [f"git {words[0]} failed"]
        raise GitError("no git repository" if "not a git repository" in told[0] else told[0])
    return done.stdout


def _inside(root: Path, folders: Iterable[Path]) -> Iterator[str]:
    for folder in folders:
        if folder.resolve().is_relative_to(root) and folder.resolve() != root:
            yield folder.resolve().relative_to(root).as_posix()


def _parse(state: bytes, prefix: str) -> tuple[str | None, str | None, dict[str, str]]:
    """Commit, branch, and `{path: "" or why it is no file of ours}` from `git status --porcelain=v2 --branch -z`."""
    commit = branch = None
    entries: dict[str, str] = {}
    for line in state.split(b"\0"):
        kind, _, rest = line.partition(b" ")
        if line.startswith(b"# branch.oid "):
            commit = None if rest.endswith(b"(initial)") else rest.split()[-1].decode()
        elif line.startswith(b"# branch.head "):
            branch = None if rest.endswith(b"(detached)") else os.fsdecode(rest.removeprefix(b"branch.head "))
        elif kind in (b"1", b"u"):
            # 1 XY sub mH mI mW hH hI path, and two more stages when unmerged: the path is what is left, spaces included.
            words = rest.split(b" ", 7 if kind == b"1" else 9)
            why = "a submodule that differs from its commit" if words[1].startswith(b"S") else ""
            entries[os.fsdecode(words[-1]).removeprefix(prefix)] = why
        elif kind == b"?":
            path = os.fsdecode(rest).removeprefix(prefix)
            entries[path.rstrip("/")] = "a git repository of its own" if path.endswith("/") else ""
    return commit, branch, entries


def _keep(root: Path, entries: dict[str, str], draft: Path, changes: Changes) -> None:
    total = 0
    if len(entries) > MOST_FILES:
        changes.left_out["."] = f"{len(entries) - MOST_FILES:,} files beyond the first {MOST_FILES:,} that differ or are not ignored"
    # Git names tracked files first: they go before what nobody added.
    for path, other in list(entries.items())[:MOST_FILES]:
        try:
            path.encode()
        except UnicodeEncodeError:
            changes.left_out[os.fsencode(path).decode(errors="backslashreplace")] = "its name is not UTF-8"
            continue
        if not other and _is_gone(root, path):
            changes.files[path] = None
            continue
        why, content, mode = (other, b"", "") if other else _read(root / path)
        if not why and (total := total + len(content)) > TOTAL_BYTES:
            why = f"more than {TOTAL_BYTES // 1_000_000} MB in all"
        count = 0
        if not why and b"\0" not in content[:8000]:
            content, count = redact(content, path)
        elif not why and (content.startswith((b"\xff\xfe", b"\xfe\xff"))):
            content, count = redact(content, path, "utf-16")
        elif not why and FORMATS.search(content.decode("latin-1")):
            why = "a binary file that holds what looks like a key"
        if why:
            changes.left_out[path] = why
            continue
        (draft / path).parent.mkdir(parents=True, exist_ok=True)
        (draft / path).write_bytes(content)
        changes.files[path] = Changed(sha256(content).hexdigest(), len(content), mode, count)


def _is_gone(root: Path, path: str) -> bool:
    """Whether the path names no file of the tree now: nothing is there, a folder is, or it leads through a link that was a folder."""
    file = root / path
    links = (folder.is_symlink() for folder in file.parents if folder != root and folder.is_relative_to(root))
    return any(links) or not os.path.lexists(file) or (file.is_dir() and not file.is_symlink())


def _read(file: Path) -> tuple[str, bytes, str]:
    """Why the file is not kept or "", its content, and its mode. A link is not followed."""
    try:
        found = file.lstat()
        if stat.S_ISLNK(found.st_mode):
            return "", os.fsencode(file.readlink()), "120000"
        if not stat.S_ISREG(found.st_mode):
            return "not a plain file", b"", ""
        if KEY_FILES.fullmatch(file.name):
            return "a key file", b"", ""
        if found.st_size > LARGEST_BYTES:
            return f"larger than {LARGEST_BYTES // 1_000_000} MB", b"", ""
        with os.fdopen(os.open(file, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0)), "rb") as handle:
            return "", handle.read(LARGEST_BYTES), "100755" if found.st_mode & stat.S_IXUSR else "100644"
    except OSError as error:
        return f"cannot be read ({error.strerror})", b"", ""


def _check_out(root: Path, commit: str, draft: Path) -> None:
    """The commit's files under `draft`, by way of an index of our own: unlike `git archive` it leaves out nothing (export-ignore)."""
    try:
        _git(root, "cat-file", "-e", f"{commit}^{{commit}}")
    except GitError as error:
        raise UsageError(
            f"commit gone: the repository does not hold the code of this run ({error})",
            value=commit,
            next=f"git fetch --all, or git fetch REMOTE {commit}, in a clone that still has it; then run again",
        ) from None
    prefix = os.fsdecode(_git(root, "rev-parse", "--show-prefix").removesuffix(b"\n"))
    top = Path(os.fsdecode(_git(root, "rev-parse", "--show-toplevel").removesuffix(b"\n")))
    with tempfile.TemporaryDirectory(dir=draft, prefix=".index.") as folder:
        index = Path(folder) / "index"
        try:
            _git(top, "read-tree", commit, index=index)
            paths = _git(top, "ls-files", "-z", "--", f":(literal){prefix}" if prefix else ".", index=index)
            _git(top, "checkout-index", "-z", "--stdin", "-q", f"--prefix={folder}/tree/", index=index, given=paths)
        except GitError as error:
            raise RaycycleError(f"git could not write the files of the commit ({error})", value=commit, next="git fsck") from error
        tree = Path(folder) / "tree" / prefix
        for entry in tree.iterdir() if tree.is_dir() else ():
            entry.rename(draft / entry.name)


def _place(draft: Path, path: str) -> Path:
    """Where `path` lies in the restored tree. A record is data: it may not lead out of the tree, not even through a link."""
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or ".." in parts or ".git" in parts or "\0" in path:
        raise RaycycleError("the record of the code names a path outside the tree", value=path, next="restore the record from a backup")
    place = draft
    for part in parts[:-1]:
        place = place / part
        if place.is_symlink():
            raise RaycycleError("the record of the code writes through a link", value=path, next="restore the record from a backup")
    return place / parts[-1]


def _remove(draft: Path, path: str) -> None:
    place = _place(draft, path)
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)  # the empty folder of a submodule
    place.unlink(missing_ok=True)
    for folder in place.parents:
        if folder == draft or not folder.is_dir() or any(folder.iterdir()):
            return
        folder.rmdir()


def _put(draft: Path, path: str, changed: Changed, kept: Path) -> None:
    place = _place(draft, path)
    try:
        content = _place(kept, path).read_bytes()
    except OSError as error:
        raise RaycycleError(f"a kept file is gone ({error.strerror})", value=path, next="restore it from a backup") from error
    if sha256(content).hexdigest() != changed.sha256:
        raise RaycycleError("a kept file is damaged: its digest is not the recorded one", value=path, next="restore it from a backup")
    place.parent.mkdir(parents=True, exist_ok=True)
    place.unlink(missing_ok=True)
    if changed.mode == "120000":
        place.symlink_to(os.fsdecode(content))
        return
    place.write_bytes(content)
    place.chmod(0o755 if changed.mode == "100755" else 0o644)
