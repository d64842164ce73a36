"""Which objects a `_target_` may name: those defined in our packages and in the packages listed under `plugins`."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from conf.errors import UsageError

# Our rooms, in the order of their imports, and the folder that holds them.
PACKAGES = ("conf", "cluster", "ledger", "tables", "trainers", "serve", "flows")
SOURCE = Path(__file__).resolve().parents[1]


def resolve(target: str, plugins: Iterable[str] = ()) -> Any:
    """The class that `target` names.

    Raises UsageError when it cannot be found, or when the object itself was defined elsewhere (an alias does not help: GHSA-37p2).
    """
    allowed = (*PACKAGES, *plugins)
    module_name, _, name = target.rpartition(".")
    refused = UsageError(
        "_target_ is not allowed", value=target, allowed=f"classes of {', '.join(allowed)}", next="list your package under plugins: [...]"
    )
    if not isinstance(target, str) or not name or module_name.split(".")[0] not in allowed:
        raise refused
    try:
        found = getattr(importlib.import_module(module_name), name)
    except ModuleNotFoundError as error:
        raise UsageError(f"_target_ cannot be imported ({error})", value=target, next="check the spelling, and plugins: [...]") from error
    except AttributeError:
        raise UsageError(f"_target_: module {module_name} has no {name}", value=target) from None
    if not isinstance(found, type) or found.__module__.split(".")[0] not in allowed:
        raise refused
    return found
