"""The words about contracts: what one promises, and whom a change of it breaks.

$ raycycle data contract check flights
$ raycycle data contract diff old.yaml raycycle-conf/contract/flights.yaml
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from conf.errors import RefusedError
from flows.answer import ConfigDir, Json, answering

if TYPE_CHECKING:
    from tables.contract import Column, Contract
    from tables.contract_change import Change

Side = Literal["readers", "writers", "both"]
_SHOWN = 60
contract_app = typer.Typer(help="Contracts: what they promise, and whom a change breaks.", no_args_is_help=True, rich_markup_mode=None)
Which = Annotated[str, typer.Argument(help="A contract's file, or its name.")]


@contract_app.command("check")
def check_word(which: Which, config_dir: ConfigDir = None, as_json: Json = False) -> None:
    """Check a contract file and say what it promises."""
    with answering("data contract check", as_json) as answer:
        file, contract = _open(which, config_dir)
        import msgspec

        answer.fields |= {"file": str(file), "contract": msgspec.to_builtins(contract)}
        answer.lines = [*promises(contract), f"{file} is a contract"]


@contract_app.command("diff")
def diff_word(
    old: Which,
    new: Which,
    side: Annotated[Side, typer.Option("--for", help="Whom it must not break: readers of rows, writers of them, or both.")] = "readers",
    config_dir: ConfigDir = None,
    as_json: Json = False,
) -> None:
    """Say what changed between two contracts, and whom it breaks; exit code 3 when it breaks those asked for."""
    with answering("data contract diff", as_json) as answer:
        from tables.contract_change import changes

        found = changes(_open(old, config_dir)[1], _open(new, config_dir)[1])
        broken = [each for each in found if _breaks(each, side)]
        answer.fields |= {"for": side, "breaking": bool(broken), "changes": [each.as_json() for each in found]}
        answer.lines = list(_told(found)) or ["nothing changed"]
        if broken:
            names = ", ".join(f"{each.where} ({each.what})" for each in broken[:5])
            answer.refused = RefusedError(
                f"{len(broken)} of {len(found)} changes break {'somebody' if side == 'both' else side}",
                value=names,
                allowed="changes that keep what was promised",
                next="keep the promise, or tell those whom it breaks and release under a new name",
            )


def _open(which: str, config_dir: Path | None) -> tuple[Path, Contract]:
    """The contract in the file `which`, or that of this name in the configuration."""
    from conf.compose import BUILT_IN, USER_TREE, Composed
    from tables.contract import Contract

    trees = tuple(tree for tree in (config_dir, USER_TREE, BUILT_IN) if tree and tree.is_dir())
    by_name = Composed(None, {}, trees, ())
    file = Path(which) if Path(which).suffix in (".yaml", ".yml") else by_name.file("contract", which)
    return file, Contract.load(file)


def _breaks(change: Change, side: Side) -> bool:
    return bool(change.breaks) if side == "both" else side in change.breaks


def _told(found: list[Change]) -> Iterator[str]:
    for each in found:
        verdict = f"breaks {' and '.join(each.breaks)}" if each.breaks else "compatible"
        values = "" if each.old is None or each.new is None else f" from {_short(each.old)} to {_short(each.new)}"
        yield f"{verdict:<26} {each.where} {each.what}{values}: {each.because}"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def promises(contract: Contract) -> list[str]:
    """What a person reads of a contract: a line for each column, then what is asked of rows and of the whole table."""
    width = max(map(len, contract.columns))
    lines = [
        f"{contract.name}: {contract.task} of {contract.label}, {len(contract.columns)} columns, {len(contract.features)} features",
        "",
    ]
    for name, column in contract.columns.items():
        lines.append(f"{name:<{width}}  {column.type:<9} {column.role:<8} {', '.join(_of(column))}".rstrip())
    return [*lines, "", *_of_rows(contract), *_of_table(contract)]


def _of(column: Column) -> Iterator[str]:
    if not column.nullable:
        yield "never null"
    if column.min is not None or column.max is not None:
        low = "" if column.min is None else f"from {column.min:g}"
        yield f"{low}{'' if column.max is None else f' to {column.max:g}'}".strip()
    if column.allowed is not None:
        yield f"one of {len(column.allowed)} values"
    if column.pattern is not None:
        yield f"matches {column.pattern}"
    if column.severity != "quarantine":
        yield f"else {column.severity}"
    if column.privacy_class:
        yield column.privacy_class
    if column.treatment:
        yield "treated at ingest"


def _of_rows(contract: Contract) -> Iterator[str]:
    for rule in contract.rules:
        yield f"each row       {rule.check}, else {rule.severity}"
    for reference in contract.references:
        there = f"{', '.join(reference.to)} of {reference.table}"
        yield f"each row       {', '.join(reference.columns)} is among {there}, else {reference.severity}"
    for names in contract.unique:
        yield f"each row       {', '.join(names)} once in the table"
    yield f"all rows       at most {contract.max_bad_fraction:.1%} break their promises"


def _of_table(contract: Contract) -> Iterator[str]:
    if rows := contract.rows:
        bounds = {"at least": rows.min, "at most": rows.max}
        said = [f"{words} {bound:,} rows" for words, bound in bounds.items() if bound is not None]
        said += [f"{rows.change:.0%} more or fewer than the last snapshot at most"] if rows.change is not None else []
        yield f"the table      {', '.join(said)}, else {rows.severity}"
    if fresh := contract.freshness:
        yield f"the table      the latest {fresh.column} at most {fresh.max_age} old, else {fresh.severity}"
    for name, each in contract.distributions.items():
        said = [f"{measure} at most {bound:g}" for measure, bound in (("psi", each.psi), ("ks", each.ks)) if bound is not None]
        yield f"the table      {name} near the last snapshot ({', '.join(said)}), else {each.severity}"
