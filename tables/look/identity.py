"""Which columns name a row, a person or a thing instead of describing it."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tables.look.inference import Reading
from tables.privacy.detection import words

Identity = Literal["key", "unique", "group", "code", "many", "text"]

_ID = {"id", "ids", "uuid", "guid", "rowid", "rownum", "pk", "sk", "identifier"}
_THINGS = """customer client user account patient subject person member household student employee driver device machine sensor vehicle
session order invoice policy ticket case transaction claim loan application row record serial company merchant store shop product item sku
visit encounter trip ride booking reservation contract event"""
_ENTITIES = _THINGS.split()
# An id only alone or behind the thing it numbers: a body mass index is a measure.
_NUMBERED = {"no", "nr", "num", "number", "code", "ref", "hash", "key", "index", "idx"}
_PLACES = {"store", "shop", "product", "item", "sku", "merchant", "company", "branch", "region", "department", "category"}
_CODES = {"zip", "zipcode", "postal", "postcode", "plz", "sku", "isbn", "ean"}
_UUID = r"[0-9a-fA-F]{8}-([0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}"
_CODE = re.compile(rf"{_UUID}|[0-9a-fA-F]{{16,}}|[A-Za-z]{{0,5}}[-_/#]?\d{{3,}}[A-Za-z]{{0,3}}")
MIN_GROUPS = 20
# A name shared by more rows than this is a place or a product that new rows will share too: a category.
MAX_GROUP_ROWS = 50


def named_as_id(name: str) -> bool:
    parts = words(name)
    if not parts:
        return False
    if parts[-1] in _ID or parts[0] in ("unnamed", "id"):
        return True
    if len(parts) > 1:
        return parts[-1] in _NUMBERED and parts[-2] in _ENTITIES
    alone = {"key", "index", "idx", *_ENTITIES[:16]}
    return parts[0] in alone or any(parts[0] == entity + "id" for entity in _ENTITIES)


def named_as_code(name: str) -> bool:
    parts = words(name)
    return bool(set(parts) & _CODES) or (len(parts) == 1 and parts[0] in _PLACES)


def as_category(reading: Reading) -> Reading:
    """Whole numbers that are names (a shop, a postcode) as text, so that no model takes 7 for more than 6."""
    missing = np.isnan(reading.values)
    levels, found = np.unique(reading.values[~missing], return_inverse=True)
    codes = np.full(len(missing), -1, np.int64)
    codes[~missing] = found
    return Reading(
        type="string",
        values=codes,
        distinct=len(levels),
        nulls=int(missing.sum()),
        levels=[str(int(v)) for v in levels],
        spelled=reading.spelled,
    )


def whole(name: str, reading: Reading) -> Reading:
    """An id that pandas wrote as 12345.0 because some were missing, as the whole number it is."""
    if reading.type != "double" or not (named_as_id(name) or named_as_code(name)):
        return reading
    known = reading.values[~np.isnan(reading.values)]
    is_whole = len(known) > 0 and bool((known == np.floor(known)).all() and np.abs(known).max() < 2**53)
    return replace(reading, type="int64") if is_whole else reading


def identity(name: str, reading: Reading) -> Identity | None:
    """`key` names each row, `unique` nearly so; `group` names what several rows share, `code` a category; `many` and `text` are
    text of too many levels to learn from."""
    if not reading.known or reading.is_time or reading.type in ("bool", "double"):
        return None
    named = named_as_id(name) and (not reading.is_text or words(name)[-1] not in _ENTITIES or _coded(reading))
    return _text_identity(named, name, reading) if reading.is_text else _number_identity(named, name, reading)


def _number_identity(named: bool, name: str, reading: Reading) -> Identity | None:
    unique = reading.distinct == reading.known
    if unique and not reading.nulls and (named or _consecutive(reading.values)):
        return "key"
    if named_as_code(name):
        return "code"
    return _repeating(reading) if named else None


def _consecutive(values: NDArray[np.float64]) -> bool:
    return len(values) >= MIN_GROUPS and float(values.max() - values.min()) + 1 == len(values)


def _repeating(reading: Reading) -> Identity:
    if reading.distinct > 0.95 * reading.known:
        return "unique"
    few = reading.distinct < MIN_GROUPS or reading.known > MAX_GROUP_ROWS * reading.distinct
    return "code" if few else "group"


def _text_identity(named: bool, name: str, reading: Reading) -> Identity | None:
    coded = named or _coded(reading)
    if reading.distinct == reading.known and coded and not reading.nulls:
        return "key"
    if named:
        return _repeating(reading)
    if reading.distinct > 0.5 * reading.known and reading.distinct > MIN_GROUPS:
        lengths = [len(level) for level in reading.levels[:500]]
        spaced = sum(" " in level.strip() for level in reading.levels[:500]) > 0.5 * len(lengths)
        return "unique" if coded else "text" if spaced and float(np.mean(lengths)) > 30 else "many"
    if coded and not named_as_code(name) and reading.distinct >= MIN_GROUPS and 2 <= reading.known / reading.distinct <= MAX_GROUP_ROWS:
        return "group"
    return None


def _coded(reading: Reading) -> bool:
    sample = reading.levels[:200]
    return sum(bool(_CODE.fullmatch(level)) for level in sample) > 0.95 * len(sample)
