"""Numbers that name a person, told from other numbers by their form and their check digits."""

from __future__ import annotations

import functools
import importlib
import ipaddress
import re
from collections.abc import Callable
from typing import NamedTuple

# Length and first digits of the payment networks (ISO/IEC 7812-1): a check digit alone accepts every tenth number.
_CARDS = re.compile(
    r"4(\d{12}|\d{15}|\d{18})|(5[1-5]\d\d|222[1-9]|22[3-9]\d|2[3-6]\d\d|27[01]\d|2720)\d{12}|3[47]\d{13}"
    r"|(6011|64[4-9]\d|65\d\d)\d{12}|35(2[89]|[3-8]\d)\d{12}|3(0[0-5]|[68]\d)\d{11}|62\d{14,17}|(50|5[6-9]|6[37])\d{14}"
)
_PHONE = re.compile(r"(\+\d[\d ().-]{6,18}\d)|(\(\d{3}\) ?\d{3}-\d{4})|(\d{3}[-.]\d{3}[-.]\d{4})")


class NationalId(NamedTuple):
    """`module` of python-stdnum checks texts of the form `shape`. A `telling` form is met by hardly anything else, even alone in a text."""

    module: str
    shape: str
    telling: bool = False


NATIONAL_IDS = (
    NationalId("us.ssn", r"\d{3}-\d{2}-\d{4}", True),
    NationalId("it.codicefiscale", r"[A-Z]{6}[\dLMNP-V]{2}[A-EHLMPR-T][\dLMNP-V]{2}[A-Z][\dLMNP-V]{3}[A-Z]", True),
    NationalId("es.dni", r"\d{8}-?[A-Z]", True),
    NationalId("es.nie", r"[XYZ]-?\d{7}-?[A-Z]", True),
    NationalId("fi.hetu", r"\d{6}[-+A-FU-Y]\d{3}[0-9A-Y]", True),
    NationalId("br.cpf", r"\d{3}\.\d{3}\.\d{3}-\d{2}", True),
    NationalId("ch.ssn", r"756\.\d{4}\.\d{4}\.\d{2}", True),
    NationalId("se.personnummer", r"\d{6}[-+]\d{4}", True),
    NationalId("fr.nir", r"[12] \d{2} \d{2} [\dAB]{2} \d{3} \d{3} \d{2}", True),
    NationalId("cn.ric", r"\d{17}[\dX]", True),
    NationalId("kr.rrn", r"\d{6}-\d{7}", True),
    NationalId("in_.aadhaar", r"\d{4} \d{4} \d{4}", True),
    NationalId("mx.curp", r"[A-Z]{4}\d{6}[HM][A-Z]{5}[A-Z0-9]\d", True),
    NationalId("fr.nir", r"[12]\d{4}[\dAB]{2}\d{8}"),
    NationalId("de.idnr", r"\d{11}|\d{2} \d{3} \d{3} \d{3}"),
    NationalId("pl.pesel", r"\d{11}"),
    NationalId("br.cpf", r"\d{11}"),
    NationalId("no.fodselsnummer", r"\d{6} ?\d{5}"),
    NationalId("be.nn", r"\d{11}|\d{2}\.\d{2}\.\d{2}-\d{3}\.\d{2}"),
    NationalId("tr.tckimlik", r"\d{11}"),
    NationalId("in_.aadhaar", r"\d{12}"),
    NationalId("ch.ssn", r"756\d{10}"),
    NationalId("se.personnummer", r"(\d{2})?\d{6}-?\d{4}"),
    NationalId("nl.bsn", r"\d{9}|\d{4}\.\d{2}\.\d{3}"),
    NationalId("cz.rc", r"\d{6}/\d{3,4}"),
    NationalId("za.idnr", r"\d{13}"),
    NationalId("dk.cpr", r"\d{6}-\d{4}"),
)


@functools.cache
def validator(module: str) -> Callable[[str], bool]:
    """`is_valid` of one module of python-stdnum."""
    found: Callable[[str], bool] = importlib.import_module(f"stdnum.{module}").is_valid
    return found


@functools.cache
def shaped(shape: str) -> Callable[[str], re.Match[str] | None]:
    return re.compile(shape).fullmatch


def is_national_id(value: str, *, telling: bool = False) -> bool:
    """Whether a number of some country has this form and this check digit; with `telling`, in a form that nothing else has."""
    return any(shaped(each.shape)(value) and validator(each.module)(value) for each in NATIONAL_IDS if each.telling or not telling)


def luhn(digits: str) -> bool:
    """ISO/IEC 7812-1, annex B: the check digit of payment cards."""
    if not 13 <= len(digits) <= 19 or len(set(digits)) == 1:
        return False
    doubled = [int(d) * (2 if i % 2 else 1) for i, d in enumerate(reversed(digits))]
    return sum(d - 9 if d > 9 else d for d in doubled) % 10 == 0


def is_card(value: str) -> bool:
    """The number of a payment card, in one piece or in groups."""
    digits = re.sub(r"[ -]", "", value)
    return bool(_CARDS.fullmatch(digits)) and luhn(digits)


def is_iban(value: str) -> bool:
    """An account of a country that has such, of that country's length and form (ISO 13616)."""
    compact = value.replace(" ", "")
    return bool(re.fullmatch(r"[A-Z]{2}\d{2}[A-Z0-9]{11,30}", compact)) and validator("iban")(compact)


def is_phone(value: str, *, assigned: bool = False) -> bool:
    """A telephone number of a possible length; with `assigned`, one in a range that is in use."""
    import phonenumbers

    if not _PHONE.fullmatch(value):
        return False
    try:
        number = phonenumbers.parse(value, "US")
    except phonenumbers.NumberParseException:
        return False
    return phonenumbers.is_valid_number(number) if assigned else phonenumbers.is_possible_number(number)


def is_ip(value: str) -> bool:
    """An address of version 4 or 6, as text."""
    if value.count(".") != 3 and value.count(":") < 2:
        return False
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return False
    return True


def is_no_version(address: str) -> bool:
    """Whether an IPv4 address could hardly be a version number of four parts."""
    parts = address.split(".")
    return len(parts) != 4 or parts[0] == "10" or any(int(part) >= 100 for part in parts)
