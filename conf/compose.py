"""From overrides typed by a person to one typed, checked configuration, before anything starts."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from conf.diagnose import diagnosed, options
from conf.errors import UsageError, suggest
from conf.schema import ROOTS
from conf.targets import resolve
from conf.uris import concealed, redacted

if TYPE_CHECKING:
    from omegaconf import DictConfig

BUILT_IN = Path(__file__).resolve().parent
USER_TREE = Path("raycycle-conf")
Config = TypeVar("Config")


@dataclass(frozen=True)
class Composed(Generic[Config]):
    """The configuration as objects, as a plain dict (for the record), the trees it was read from, and the keys a person typed."""

    config: Config
    plain: dict[str, Any]
    trees: tuple[Path, ...]
    typed: tuple[str, ...]

    def file(self, folder: str, name: str) -> Path:
        """A document beside the groups, such as contract/NAME.yaml, from the first tree that has it. Raises UsageError if none has."""
        for tree in self.trees:
            if (tree / folder / f"{name}.yaml").is_file():
                return tree / folder / f"{name}.yaml"
        known = options(folder, self.trees)
        raise UsageError(f"there is no {folder}{suggest(name, known)}", value=name, allowed=", ".join(known) or f"{folder}/NAME.yaml")


def compose(overrides: Iterable[str], config_dir: Path | None = None, root: str = "pipeline") -> Composed[Any]:
    """Compose `conf/{root}.yaml` with `overrides`; sweeps such as `trainer.max_depth=choice(4,6)` land in `search.space`.

    Raises UsageError, naming the override to blame, when they do not fit.
    """
    trees = _trees(config_dir)
    fixed, space = _route_sweeps(list(overrides))
    node = _compose(fixed, trees, root)
    typed = tuple(text.lstrip("+").partition("=")[0] for text in fixed)
    return _as_objects(node, trees, space, typed, ROOTS[root][1])


def _trees(config_dir: Path | None) -> tuple[Path, ...]:
    if config_dir is not None and not config_dir.is_dir():
        raise UsageError("--config-dir is not a folder", value=str(config_dir), allowed="a folder with groups such as dataset/")
    own = [config_dir] if config_dir else []
    return tuple(tree.resolve() for tree in (*own, USER_TREE, BUILT_IN) if tree.is_dir())


def _route_sweeps(overrides: list[str]) -> tuple[list[str], dict[str, str]]:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    fixed, space = [], {}
    for text in overrides:
        try:
            override = OverridesParser.create().parse_override(text)
        except HydraException as error:
            reason = str(error).splitlines()[0]
            raise UsageError(f"override is not KEY=VALUE ({reason})", value=text, allowed="KEY=VALUE, GROUP=OPTION, +KEY=VALUE") from None
        if not override.is_sweep_override():
            fixed.append(text)
        elif override.key_or_group.startswith("trainer.") and override.key_or_group != "trainer.":
            space[override.key_or_group.removeprefix("trainer.")] = text.split("=", 1)[1]
        else:
            raise UsageError(
                "only trainer parameters can be searched", value=text, allowed="trainer.PARAMETER=choice(...), range(...), interval(...)"
            )
    return fixed, space


def _compose(overrides: list[str], trees: tuple[Path, ...], root: str) -> DictConfig:
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        return _by_hydra(overrides, trees, root)
    except (HydraException, OmegaConfBaseException) as error:

        def again(others: list[str]) -> DictConfig:
            node = _by_hydra(others, trees, root)
            _as_objects(node, trees, {}, (), ROOTS[root][1])
            return node

        raise diagnosed(error, overrides, trees, root, again) from None


def _by_hydra(overrides: list[str], trees: tuple[Path, ...], root: str) -> DictConfig:
    from hydra import compose as hydra_compose
    from hydra import initialize_config_dir
    from hydra.core.config_store import ConfigStore
    from hydra.core.global_hydra import GlobalHydra
    from omegaconf import OmegaConf

    for file, (name, shape) in ROOTS.items():
        ConfigStore.instance().store(name, shape)
        # Hydra looks for the root configuration in the first tree only, which may be the user's; from here it finds it for every tree.
        ConfigStore.instance().store(f"raycycle_{file}", OmegaConf.load(BUILT_IN / f"{file}.yaml"))
    others = ",".join(f"'file://{tree}'" for tree in trees[1:])
    search = [f"hydra.searchpath=[{others}]"] if others else []
    GlobalHydra.instance().clear()
    with initialize_config_dir(version_base="1.3", config_dir=str(trees[0])):
        node = hydra_compose(f"raycycle_{root}", [*overrides, *search])
    OmegaConf.resolve(node)
    return node


def _as_objects(node: DictConfig, trees: tuple[Path, ...], space: dict[str, str], typed: tuple[str, ...], shape: type) -> Composed[Any]:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        for key, domain in space.items():
            OmegaConf.update(node, "search.space", {key: domain}, merge=True, force_add=True)
        plain = OmegaConf.to_container(node, resolve=True, throw_on_missing=True)
        config = OmegaConf.to_object(node)
    except OmegaConfBaseException as error:
        raise UsageError(str(error).splitlines()[0], next="raycycle run --help") from None
    if not isinstance(config, shape) or not isinstance(plain, dict):
        raise UsageError(f"the configuration does not compose to a {shape.__name__}", value=type(config).__name__)
    _refuse_unknown(plain, shape)
    named = {str(key): value for key, value in plain.items()}
    if tracking := named["store"]["tracking"]:
        named["store"]["tracking"] = redacted(tracking)  # what is written down holds no password; the objects do
    if isinstance(named.get("dataset"), dict):
        named["dataset"]["source"] = concealed(named["dataset"].get("source"))
    return Composed(config, named, trees, typed)


def _refuse_unknown(plain: Mapping[Any, Any], shape: type[Any], prefix: str = "") -> None:
    """`+key=value` may add to open dictionaries only: a key that nothing reads would be a silent mistake."""
    known = typing.get_type_hints(shape)
    for key, value in plain.items():
        if key not in known:
            raise UsageError(f"there is no such key{suggest(key, known)}", value=f"{prefix}{key}", allowed=", ".join(known))
        if dataclasses.is_dataclass(known[key]) and isinstance(value, Mapping):
            _refuse_unknown(value, known[key], f"{prefix}{key}.")  # type: ignore[arg-type]


def recomposed(plain: Mapping[str, Any], trees: tuple[Path, ...], typed: tuple[str, ...], root: str = "pipeline") -> Composed[Any]:
    """The configuration that was once composed to `plain`, from a record: as objects, and checked, again."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    shape = ROOTS[root][1]
    try:
        node = OmegaConf.merge(OmegaConf.structured(shape), dict(plain))
    except OmegaConfBaseException as error:
        raise UsageError(f"the recorded configuration does not fit this code ({str(error).splitlines()[0]})") from None
    return _as_objects(node, trees, {}, typed, shape)  # type: ignore[arg-type]


