"""Columns that look like personal data, by name, by pattern and by check digit."""

from __future__ import annotations

import re
from collections.abc import Sequence

from tables.look.inference import Reading

# Kinds that point at one person and teach a model nothing else.
IDENTIFYING = ("e-mail addresses", "telephone numbers", "card numbers", "bank account numbers", "national ids")
_NAMES: dict[str, tuple[str, ...]] = {
    "e-mail addresses": ("email", "e_mail", "mail_address"),
    "telephone numbers": ("phone", "telephone", "mobile", "cellphone", "phone_number", "fax"),
    "card numbers": ("card_number", "credit_card", "cc_number", "pan"),
    "bank account numbers": ("iban",),
    "national ids": ("ssn", "social_security", "national_id", "passport", "tax_id", "nin"),
    "names of people": (
        "first_name",
        "last_name",
        "firstname",
        "lastname",
        "surname",
        "full_name",
        "fullname",
        "given_name",
        "family_name",
    ),
    "street addresses": ("address", "street", "street_address"),
    "birth dates": ("birth", "birthdate", "birthday", "date_of_birth", "dob"),
    "IP addresses": ("ip", "ip_address", "ipaddress"),
}
_EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[A-Za-z]{2,}")
_PHONE = re.compile(r"(\+\d[\d ().-]{6,}\d)|(\(\d{3}\) ?\d{3}-\d{4})|(\d{3}[-.]\d{3}[-.]\d{4})")
_IP = re.compile(r"((25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(25[0-5]|2[0-4]\d|1?\d?\d)")
_IBAN = re.compile(r"[A-Z]{2}\d{2}[A-Z0-9]{11,30}")
_SSN = re.compile(r"\d{3}-\d{2}-\d{4}")
_PERSON = re.compile(r"[^\W\d_][\w'’.-]+,? ([^\W\d_][\w'’.-]*\.? ){0,3}[^\W\d_][\w'’.() -]+")
_CARD = re.compile(r"\d[\d -]{11,21}\d")
SAMPLE = 500


def words(name: str) -> list[str]:
    """The words of a column name in lower case: customerId, customer_id and "Customer ID" are the same two."""
    split = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name)
    return [word for word in re.split(r"[^a-z0-9]+", split.lower()) if word]


def personal_kind(name: str, reading: Reading) -> str | None:
    """What kind of personal data the column looks like. Values decide first; a name alone decides only for fitting values."""
    values = [level for level in reading.levels[:SAMPLE] if level]
    if reading.is_text and len(values) >= 3:
        tests = (
            ("e-mail addresses", _EMAIL.fullmatch),
            ("IP addresses", _IP.fullmatch),
            ("bank account numbers", lambda v: _IBAN.fullmatch(v.replace(" ", "")) and _iban(v.replace(" ", ""))),
            ("national ids", _SSN.fullmatch),
            ("card numbers", lambda v: _CARD.fullmatch(v) and luhn(re.sub(r"\D", "", v))),
            ("telephone numbers", _PHONE.fullmatch),
        )
        for kind, test in tests:
            if sum(bool(test(value)) for value in values) > 0.8 * len(values):
                return kind
    named = "_".join(words(name))
    by_name = next((kind for kind, names in _NAMES.items() if any(_ends(named, known) for known in names)), None)
    if by_name and _fits(by_name, reading):
        return by_name
    if named.split("_")[-1:] == ["name"] and reading.is_text and _people(values, reading):
        return "names of people"
    return None


def _ends(named: str, known: str) -> bool:
    return named == known or named.endswith(f"_{known}") or named.startswith(f"{known}_")


def _fits(kind: str, reading: Reading) -> bool:
    if kind == "birth dates":
        return reading.is_time
    if kind in ("telephone numbers", "card numbers", "national ids"):
        return reading.distinct > 0.5 * reading.known and reading.distinct > 20
    return reading.is_text and reading.distinct > 20


def _people(values: Sequence[str], reading: Reading) -> bool:
    return reading.distinct > 0.5 * reading.known and sum(bool(_PERSON.fullmatch(v)) for v in values) > 0.8 * len(values)


def luhn(digits: str) -> bool:
    """ISO/IEC 7812-1, annex B: the check digit of payment cards."""
    if not 13 <= len(digits) <= 19 or len(set(digits)) == 1:
        return False
    doubled = [int(d) * (2 if i % 2 else 1) for i, d in enumerate(reversed(digits))]
    return sum(d - 9 if d > 9 else d for d in doubled) % 10 == 0


def _iban(text: str) -> bool:
    """ISO 13616: the number made of the rearranged account is 1 modulo 97."""
    return int("".join(str(int(c, 36)) for c in text[4:] + text[:4])) % 97 == 1
