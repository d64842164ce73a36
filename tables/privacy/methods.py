"""The treatments themselves: what each may be told, which columns it fits, and what it makes of their values."""

from __future__ import annotations

import hmac
import math
from collections.abc import Callable
from typing import Literal

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from tables.casting import ColumnType
from tables.privacy.keys import Keyring
from tables.privacy.tokens import Vault


class Parameters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a treatment may be told. `separates`: different values stay different, so that keys stay keys."""

    separates = False

    def check(self, kind: ColumnType) -> str:
        """What is wrong with this treatment for a column of this type, empty if nothing is."""
        return ""

    def type(self, kind: ColumnType) -> ColumnType:
        return "string"


class Drop(Parameters, frozen=True):
    """The column is not kept at all."""


class Hash(Parameters, frozen=True):
    """HMAC-SHA256 of the value as text, in hexadecimal; `key` is the id of its key, by default the current one when ingest begins."""

    separates = True
    key: str | None = None

    def apply(self, array: pa.Array, keyring: Keyring) -> pa.Array:
        blank = hmac.new(keyring.key(self.key or keyring.current()), digestmod="sha256")

        def digests(values: list[str]) -> list[str]:
            found = []
            for value in values:
                mac = blank.copy()  # the key is taken in once
                mac.update(value.encode())
                found.append(mac.hexdigest())
            return found

        return _by_value(array, digests)


class Mask(Parameters, frozen=True):
    """Stars and the last `keep` characters, of values at least twice as long; of others only stars. The length is not told."""

    keep: int = 4

    def check(self, kind: ColumnType) -> str:
        return "" if 0 <= self.keep <= 32 else "keep is not 0 to 32"

    def apply(self, array: pa.Array, keyring: Keyring) -> pa.Array:
        keep = self.keep
        return _by_value(array, lambda values: [f"***{value[-keep:] if keep and len(value) >= 2 * keep else ''}" for value in values])


class Generalise(Parameters, frozen=True):
    """One of: `band`, numbers as text such as 30-39 (band 10); `width`, numbers down to a multiple; `to`, dates to their first day."""

    band: int | None = None
    width: float | None = None
    to: Literal["month", "year"] | None = None

    def check(self, kind: ColumnType) -> str:
        given = [name for name in ("band", "width", "to") if getattr(self, name) is not None]
        if len(given) != 1:
            return "it takes one of band, width, to"
        number = self.band if self.band is not None else self.width if self.width is not None else 1
        if not 0 < number < math.inf or (kind == "int64" and number != int(number)):
            return f"{given[0]} is not a positive {'whole ' if kind == 'int64' else ''}number"
        fits = ("date", "timestamp") if self.to else ("int64", "double")
        return "" if kind in fits else f"{given[0]} is for {' and '.join(fits)}"

    def type(self, kind: ColumnType) -> ColumnType:
        return "string" if self.band else kind

    def apply(self, array: pa.Array, keyring: Keyring) -> pa.Array:
        if self.to:
            return pc.floor_temporal(array, unit=self.to).cast(array.type)
        if self.width is not None:
            width = int(self.width) if pa.types.is_integer(array.type) else self.width
            return pc.multiply(_times(array, width), pa.scalar(width, array.type))
        if pa.types.is_floating(array.type):
            array = pc.if_else(pc.is_finite(array), array, None)
        low = pc.multiply(_times(array, self.band or 1), pa.scalar(self.band, array.type)).cast(pa.int64(), safe=False)
        high = pc.add(low, (self.band or 1) - 1)
        return pc.binary_join_element_wise(low.cast(pa.string()), high.cast(pa.string()), "-")


class Tokenise(Parameters, frozen=True):
    """A random token for each value; the store's vault, and nothing else, leads back from it."""

    separates = True

    def apply(self, array: pa.Array, keyring: Keyring) -> pa.Array:
        return _by_value(array, Vault(keyring.store).tokens)


Treatment = Drop | Hash | Mask | Generalise | Tokenise
KINDS: dict[str, type[Treatment]] = {"drop": Drop, "hash": Hash, "mask": Mask, "generalise": Generalise, "tokenise": Tokenise}


def _times(array: pa.Array, width: float) -> pa.Array:
    """How many whole times `width` goes into each value, towards minus infinity, in the array's type."""
    if pa.types.is_integer(array.type):
        step = pa.scalar(int(width), array.type)
        whole = pc.divide(array, step)
        below = pc.and_(pc.less(array, 0), pc.not_equal(pc.multiply(whole, step), array))
        return pc.subtract(whole, below.cast(array.type))
    return pc.floor(pc.divide(array, width))


def _by_value(array: pa.Array, treated: Callable[[list[str]], list[str]]) -> pa.Array:
    """`treated` once for each distinct value, written as text; nulls stay null."""
    text = array.cast(pa.string())
    coded = text.dictionary_encode()
    return pa.array(treated(coded.dictionary.to_pylist()), pa.string()).take(coded.indices)
