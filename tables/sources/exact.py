"""Sums of float64 that are exact before they are rounded once: no order, no block and no worker can change a bit of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Numbers = NDArray[np.int64]
Floats = NDArray[np.float64]
_BITS = 30
_MASK = (1 << _BITS) - 1


def exact_sums(values: Floats, sums: Callable[[Numbers], Numbers]) -> Floats:
    """What `sums` (whole numbers [events] -> their sums [rows]) would give for floats, were they exact; `values` hold no NaN.

    A float is cut into digits of 30 bits on one grid of powers of two (the small superaccumulator of Neal 2015, arXiv:1505.05571). The
    sums of digits are whole numbers, so they are the same in any order, and differences of running sums lose nothing.
    """
    finite = np.isfinite(values)
    digits = _digits(np.where(finite, values, 0.0), sums)
    total = _rounded(digits) if digits else np.zeros(len(sums(np.zeros(len(values), np.int64))))
    if not finite.all():
        above, below = (sums((values == infinity).astype(np.int64)) > 0 for infinity in (np.inf, -np.inf))
        total = np.where(above, np.where(below, np.nan, np.inf), np.where(below, -np.inf, total))
    return total


def _digits(values: Floats, sums: Callable[[Numbers], Numbers]) -> dict[int, Numbers]:
    """The sums of the digits at each step of the grid, lowest first and without gaps; a digit at step k counts 2 ** (30 k)."""
    mantissa, exponent = np.frexp(values)
    magnitude = np.abs(np.ldexp(mantissa, 53)).astype(np.int64)
    step, shift = np.divmod(exponent.astype(np.int64) - 53, _BITS)
    low, high = (magnitude & _MASK) << shift, (magnitude >> _BITS) << shift
    sign = np.sign(values).astype(np.int64)
    pieces = (sign * (low & _MASK), sign * ((low >> _BITS) + (high & _MASK)), sign * (high >> _BITS))
    used = np.unique(step[magnitude > 0])
    if not len(used):
        return {}
    wanted = {int(first) + i for first in used for i in range(len(pieces))}
    nothing = np.zeros_like(sums(sign))
    return {
        k: sums(sum(np.where(step == k - i, piece, 0) for i, piece in enumerate(pieces))) if k in wanted else nothing  # type: ignore[arg-type]
        for k in range(min(wanted), max(wanted) + 1)
    }


def _rounded(digits: dict[int, Numbers]) -> Floats:
    """The floats nearest to the sums; a function of the sum alone, since its digits with carries are the only ones."""
    sign = np.where(_carried(digits)[1] < 0, -1, 1)
    carried, top = _carried({k: sign * digit for k, digit in digits.items()})
    high, low, rest = np.ldexp(top.astype(np.float64), _BITS * (max(digits) + 1)), np.zeros(len(top)), np.zeros(len(top))
    for k in sorted(carried, reverse=True):
        high, lost = _added(high, np.ldexp(carried[k].astype(np.float64), _BITS * k))
        low, lost = _added(low, lost)
        rest += lost
    # What lies below `low` decides only where the sum is halfway between two floats.
    return sign * (high + np.where(rest == 0, low, np.nextafter(low, np.copysign(np.inf, rest))))


def _added(larger: Floats, smaller: Floats) -> tuple[Floats, Floats]:
    """The sum, and what rounding took from it (Dekker 1971)."""
    summed = larger + smaller
    return summed, smaller - (summed - larger)


def _carried(digits: dict[int, Numbers]) -> tuple[dict[int, Numbers], Numbers]:
    """Digits from 0 to 2 ** 30 - 1, and what is left above the last, which has the sign of the sum."""
    carry = np.zeros_like(next(iter(digits.values())))
    carried = {}
    for k, digit in digits.items():
        total = digit + carry
        carried[k], carry = total & _MASK, total >> _BITS
    return carried, carry
