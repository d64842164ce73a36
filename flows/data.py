"""The words about tables: their snapshots, how they differ, what is in them, and who needs them.

$ raycycle data snapshots flights
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from flows.answer import ConfigDir, Json, Quiet, Settings, answering, progress
from flows.contract_diff import contract_app

data_app = typer.Typer(help="Tables and their snapshots.", no_args_is_help=True, rich_markup_mode=None)
data_app.add_typer(contract_app, name="contract")


@data_app.callback()
def data() -> None:
    """Tables and their snapshots."""


@data_app.command("snapshots")
def snapshots(
    name: Annotated[str | None, typer.Argument(help="A dataset's name; all by default.")] = None,
    overrides: Settings = None,
    as_json: Json = False,
) -> None:
    """The versions of a table, the newest first, and who used them."""
    with answering("data snapshots", as_json) as answer:
        from flows import versions

        words = [*([name] if name else []), *(overrides or [])]
        store = answer.open_store([word for word in words if "=" in word])
        wanted = [word for word in words if "=" not in word] or versions.tables_of(store)
        found = [each for table in wanted for each in versions.versions(store, table)]
        answer.fields["snapshots"] = [each.as_json() for each in found]
        answer.lines = versions.lines(found) or ["no table yet: raycycle run --until ingest makes one"]


@data_app.command("diff")
def diff(
    words: Annotated[list[str], typer.Argument(metavar="A B [KEY=VALUE]...", help="flights@3 flights@4, or flights 3 4.")],
    page: Annotated[Path | None, typer.Option("--page", metavar="FILE.html", help="Where to write the page.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Rows added, removed and changed; columns; distributions."""
    with answering("data diff", as_json) as answer:
        from flows.diff_page import write
        from flows.table_diff import diff as compare
        from flows.versions import opened, pair

        one, other = pair([word for word in words if "=" not in word])
        store = answer.open_store([word for word in words if "=" in word])
        found = compare(store, opened(store, one), opened(store, other), progress(quiet))
        file = write(found, page or store.folder("reports") / f"{found.one}-{found.other}.html")
        answer.fields |= {**found.as_json(), "page": str(file)}
        answer.lines = [*found.lines(), str(file)]


@data_app.command("report")
def report(
    snapshot: Annotated[str, typer.Argument(metavar="NAME[@VERSION]", help="Such as flights@3, or flights for the newest.")],
    overrides: Settings = None,
    page: Annotated[Path | None, typer.Option("--page", metavar="FILE.html", help="Where to write the page.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """A page of a snapshot: its columns, its label, what looks like a leak."""
    with answering("data report", as_json) as answer:
        from flows.data_report import report_of

        name, file = report_of(answer.open_store(overrides), snapshot, progress(quiet), page)
        answer.fields |= {"snapshot": name, "page": str(file)}
        answer.lines = [str(file)]


@data_app.command("vacuum")
def vacuum(
    name: Annotated[str, typer.Argument(help="A dataset's name.")],
    overrides: Settings = None,
    keep: Annotated[int, typer.Option("--keep", metavar="N", help="The newest versions that stay, needed or not.")] = 3,
    yes: Annotated[bool, typer.Option("--yes", help="Remove what the same command without it tells.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only tell, which is what happens without --yes.")] = False,
    as_json: Json = False,
) -> None:
    """Which versions nobody needs any more; --yes removes them."""
    with answering("data vacuum", as_json) as answer:
        from flows.vacuum import vacuum as clear
        from ledger.registry import Registry
        from ledger.tracking import Tracking

        composed, store = answer.open_platform(overrides)
        registry = Registry(Tracking(store, composed.config.store.tracking))
        done = clear(store, registry, name, keep, dry_run=dry_run or not yes)
        answer.fields |= done.as_json()
        answer.lines = done.lines()


@data_app.command("classify")
def classify(
    name: Annotated[str, typer.Argument(help="A dataset's name.")],
    columns: Annotated[list[str], typer.Argument(metavar="COLUMN=CLASS[:TREATMENT]...", help="Such as email=personal:drop shop=internal")],
    config_dir: ConfigDir = None,
    as_json: Json = False,
) -> None:
    """Say which columns are personal, and what ingest does to them."""
    with answering("data classify", as_json) as answer:
        from flows.classify import classify as write

        done = write(name, columns, config_dir)
        answer.fields |= {"contract": str(done.file)}
        answer.fields["columns"] = {column: {"class": kind, "treatment": how} for column, (kind, how) in done.columns.items()}
        answer.lines = done.lines()


@data_app.command("rotate-key")
def rotate_key(overrides: Settings = None, as_json: Json = False) -> None:
    """Hash new snapshots with a new key; models keep the one that they learned with."""
    with answering("data rotate-key", as_json) as answer:
        from tables.privacy.keys import Keyring

        keyring = Keyring(answer.open_store(overrides))
        answer.fields["key"] = keyring.rotate()
        answer.lines = [f"new snapshots are hashed with key {answer.fields['key']}", f"all keys: {keyring.file} (keep a backup of it)"]


@data_app.command("quarantine")
def quarantine(
    name: Annotated[str, typer.Argument(help="A dataset's name.")],
    overrides: Settings = None,
    rows: Annotated[int, typer.Option("--rows", metavar="N", help="How many rows to show.")] = 10,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Write all rows there to be mended: .csv or .parquet.")] = None,
    as_json: Json = False,
) -> None:
    """Rows that were not let in: how many by rule, and some of them."""
    with answering("data quarantine", as_json) as answer:
        from flows import quarantine as kept

        store = answer.open_store(overrides)
        rules, shown = kept.counts(store, name), kept.some_rows(store, name, rows)
        answer.fields |= {"quarantined": rules, "rows": shown}
        answer.lines = kept.lines(rules, shown) or [f"no row of {name} is in quarantine"]
        if out:
            answer.fields["out"] = str(out)
            answer.lines.append(f"{kept.export(store, name, out):,} rows in {out}; mended: raycycle data reingest {name} {out}")


@data_app.command("reingest")
def reingest_rows(
    words: Annotated[list[str], typer.Argument(metavar="NAME [FILE] [KEY=VALUE]...", help="FILE: mended rows of data quarantine --out.")],
    config_dir: ConfigDir = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Let quarantined rows in: those of FILE, or all as they are."""
    with answering("data reingest", as_json) as answer:
        from cluster.session import connect
        from cluster.store import Store
        from conf.compose import compose
        from flows.plan import plan
        from flows.quarantine import mended_file, reingest

        name, file, overrides = mended_file(words)
        planned = plan(compose(overrides, config_dir), "ingest")
        config = planned.config
        store = answer.store = Store.open(config.store.root, config.store.tables)
        with connect(store, config.cluster.address, num_cpus=config.cluster.cpus):
            made, left = reingest(name, planned.contract, planned.onces, store, progress(quiet), file)
        answer.fields |= {"snapshot": str(made.snapshot), "quarantined": made.quarantined, "left": left}
        answer.lines = [
            f"{made.snapshot}: {made.snapshot.rows:,} rows; {left:,} stay in quarantine",
            f"next: raycycle run dataset={made.snapshot.name} snapshot={made.snapshot.version}",
        ]
