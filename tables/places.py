"""Where the files of a table lie, in the store's folder or in an object store, and how Delta is told of that place."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.objects import Folder, ObjectPath, unreachable
from cluster.store import Store, safe_name
from conf.errors import RaycycleError, UsageError

if TYPE_CHECKING:
    from deltalake import DeltaTable

LOG = "_delta_log"


def table_folder(store: Store, name: str) -> Folder:
    """Where the table lies. Raises UsageError when the name, or a link of that name, leads out of the store."""
    tables = store.tables
    folder = tables / safe_name("dataset", name)
    if isinstance(folder, Path) and isinstance(tables, Path) and not folder.resolve().is_relative_to(tables.resolve()):
        raise UsageError(
            "the table's folder is a link out of the store",
            value=str(folder),
            allowed=f"a folder in {tables}",
            next="move the table there, or set store.root",
        )
    return folder


def delta(folder: Folder, version: int | None = None) -> DeltaTable:
    """The table as Delta sees it, by default its latest version. Raises DeltaError where there is none."""
    from deltalake import DeltaTable

    with reaching(folder):
        return DeltaTable(str(folder), version=version, storage_options=options(folder))


def latest(folder: Folder) -> DeltaTable | None:
    """The latest version of the table, None where there is no table yet."""
    from deltalake.exceptions import TableNotFoundError

    try:
        return delta(folder)
    except TableNotFoundError:
        return None


def renewed(folder: Folder, table: DeltaTable | None) -> DeltaTable | None:
    """The latest version again: of what is known, only the commits since are read."""
    if table is None:
        return latest(folder)
    with reaching(folder):
        table.update_incremental()
    return table


@contextlib.contextmanager
def reaching(folder: Folder) -> Iterator[None]:
    """Tell a store that does not answer, or refuses, from a table that is not there."""
    from deltalake.exceptions import DeltaError

    try:
        yield
    except (DeltaError, OSError) as error:
        if isinstance(folder, ObjectPath) and (known := unreachable(folder, error)):
            raise known from None
        if isinstance(folder, ObjectPath) and isinstance(error, OSError):
            raise RaycycleError("the object store failed", value=str(folder), next="run again") from None
        raise


def options(folder: Folder) -> dict[str, str] | None:
    """What Delta needs to know beside the address and the keys, which it reads from the environment as we do."""
    if not isinstance(folder, ObjectPath):
        return None
    endpoint = os.environ.get("AWS_ENDPOINT_URL", "")
    # A version is put only where there is none yet: of two writers the store itself refuses the second.
    found = {"aws_conditional_put": "etag", "connect_timeout": "5s", "timeout": "60s", "max_retries": "3", "retry_timeout": "30s"}
    if endpoint.startswith("http://"):
        found["allow_http"] = "true"
    if endpoint and not (os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")):
        found["aws_region"] = "us-east-1"
    return found