def build(node: Mapping[str, Any], plugins: Iterable[str] = (), where: str = "") -> Any:
    """The object that `node` describes: its `_target_` called with its other keys, nodes inside them built first.

    Raises UsageError when a key is no parameter; `where` names the node in that message.
    """
    given = {str(key): _built(value, plugins, f"{where}.{key}" if where else str(key)) for key, value in node.items()}
    kind = resolve(str(given.pop("_target_", "")), plugins)
    known = [f.name for f in dataclasses.fields(kind) if f.init] if dataclasses.is_dataclass(kind) else list(given)
    for key in given:
        if key not in known:
            raise UsageError(f"{where or kind.__name__} has no parameter{suggest(key, known)}", value=key, allowed=", ".join(known))
    try:
        return kind(**given)
    except TypeError as error:
        raise UsageError(f"{where or kind.__name__} cannot be made ({error})", value=concealed(given, below=True)) from None


def _built(value: Any, plugins: Iterable[str], where: str) -> Any:
    """`value` with an object in place of each node in it, however deep."""
    if isinstance(value, Mapping):
        return build(value, plugins, where) if "_target_" in value else {key: _built(inner, plugins, where) for key, inner in value.items()}
    return [_built(inner, plugins, f"{where}[{i}]") for i, inner in enumerate(value)] if isinstance(value, list) else value
