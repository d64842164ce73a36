"""Checks over several columns of one row, written as small expressions and answered by Arrow, one kernel for each operator."""

from __future__ import annotations

import ast
import functools

import pyarrow as pa
import pyarrow.compute as pc

from conf.errors import UsageError, some, suggest
from tables.casting import one_array

_COMPARE = {ast.Lt: "less", ast.LtE: "less_equal", ast.Gt: "greater", ast.GtE: "greater_equal", ast.Eq: "equal", ast.NotEq: "not_equal"}
_ARITHMETIC = {ast.Add: "add", ast.Sub: "subtract", ast.Mult: "multiply"}


@functools.lru_cache(maxsize=256)
def parse_rule(check: str) -> ast.expr:
    """The rule as a tree; only comparisons, `and or not`, arithmetic, names of columns and constants are known."""
    try:
        rule = ast.parse(check, mode="eval").body
    except (SyntaxError, ValueError) as error:
        raise UsageError(f"rule is not an expression ({getattr(error, 'msg', error)})", value=check) from None
    _refuse_unknown(rule)
    return rule


def _refuse_unknown(node: ast.expr) -> None:
    match node:
        case ast.BoolOp(values=parts):
            pass
        case ast.UnaryOp(op=ast.Not(), operand=part):
            parts = [part]
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float())) | ast.Name():
            parts = []
        case ast.Compare(left=left, ops=[op], comparators=[right]) if type(op) in _COMPARE:
            parts = [left, right]
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC or isinstance(op, ast.Div):
            parts = [left, right]
        case ast.Constant(value=str() | int() | float() | bool()):
            parts = []
        case _:
            raise UsageError(
                "rule uses something that is not allowed",
                value=ast.unparse(node),
                allowed="columns, constants, < <= > >= == != + - * / and or not",
            )
    for part in parts:
        _refuse_unknown(part)


def _value(node: ast.expr, table: pa.Table) -> pa.Array | pa.Scalar:
    match node:
        case ast.BoolOp(op=op, values=values):
            combine = pc.and_kleene if isinstance(op, ast.And) else pc.or_kleene
            return functools.reduce(combine, [_value(each, table) for each in values])
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return pc.invert(_value(operand, table))
        case ast.UnaryOp(operand=ast.Constant(value=int() | float() as number)):
            return pa.scalar(-number)
        case ast.Compare(left=left, ops=[op], comparators=[right]):
            return pc.call_function(_COMPARE[type(op)], [_value(left, table), _value(right, table)])
        case ast.BinOp(left=left, op=ast.Div(), right=right):
            # Arrow divides whole numbers without a remainder, and stops at a zero.
            return pc.divide(pc.cast(_value(left, table), pa.float64()), pc.cast(_value(right, table), pa.float64()))
        case ast.BinOp(left=left, op=op, right=right):
            return pc.call_function(_ARITHMETIC[type(op)], [_value(left, table), _value(right, table)])
        case ast.Name(id=name):
            return one_array(table.column(name))
        case ast.Constant(value=constant):
            return pa.scalar(constant)
    raise AssertionError(node)


@functools.lru_cache(maxsize=256)
def names_in(check: str) -> frozenset[str]:
    """The columns that a rule asks about."""
    return frozenset(node.id for node in ast.walk(parse_rule(check)) if isinstance(node, ast.Name))


def evaluate(check: str, table: pa.Table) -> pa.Array:
    """The rule's answer for each row of `table`: true, false, or null where a column it needs is null."""
    for name in sorted(names_in(check) - set(table.column_names)):
        close = suggest(name, table.column_names)
        raise UsageError(f"rule {check!r} names an unknown column{close}", value=name, allowed=some(table.column_names))
    answer = _value(parse_rule(check), table)
    return pa.repeat(answer, table.num_rows) if isinstance(answer, pa.Scalar) else answer


def check_rule(check: str, schema: pa.Schema) -> None:
    """Raise UsageError unless the rule can be asked of rows of `schema` and answers true or false."""
    try:
        kind = evaluate(check, schema.empty_table()).type
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OverflowError) as error:
        raise UsageError(f"rule does not fit the types of its columns ({error})", value=check) from None
    if not pa.types.is_boolean(kind):
        raise UsageError("rule is no yes or no question", value=check, allowed="a comparison, such as distance >= 50")
