"""The command line: it parses and prints; the stage files do the work.

$ raycycle --help
"""

from __future__ import annotations

import dataclasses
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from cluster import interrupt
from conf.errors import RefusedError, UsageError
from flows.answer import ConfigDir, Json, Overrides, Quiet, Settings, answering, progress
from flows.data import data_app

app = typer.Typer(
    name="raycycle",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
model_app = typer.Typer(help="Registered model versions.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(model_app, name="model")
app.add_typer(data_app, name="data")


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        print(f"raycycle {version('raycycle')}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """The whole life of a machine-learning model on Ray, from raw table to released endpoint."""


@app.command()
def init(
    table: Annotated[str, typer.Argument(metavar="FILE_OR_FOLDER", help="CSV, JSON lines or Parquet: a file, a folder or a glob.")],
    label: Annotated[str, typer.Option("--label", help="The column to predict.")],
    name: Annotated[str | None, typer.Option("--name", help="Name of the dataset; from the file's name by default.")] = None,
    into: Annotated[Path | None, typer.Option("--into", help="Where to write; ./raycycle-conf by default.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the dataset and contract of this name.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Inspect a table; write its dataset and contract."""
    with answering("init", as_json) as answer:
        from flows.init import init as make

        made = make(table, label, name, into, force=force, progress=progress(quiet))
        answer.fields |= made.as_json()
        answer.lines = made.lines()


@app.command()
def run(
    overrides: Overrides = None,
    until: Annotated[str, typer.Option("--until", metavar="STAGE", help="Last stage to run, such as prepare or evaluate.")] = "report",
    start: Annotated[str | None, typer.Option("--from", metavar="STAGE", help="Run again from this stage on, changed or not.")] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Run every stage again, changed or not.")] = False,
    config_dir: ConfigDir = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Learn, judge, register and release a model: every stage in order."""
    _run("run", overrides, until, config_dir, as_json, quiet, start, no_cache)


@app.command()
def sweep(overrides: Overrides = None, config_dir: ConfigDir = None, as_json: Json = False, quiet: Quiet = False) -> None:
    """Search trainers and parameters; register nothing."""
    _run("sweep", overrides, "sweep", config_dir, as_json, quiet)


def _run(
    verb: str,
    overrides: list[str] | None,
    until: str,
    config_dir: Path | None,
    as_json: bool,
    quiet: bool,
    start: str | None = None,
    no_cache: bool = False,
) -> None:
    with answering(verb, as_json) as answer:
        from cluster.store import Store
        from conf.compose import compose
        from flows.plan import Reuse, plan

        planned = plan(compose(overrides or [], config_dir), until, Reuse(not no_cache, start))
        store = answer.store = Store.open(planned.config.store.root, planned.config.store.tables)
        from flows.made import as_json as fields
        from flows.pipeline import run as run_stages
        from flows.summary import lines

        made = run_stages(planned, store, progress(quiet), verb)
        answer.fields |= fields(made, planned, store)
        answer.lines = lines(made, planned, store, answer.seconds)
        if made.refusals:
            answer.refused = RefusedError(
                "the candidate did not pass its gates", value="; ".join(made.refusals), next=f"raycycle report {made.run_id}"
            )


@app.command()
def score(
    model: Annotated[str, typer.Argument(help="flights (its champion), flights@candidate, flights/7")],
    table: Annotated[str, typer.Argument(metavar="INPUT", help="Parquet, CSV or JSON lines: a file, a folder or a glob.")],
    output: Annotated[Path, typer.Argument(help="A folder; it appears whole or not at all.")],
    overrides: Settings = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Score a table with a registered model."""
    with answering("score", as_json) as answer:
        from cluster.session import connect
        from cluster.store import Store
        from conf.compose import compose
        from flows.look import find_source
        from flows.score import score as score_table
        from ledger.registry import Registry
        from ledger.tracking import Tracking
        from tables.privacy.keys import Keyring
        from trainers.bundle import Bundle

        config = compose(overrides or [], root="scoring").config
        store = answer.store = Store.open(config.store.root, config.store.tables)
        source, _ = find_source(table)
        version = Registry(Tracking(store, config.store.tracking)).find(model)
        source = dataclasses.replace(source.read_like(Bundle.open(version.folder, version.digest).manifest.reading), unreadable="mark")
        with connect(store, config.cluster.address, num_cpus=config.cluster.cpus):
            scored = score_table(version, source, output.absolute(), config.keep, progress(quiet), config.max_bad_fraction, Keyring(store))
        answer.fields |= {"model": version.name, "version": version.version, "scores": str(scored.output), "score_input": table}
        answer.fields |= {"rows": scored.rows, "quarantined": scored.quarantined}
        reasons = "; ".join(f"{reason} ({count:,})" for reason, count in scored.quarantined.items())
        answer.lines = [f"{scored.rows:,} rows scored by {version}: {scored.output}"]
        if reasons:
            answer.lines.append(f"{sum(scored.quarantined.values()):,} in {scored.output / '_quarantine'}: {reasons}")


@app.command()
def deploy(
    name: Annotated[str, typer.Argument(help="A model's name.")],
    rest: Annotated[list[str] | None, typer.Argument(metavar="[VERSION] [KEY=VALUE]...", help="The candidate by default.")] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make a registered version the one that answers."""
    with answering("deploy", as_json) as answer:
        from cluster.store import safe_name
        from flows.deploy import deploy as release
        from flows.deploy import refuse_failed, start_platform
        from ledger.registry import Registry
        from ledger.tracking import Tracking

        words = rest or []
        wanted = words.pop(0) if words and "=" not in words[0] else None
        if wanted is not None and not wanted.isdigit():
            raise UsageError("VERSION is not a number", value=wanted, next=f"raycycle model list {name}")
        composed, store = answer.open_platform(words)
        registry = Registry(Tracking(store, composed.config.store.tracking))
        version = registry.find(f"{safe_name('model', name)}/{wanted}" if wanted else f"{safe_name('model', name)}@candidate")
        refuse_failed(version)
        say = progress(quiet)
        start_platform(store, say, composed.config.serve.port, composed.config.cluster.cpus)
        version, released = release(version, store, registry, say)
        answer.fields |= {"model": name, "version": released.version, "endpoint": released.url, "previous": released.previous}
        answer.lines = [f"{version} answers at {released.url}" + (f" ({released.note})" if released.note else "")]


@app.command()
def up(overrides: Settings = None, as_json: Json = False, quiet: Quiet = False) -> None:
    """Start the local platform: Ray and the endpoint."""
    with answering("up", as_json) as answer:
        from flows.deploy import start_platform
        from ledger.identities import token_file

        composed, store = answer.open_platform(overrides)
        running = start_platform(store, progress(quiet), composed.config.serve.port, composed.config.cluster.cpus)
        answer.fields |= {"endpoint": running.url, "token_file": str(token_file(store)), "started": running.fresh}
        answer.lines = [f"{'up' if running.fresh else 'already up'}: {running.url}, token in {token_file(store)}"]


@app.command()
def down(overrides: Settings = None, as_json: Json = False) -> None:
    """Stop the local platform."""
    with answering("down", as_json) as answer:
        from cluster import platform

        _, store = answer.open_platform(overrides)
        ended = platform.down(store)
        answer.fields["processes_ended"] = ended
        answer.lines = [f"down ({ended} processes ended)" if ended else "nothing was up"]


@app.command()
def status(overrides: Settings = None, as_json: Json = False) -> None:
    """What is up, and which versions answer."""
    with answering("status", as_json) as answer:
        from flows.status import status as look

        _, store = answer.open_platform(overrides)
        found = look(store)
        answer.fields |= found.as_json()
        answer.lines = found.lines()


@app.command()
def report(
    run_id: Annotated[str, typer.Argument(help="A run's id, or its first characters.")], overrides: Settings = None, as_json: Json = False
) -> None:
    """Where the report of a run lies."""
    with answering("report", as_json) as answer:
        from flows.report import report_of

        _, store = answer.open_platform(overrides)
        file = report_of(store, run_id)
        answer.fields |= {"run_id": file.parent.name, "report": str(file)}
        answer.lines = [str(file)]


@app.command()
def runs(
    overrides: Settings = None,
    last: Annotated[int, typer.Option("--last", metavar="N", help="How many, the newest first.")] = 20,
    dataset: Annotated[str | None, typer.Option("--dataset", metavar="NAME", help="Those of one dataset.")] = None,
    as_json: Json = False,
) -> None:
    """The newest runs, a line each."""
    with answering("runs", as_json) as answer:
        from flows.runs import newest

        found = newest(answer.open_store(overrides), last, dataset)
        answer.fields |= found.as_json()
        answer.lines = found.lines()


@app.command()
def explain(
    reference: Annotated[str, typer.Argument(metavar="ID", help="A run's id or its first letters, latest, flights@3, flights/2.")],
    overrides: Settings = None,
    graph: Annotated[
        Path | None, typer.Option("--graph", metavar="FILE.svg", help="Where to draw it; into the run's folder by default.")
    ] = None,
    as_json: Json = False,
) -> None:
    """What a run, a snapshot or a model version is, where it came from, and what came of it."""
    with answering("explain", as_json) as answer:
        from flows.explain import explain as tell
        from flows.explain import write_graph
        from ledger.registry import Registry
        from ledger.tracking import Tracking

        composed, store = answer.open_platform(overrides)
        found = tell(store, Registry(Tracking(store, composed.config.store.tracking)), reference)
        answer.fields |= found.facts
        answer.lines = found.lines
        file = write_graph(store, found, graph)
        answer.fields["graph"] = str(file) if file else None
        answer.lines = [*found.lines, *([str(file)] if file else [])]


@app.command()
def reproduce(
    run_id: Annotated[str, typer.Argument(help="A run's id, or its first characters.")],
    overrides: Settings = None,
    until: Annotated[str | None, typer.Option("--until", metavar="STAGE", help="Last stage to replay.")] = None,
    code: Annotated[
        str, typer.Option("--code", help="recorded: the code that ran; here: today's, to see whether it gives the same.")
    ] = "recorded",
    env: Annotated[str, typer.Option("--env", help="here: this environment; build: a new one from the recorded lock file.")] = "here",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Replay a run and prove that every stage comes out the same."""
    with answering("reproduce", as_json) as answer:
        from flows import certificate
        from flows.reproduce import refuse_different
        from flows.reproduce import reproduce as replay

        for option, value, allowed in (("--code", code, ("recorded", "here")), ("--env", env, ("here", "build"))):
            if value not in allowed:
                raise UsageError(f"{option} has no such choice", value=value, allowed=", ".join(allowed))
        _, store = answer.open_platform(overrides)
        found = replay(store, run_id, progress(quiet), until=until, code=code, env=env)
        answer.fields |= {"run_id": found.certificate.run_id, "verdict": found.certificate.verdict, "certificate": str(found.file)}
        answer.fields["stages"] = {stage.stage: stage.equal for stage in found.certificate.stages}
        answer.fields["first_difference"] = (
            dataclasses.asdict(found.certificate.first_difference) if found.certificate.first_difference else None
        )
        answer.lines = [*certificate.lines(found.certificate), f"certificate: {found.file}"]
        answer.refused = refuse_different(found)


@model_app.command("list")
def model_list(
    name: Annotated[str | None, typer.Argument(help="A model's name; all by default.")] = None,
    overrides: Settings = None,
    as_json: Json = False,
) -> None:
    """Versions with their aliases and gates."""
    with answering("model list", as_json) as answer:
        from ledger.registry import Registry
        from ledger.tracking import Tracking

        composed, store = answer.open_platform(overrides)
        registry = Registry(Tracking(store, composed.config.store.tracking))
        names = [registry.known(name)] if name else registry.names()
        versions = [version for each in names for version in registry.versions(each)]
        answer.fields["versions"] = [
            {"model": v.name, "version": v.version, "aliases": v.aliases, "passed": v.passed, "digest": v.digest, "run_id": v.run_id}
            for v in versions
        ]
        answer.lines = [
            f"{v!s:<20} {'passed' if v.passed else 'refused':<8} {', '.join(v.aliases) or '-':<22} run {v.run_id}" for v in versions
        ] or ["no model is registered yet: raycycle run makes one"]


def main() -> None:
    """The console script. It leaves without waiting for threads of libraries: some of them crash a process that ends while they run."""
    from cluster import session

    interrupt.install()
    session.stay_connected()
    try:
        app()
    except SystemExit as end:
        sys.stdout.flush()
        sys.stderr.flush()
        session.leave()
        os._exit(end.code if isinstance(end.code, int) else 1)
