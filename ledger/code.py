"""What code a stage really uses, found without importing it: for the key of its cached result, and for saying why the key changed."""

from __future__ import annotations

import ast
import importlib.metadata
import importlib.util
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import msgspec

from cluster.store import write_json
from conf.errors import UsageError, suggest
from conf.targets import PACKAGES, SOURCE
from ledger import digests
from ledger.environment import canonical, installed, metadata_folders

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
_FORMAT = 1
_LARGEST_MEMO = 3000
_MISSING = "not installed"


@dataclass(frozen=True)
class UsedCode:
    """`modules`: name -> digest of what it does; `libraries`: distribution -> version, and Python's under "python". Both are JSON-ready."""

    modules: dict[str, str]
    libraries: dict[str, str]

    @property
    def digest(self) -> str:
        return digests.of_value([self.modules, self.libraries])

    def difference(self, earlier: UsedCode) -> str | None:
        """The first difference from what was used earlier, in words; None when there is none. Changed code is told before libraries."""
        names = sorted({*self.modules, *earlier.modules}, key=lambda name: (name not in self.modules or name not in earlier.modules, name))
        for name in names:
            if self.modules.get(name) != earlier.modules.get(name):
                return f"code {name} {_change(name, self.modules, earlier.modules)}"
        for name in sorted({*self.libraries, *earlier.libraries}):
            old, new = earlier.libraries.get(name), self.libraries.get(name)
            if old != new:
                told = f"{old} -> {new}" if old and new else f"{new or old} {_change(name, self.libraries, earlier.libraries)}"
                return f"Python {told}" if name == "python" else f"library {name} {told}"
        return None


def _change(name: str, now: Mapping[str, str], earlier: Mapping[str, str]) -> str:
    return "changed" if name in now and name in earlier else "is now used" if name in now else "is no longer used"


def used_by(roots: Iterable[str], plugins: Iterable[str] = (), source: Path = SOURCE, memo: Path | None = None) -> UsedCode:
    """What the modules or classes `roots` (`flows.prepare`, `trainers.xgboost.XGBoost`) use, directly and through each other.

    Followed are our packages under `source`, `plugins`, and any other module that no installed distribution owns. Raises UsageError when
    a root is unknown or a file cannot be parsed. `memo` is a file that saves parsing what was parsed before.
    """
    known = _read_memo(memo)
    before = (len(known.files), known.libraries.fingerprint)
    if known.libraries.fingerprint != (fingerprint := _fingerprint()):
        known.libraries = Libraries(fingerprint, *_owners_and_requirements())
    search = _Search(source, frozenset(plugins), known)
    for root in roots:
        search.follow(search.module_of(root))
    if memo is not None and before != (len(known.files), fingerprint):
        write_json(memo, msgspec.to_builtins(known if len(known.files) <= _LARGEST_MEMO else search.seen_only()))
    libraries = {"python": PYTHON, **search.missing, **_closure(search.distributions, known.libraries.requires)}
    return UsedCode(dict(sorted(search.modules.items())), dict(sorted(libraries.items())))


class Import(msgspec.Struct, array_like=True):
    """`level` dots, then `module`; `names` are what `from` takes out of it."""

    level: int
    module: str
    names: list[str]


class Parsed(msgspec.Struct, array_like=True):
    """What a file's content says: the digest of what it does, its imports, and whether it speaks of a folder `templates`."""

    digest: str
    imports: list[Import]
    templates: bool


class Libraries(msgspec.Struct):
    """The distributions of one `fingerprint`: who owns an import name, and what each requires on this machine."""

    fingerprint: str = ""
    owners: dict[str, list[str]] = {}
    requires: dict[str, list[str]] = {}


class Memo(msgspec.Struct):
    """What was found out before; `files` by the SHA-256 of their content."""

    format: int = _FORMAT
    python: str = PYTHON
    files: dict[str, Parsed] = {}
    libraries: Libraries = msgspec.field(default_factory=Libraries)


