"""Hydra's refusals in our words: what was wrong, the value, what is allowed, with the close match."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from conf.errors import UsageError, suggest

if TYPE_CHECKING:
    from omegaconf import DictConfig


def options(group: str, trees: Iterable[Path]) -> list[str]:
    return sorted({file.stem for tree in trees for file in (tree / group).glob("*.yaml")})


def groups(trees: Iterable[Path]) -> list[str]:
    found = {folder.name for tree in trees for folder in tree.iterdir() if folder.is_dir() and any(folder.glob("*.yaml"))}
    return sorted(found - {"contract"})


def diagnosed(
    error: Exception, overrides: list[str], trees: tuple[Path, ...], compose: Callable[[list[str]], DictConfig], root: str
) -> UsageError:
    """Find the override that is to blame: a group option first, then a key, then the type of a value."""
    pairs = [text.lstrip("+~").partition("=")[::2] for text in overrides]
    choices = []
    for key, value in pairs:
        group = key.split("@")[0].strip("/")
        if group in groups(trees):
            known = options(group, trees)
            if value and value not in known:
                return UsageError(f"{group} has no option{suggest(value, known)}", value=value, allowed=", ".join(known))
            choices.append(f"{key}={value}")
    if root == "pipeline" and not any(key in ("dataset", "experiment") for key, _ in pairs):
        chosen = options("dataset", trees)
        return UsageError("no dataset was chosen", allowed=", ".join(chosen), next="raycycle run experiment=flights, or dataset=NAME")
    try:
        known_keys = list(_walk(compose([text for text in choices if "@" not in text]), ""))
    except Exception:  # the chosen options themselves do not compose: Hydra's own words are the best there are
        known_keys = []
    for (key, value), text in zip(pairs, overrides, strict=True):
        if known_keys and "@" not in key and not text.startswith("+") and key.split("@")[0] not in (*known_keys, *groups(trees)):
            return UsageError(f"there is no such key{suggest(key, known_keys)}", value=f"{key}={value}", allowed=_siblings(key, known_keys))
    said = " ".join(str(part) for part in (error, error.__cause__) if part)
    if found := re.search(r"Value '(.*?)' (?:of type '\w+' )?could not be converted to (\w+)", said):
        key = next((key for key, value in pairs if value.strip("'\"") == found.group(1)), "a value")
        return UsageError(f"{key} has the wrong type", value=found.group(1), allowed=f"a value of type {found.group(2)}")
    return UsageError(said.splitlines()[0], next="raycycle run --help")


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
