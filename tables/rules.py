"""Checks over several columns of one row, written as small expressions and run by Arrow."""

from __future__ import annotations

import ast
import functools

import pyarrow as pa
import pyarrow.compute as pc

from conf.errors import UsageError, some, suggest

_COMPARE = {ast.Lt: "less", ast.LtE: "less_equal", ast.Gt: "greater", ast.GtE: "greater_equal", ast.Eq: "equal", ast.NotEq: "not_equal"}
_ARITHMETIC = {ast.Add: "add", ast.Sub: "subtract", ast.Mult: "multiply"}


@functools.lru_cache(maxsize=256)
def rule_expression(check: str, columns: tuple[str, ...]) -> pc.Expression:
    """Compile a rule to an Arrow expression; only comparisons, `and or not`, arithmetic, names of columns and constants are known."""
    return _compile(_parse_rule(check), check, columns)


def _parse_rule(check: str) -> ast.expr:
    try:
        return ast.parse(check, mode="eval").body
    except SyntaxError as error:
        raise UsageError(f"rule is not an expression ({error.msg})", value=check) from None


def _compile(node: ast.expr, check: str, columns: tuple[str, ...]) -> pc.Expression:
    def sub(inner: ast.expr) -> pc.Expression:
        return _compile(inner, check, columns)

    match node:
        case ast.BoolOp(op=ast.And(), values=values):
            return functools.reduce(lambda a, b: a & b, map(sub, values))
        case ast.BoolOp(op=ast.Or(), values=values):
            return functools.reduce(lambda a, b: a | b, map(sub, values))
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return ~sub(operand)
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
            return pc.scalar(-number)
        case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in _COMPARE:
            return pc.Expression._call(_COMPARE[type(op)], [sub(left), sub(right)])
        case ast.BinOp(left=left, op=ast.Div(), right=right):
            # Arrow divides whole numbers without a remainder, and stops at a zero.
            return pc.Expression._call("divide", [sub(left).cast(pa.float64()), sub(right).cast(pa.float64())])
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
            return pc.Expression._call(_ARITHMETIC[type(op)], [sub(left), sub(right)])
        case ast.Name(id=name) if name in columns:
            return pc.field(name)
        case ast.Name(id=name):
            raise UsageError(f"rule {check!r} names an unknown column{suggest(name, columns)}", value=name, allowed=some(columns))
        case ast.Constant(value=str() | int() | float() | bool() as constant):
            return pc.scalar(constant)
    raise UsageError(
        "rule uses something that is not allowed", value=ast.unparse(node), allowed="columns, constants, < <= > >= == != + - * / and or not"
    )


def names_in(check: str) -> set[str]:
    """The columns that a rule asks about."""
    return {node.id for node in ast.walk(_parse_rule(check)) if isinstance(node, ast.Name)}


def evaluate(check: str, table: pa.Table) -> pa.Array:
    """The rule's answer for each row of `table`: true, false, or null where a column it needs is null."""
    import pyarrow.acero as acero

    expression = rule_expression(check, tuple(table.column_names))
    plan = acero.Declaration.from_sequence(
        [
            acero.Declaration("table_source", acero.TableSourceNodeOptions(table)),
            acero.Declaration("project", acero.ProjectNodeOptions([expression], ["kept"])),
        ]
    )
    return plan.to_table(use_threads=False).column("kept").combine_chunks()


def check_rule(check: str, schema: pa.Schema) -> None:
    """Raise UsageError unless the rule can be asked of rows of `schema` and answers true or false."""
    rule_expression(check, tuple(schema.names))
    try:
        kind = evaluate(check, schema.empty_table()).type
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise UsageError(f"rule does not fit the types of its columns ({error})", value=check) from None
    if not pa.types.is_boolean(kind):
        raise UsageError("rule is no yes or no question", value=check, allowed="a comparison, such as distance >= 50")