def _read_memo(file: Path | None) -> Memo:
    """An empty memo when there is none, or when it is damaged or of another version: it only saves time."""
    if file is None or not file.is_file():
        return Memo()
    try:
        memo = msgspec.json.decode(file.read_bytes(), type=Memo)
    except (msgspec.MsgspecError, UnicodeDecodeError, OSError):
        return Memo()
    return memo if (memo.format, memo.python) == (_FORMAT, PYTHON) else Memo()


@dataclass
class _Search:
    """The walk through imports: what was found, and what is known of files and distributions."""

    source: Path
    plugins: frozenset[str]
    known: Memo
    modules: dict[str, str] = field(default_factory=dict)
    distributions: set[str] = field(default_factory=set)
    missing: dict[str, str] = field(default_factory=dict)
    _places: dict[str, list[Path]] = field(default_factory=dict)
    _seen: set[str] = field(default_factory=set)
    _contents: set[str] = field(default_factory=set)

    def module_of(self, root: str) -> str:
        """The module that `root` is, or that defines the class it names."""
        for name, member in ((root, ""), root.rpartition(".")[::2]):
            spelled = all(word.isidentifier() for word in root.split("."))
            file = self._file(name) if spelled and name and self._is_code(name.split(".")[0]) else None
            if file and (name == root or (member and re.search(rf"\b{re.escape(member)}\b|import \*", file.read_text(encoding="utf-8")))):
                return name
        raise UsageError(
            f"no module of this name{suggest(root.split('.')[0], PACKAGES)}", value=root, next="check the spelling, and plugins: [...]"
        )

    def follow(self, name: str) -> None:
        """Add a module, the packages above it, and all that they import."""
        waiting = [name]
        while waiting:
            name = waiting.pop()
            top = name.split(".")[0]
            if name in self._seen:
                continue
            self._seen.add(name)
            if not self._is_code(top):
                self._library(top)
            elif file := self._file(name):
                waiting += [name.rpartition(".")[0]] if "." in name else []
                waiting += self._use(name, file)

    def seen_only(self) -> Memo:
        return Memo(files={key: self.known.files[key] for key in self._contents}, libraries=self.known.libraries)

    def _use(self, name: str, file: Path) -> Iterator[str]:
        """Note one module of ours; gives the modules that it imports."""
        content = file.read_bytes()
        key = sha256(content).hexdigest()
        self._contents.add(key)
        if file.suffix != ".py":
            self.modules[name] = key
            return
        if key not in self.known.files:
            self.known.files[key] = _parse(content, file)
        parsed = self.known.files[key]
        self.modules[name] = parsed.digest
        package = name if file.name == "__init__.py" else name.rpartition(".")[0]
        if parsed.templates and (folder := file.parent / "templates").is_dir():
            self.modules |= {f"{package.replace('.', '/')}/templates/{path}": digest for path, digest in digests.of_folder(folder).items()}
        for found in parsed.imports:
            above = package.split(".")[: len(package.split(".")) - found.level + 1] if found.level else []
            base = ".".join([*above, found.module] if found.module else above)
            yield base
            # A name taken from a module is another module only when there is a file for it.
            yield from (f"{base}.{taken}" for taken in found.names if self._is_code(base.split(".")[0]))

    def _is_code(self, top: str) -> bool:
        """Whether modules below this name are read: ours, a plugin's, or those lying in a folder of the path that nobody installed."""
        if top in PACKAGES or top in self.plugins:
            return True
        return top not in sys.stdlib_module_names and top not in self.known.libraries.owners and bool(self._places_of(top))

    def _library(self, top: str) -> None:
        if top in self.known.libraries.owners:
            self.distributions.update(self.known.libraries.owners[top])
        elif top not in sys.stdlib_module_names:
            self.missing[top] = _MISSING

    def _places_of(self, top: str) -> list[Path]:
        """The folders that hold the package or module `top`."""
        if top not in self._places:
            self._places[top] = [self.source] if top in PACKAGES else _found_in(top)
        return self._places[top]

    def _file(self, name: str) -> Path | None:
        for place in self._places_of(name.split(".")[0]):
            stem = place.joinpath(*name.split("."))
            for file in (
                stem / "__init__.py",
                stem.with_name(f"{stem.name}.py"),
                *(stem.with_name(stem.name + end) for end in EXTENSION_SUFFIXES),
            ):
                if file.is_file():
                    return file
        return None


