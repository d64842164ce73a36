"""Hydra's refusals in our words: what was wrong, the value, what is allowed, with the close match."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conf.errors import UsageError, suggest

if TYPE_CHECKING:
    from omegaconf import DictConfig

# Composes and types other overrides; raises UsageError where they are wrong in themselves.
Again = Callable[[list[str]], "DictConfig"]


def options(group: str, trees: Iterable[Path]) -> list[str]:
    """The names that a group offers, over all trees."""
    return sorted({file.stem for tree in trees for file in (tree / group).glob("*.yaml")})


def groups(trees: Iterable[Path]) -> list[str]:
    """The folders that Hydra composes from; contracts lie beside them, but are documents."""
    found = {folder.name for tree in trees for folder in tree.iterdir() if folder.is_dir() and any(folder.glob("*.yaml"))}
    return sorted(found - {"contract"})


def diagnosed(error: Exception, overrides: list[str], trees: tuple[Path, ...], root: str, again: Again) -> UsageError:
    """Find the override that is to blame: a group, its option, a key, the type of a value, and last the missing dataset."""
    said = " ".join(str(part) for part in (error, error.__cause__) if part)
    lacks_dataset = root == "pipeline" and not any(_pair(override)[0] in ("dataset", "experiment") for override in overrides)
    with_dataset = [*overrides, f"dataset={options('dataset', trees)[0]}"] if lacks_dataset else overrides
    return (
        _unknown_group(overrides, trees, root)
        or _unknown_option(overrides, trees)
        or _unknown_key(with_dataset, trees, again)
        or _wrong_type(overrides, said)
        or (_no_dataset(with_dataset, trees, again) if lacks_dataset else None)
        or UsageError(said.splitlines()[0], next="raycycle run --help")
    )


def _pair(override: str) -> tuple[str, str]:
    """Key and value of `+key=value`, `~key`, `key=value`."""
    key, _, value = override.lstrip("+~").partition("=")
    return key, value


def _group(key: str) -> str:
    return key.split("@")[0].strip("/")


def _unknown_option(overrides: list[str], trees: tuple[Path, ...]) -> UsageError | None:
    for key, value in map(_pair, overrides):
        if _group(key) in groups(trees) and value and value not in (known := options(_group(key), trees)):
            return UsageError(f"{_group(key)} has no option{suggest(value, known)}", value=value, allowed=", ".join(known))
    return None


def _unknown_group(overrides: list[str], trees: tuple[Path, ...], root: str) -> UsageError | None:
    """A group that the root configuration of this word does not use."""
    if root == "pipeline":
        return None
    used = ("cluster", "store")
    for key, value in map(_pair, overrides):
        if _group(key) in groups(trees) and _group(key) not in used:
            return UsageError("this word does not use that group", value=f"{key}={value}", allowed=", ".join(f"{group}=" for group in used))
    return None


def _no_dataset(with_dataset: list[str], trees: tuple[Path, ...], again: Again) -> UsageError:
    """Whatever else is wrong comes first: with some dataset it shows."""
    try:
        again(with_dataset)
    except UsageError as other:
        return other
    known = options("dataset", trees)
    return UsageError("no dataset was chosen", allowed=", ".join(known), next="raycycle run experiment=flights, or dataset=NAME")


def _unknown_key(overrides: list[str], trees: tuple[Path, ...], again: Again) -> UsageError | None:
    pairs = [_pair(override) for override in overrides]
    choices = [f"{key}={value}" for key, value in pairs if "@" not in key and _group(key) in groups(trees)]
    try:
        known = list(_walk(again(choices), ""))
    except Exception:  # the chosen options themselves do not compose: Hydra's own words are the best there are
        return None
    for (key, value), override in zip(pairs, overrides, strict=True):
        if "@" not in key and not override.startswith("+") and key not in (*known, *groups(trees)):
            return UsageError(f"there is no such key{suggest(key, known)}", value=f"{key}={value}", allowed=_siblings(key, known))
    return None


def _wrong_type(overrides: list[str], said: str) -> UsageError | None:
    found = re.search(r"Value '(.*?)' (?:of type '\w+' )?could not be converted to (\w+)", said)
    if found is None:
        return None
    key = next((key for key, value in map(_pair, overrides) if value.strip("'\"") == found.group(1)), "a value")
    return UsageError(f"{key} has the wrong type", value=found.group(1), allowed=f"a value of type {found.group(2)}")


def _walk(node: Any, prefix: str) -> Iterable[str]:
    """Every dotted key of a composed configuration."""
    from omegaconf import DictConfig, OmegaConf

    for key in node:
        yield f"{prefix}{key}"
        if not OmegaConf.is_missing(node, key) and isinstance(node[key], DictConfig):
            yield from _walk(node[key], f"{prefix}{key}.")


def _siblings(key: str, known: list[str]) -> str:
    parent = key.rpartition(".")[0]
    near = [k for k in known if k.rpartition(".")[0] == parent] or [k for k in known if "." not in k]
    return ", ".join(near[:30])
