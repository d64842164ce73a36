"""The words about tables: their snapshots, and how they differ.

$ raycycle data snapshots flights
"""

from __future__ import annotations

from typing import Annotated

import typer

from flows.answer import Json, Settings, answering

data_app = typer.Typer(help="Tables and their snapshots.", no_args_is_help=True, rich_markup_mode=None)


@data_app.callback()
def data() -> None:
    """Tables and their snapshots."""


@data_app.command("snapshots")
def snapshots(
    name: Annotated[str, typer.Argument(help="A dataset's name.")],
    overrides: Settings = None,
    as_json: Json = False,
) -> None:
    """The versions of a table, the newest first."""
    with answering("data snapshots", as_json) as answer:
        from tables.snapshots import open_snapshot

        store = answer.open_store(overrides)
        latest = open_snapshot(store, name)
        found = [open_snapshot(store, name, version) for version in range(latest.version, -1, -1)]
        answer.fields["snapshots"] = [{"version": each.version, "rows": each.rows, "digest": str(each.digest)} for each in found]
        answer.lines = [f"{each!s:<20} {each.rows:>12,} rows" for each in found]