def _found_in(top: str) -> list[Path]:
    """Where Python would import `top` from; a name without a dot is found without importing anything."""
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return []
    if spec is None:
        return []
    if spec.submodule_search_locations is not None:
        return [Path(folder).parent for folder in spec.submodule_search_locations]
    return [Path(spec.origin).parent] if spec.has_location and spec.origin else []


def _parse(content: bytes, file: Path) -> Parsed:
    try:
        tree = ast.parse(content)
    except SyntaxError as error:
        shown = f"{Path(file.parent.name) / file.name}, line {error.lineno or 1}"
        raise UsageError(f"the code cannot be read: {error.msg}", value=shown, next="mend the line, then run again") from None
    except ValueError as error:
        raise UsageError(f"the code cannot be read: {error}", value=str(Path(file.parent.name) / file.name), next="mend the file") from None
    tree = _Essence().visit(tree)
    return Parsed(sha256(ast.dump(tree).encode()).hexdigest(), list(_imports(tree)), b"templates" in content)


class _Essence(ast.NodeTransformer):
    """Takes out what never runs: docstrings, and what is there for the type checker alone."""

    def generic_visit(self, node: ast.AST) -> ast.AST:
        if (
            isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and ast.get_docstring(node, clean=False) is not None
        ):
            node.body = node.body[1:]
        return super().generic_visit(node)

    def visit_If(self, node: ast.If) -> ast.AST | list[ast.stmt]:
        self.generic_visit(node)
        name = node.test.attr if isinstance(node.test, ast.Attribute) else getattr(node.test, "id", "")
        return node.orelse if name == "TYPE_CHECKING" else node


def _imports(tree: ast.AST) -> Iterator[Import]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (Import(0, alias.name, []) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield Import(node.level, node.module or "", [alias.name for alias in node.names if alias.name != "*"])
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant) and isinstance(node.args[0].value, str):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("import_module", "__import__") and not node.args[0].value.startswith("."):
                yield Import(0, node.args[0].value, [])


def _fingerprint() -> str:
    """Which distributions are there, by the names of their folders: an installation of anything else changes it."""
    return digests.of_value([PYTHON, sys.platform, sorted(folder.name for folder in metadata_folders())])


def _owners_and_requirements() -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """For each import name the distributions that own it, and for each distribution what it requires here, extras aside."""
    from packaging.requirements import InvalidRequirement, Requirement

    requires: dict[str, list[str]] = {}
    for distribution in importlib.metadata.distributions():
        needed = requires.setdefault(canonical(distribution.metadata["Name"] or ""), [])
        for line in distribution.requires or ():
            try:
                requirement = Requirement(line)
            except InvalidRequirement:
                continue
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                needed.append(canonical(requirement.name))
    owners = importlib.metadata.packages_distributions()
    return {top: sorted({canonical(name) for name in names}) for top, names in sorted(owners.items())}, requires


def _closure(distributions: Iterable[str], requires: Mapping[str, list[str]]) -> dict[str, str]:
    """The versions of the distributions and of all that they require and is installed."""
    versions, found, waiting = installed(), {}, list(distributions)
    while waiting:
        name = waiting.pop()
        if name in versions and name not in found:
            found[name] = versions[name]
            waiting += requires.get(name, [])
    return found
