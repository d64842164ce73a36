"""Personal data, found by rules and check digits: in a column by a sample of its values, and in a text at its places.

What is found, and how surely, is measured in docs/detection.md.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from tables.privacy.numbers import (
    NATIONAL_IDS,
    is_card,
    is_iban,
    is_ip,
    is_national_id,
    is_no_version,
    is_phone,
    validator,
)

# Kinds that point at one person and teach a model nothing else.
IDENTIFYING = ("e-mail addresses", "telephone numbers", "card numbers", "bank account numbers", "national ids", "text with personal data")
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
_PERSON = re.compile(r"[^\W\d_][\w'’.-]+,? ([^\W\d_][\w'’.-]*\.? ){0,3}[^\W\d_][\w'’.() -]+")
SAMPLE = 500
_MOST, _IN_TEXT = 0.8, 3
_ALONE_BEFORE, _ALONE_AFTER = r"(?<![\w.@/-])", r"(?![\w/-]|\.\d)"


class Values(NamedTuple):
    """What is known of a column: a sample of its distinct values as text, and how many values, and distinct ones, it has."""

    sample: Sequence[str]
    known: int
    distinct: int
    is_text: bool
    is_time: bool = False


class Found(NamedTuple):
    """A place in a text, [start, stop), that holds personal data of this kind."""

    kind: str
    start: int
    stop: int


def words(name: str) -> list[str]:
    """The words of a column name in lower case: customerId, customer_id and "Customer ID" are the same two."""
    split = re.sub(r"([a-z0-9])([A-Z])", r"\1_\2", name)
    return [word for word in re.split(r"[^a-z0-9]+", split.lower()) if word]


_TESTS: tuple[tuple[str, Callable[[str], object]], ...] = (
    ("e-mail addresses", _EMAIL.fullmatch),
    ("IP addresses", is_ip),
    ("bank account numbers", is_iban),
    ("national ids", is_national_id),
    ("card numbers", is_card),
    ("telephone numbers", is_phone),
)
# A whole number has lost the form that tells these from others; its check digits remain.
_OF_NUMBERS = ("card numbers",)


def column_kind(name: str, values: Values) -> str | None:
    """What kind of personal data the column looks like. Values decide first; a name alone decides only for fitting values."""
    sample = [value for value in values.sample[:SAMPLE] if value]
    by_name = named_kind(name)
    if len(sample) >= 3:
        for kind, test in _TESTS:
            if not values.is_text and kind not in _OF_NUMBERS:
                continue
            if sum(bool(test(value)) for value in sample) > _MOST * len(sample) and (kind == by_name or _is_sure(kind, sample)):
                return kind
    if by_name and _fits(by_name, values):
        return by_name
    if words(name)[-1:] == ["name"] and values.is_text and _people(sample, values):
        return "names of people"
    return "text with personal data" if values.is_text and _tells(sample) else None


def named_kind(name: str) -> str | None:
    """What kind of personal data the name of a column promises."""
    named = "_".join(words(name))
    return next((kind for kind, names in _NAMES.items() if any(_ends(named, known) for known in names)), None)


def _ends(named: str, known: str) -> bool:
    return named == known or named.endswith(f"_{known}") or named.startswith(f"{known}_")


def _is_sure(kind: str, sample: Sequence[str]) -> bool:
    return kind != "IP addresses" or sum(map(is_no_version, sample)) > len(sample) / 3


def _fits(kind: str, values: Values) -> bool:
    if kind == "birth dates":
        return values.is_time
    if kind in ("telephone numbers", "card numbers", "national ids"):
        return values.distinct > 0.5 * values.known and values.distinct > 20
    return values.is_text and values.distinct > 20


def _people(sample: Sequence[str], values: Values) -> bool:
    return values.distinct > 0.5 * values.known and sum(bool(_PERSON.fullmatch(v)) for v in sample) > _MOST * len(sample)


def _tells(sample: Sequence[str]) -> bool:
    """Whether people wrote personal data among other words; one or two finds in so many texts may be chance."""
    prose = (value for value in sample if value.count(" ") >= 2)
    return sum(any(True for _ in _finds(value)) for value in prose) >= _IN_TEXT


def find(text: str) -> list[Found]:
    """Where personal data stand in `text`, in order and apart. Names and addresses of people have no form to be found by."""
    kept: list[Found] = []
    for found in sorted(_finds(text), key=lambda each: (each.start, -each.stop)):
        if not kept or found.start >= kept[-1].stop:
            kept.append(found)
    return kept


def masked(text: str) -> str:
    """`text` with the kind of what was found in its place."""
    for found in reversed(find(text)):
        text = f"{text[: found.start]}<{found.kind}>{text[found.stop :]}"
    return text


_ACCOUNT = re.compile(rf"{_ALONE_BEFORE}[A-Z]{{2}}\d{{2}}(?: ?[A-Z0-9]){{11,30}}(?!\w)")
_PLACES: tuple[tuple[str, re.Pattern[str], Callable[[str], bool]], ...] = (
    ("e-mail addresses", re.compile(r"[\w.%+'-]+@(?:[\w-]+\.)+[^\W\d_]{2,}"), lambda value: True),
    ("card numbers", re.compile(rf"{_ALONE_BEFORE}\d(?:[ -]?\d){{12,18}}{_ALONE_AFTER}"), is_card),
    ("telephone numbers", re.compile(rf"(?<![\w.])\+\d[\d ().-]{{6,18}}\d{_ALONE_AFTER}"), lambda value: is_phone(value, assigned=True)),
    (
        "telephone numbers",
        re.compile(rf"{_ALONE_BEFORE}(?:\(\d{{3}}\) ?\d{{3}}-\d{{4}}|\d{{3}}([-.])\d{{3}}\1\d{{4}}){_ALONE_AFTER}"),
        is_phone,
    ),
    (
        "IP addresses",
        re.compile(r"(?<![\w.:/-])(?:(?:\d{1,3}\.){3}\d{1,3}|[0-9a-fA-F]{0,4}(?::[0-9a-fA-F]{0,4}){2,7})(?![\w:-]|\.\d)"),
        lambda value: is_ip(value) and is_no_version(value) and len(value) > 4,
    ),
    *(
        ("national ids", re.compile(f"{_ALONE_BEFORE}(?:{each.shape}){_ALONE_AFTER}"), validator_of)
        for each in NATIONAL_IDS
        if each.telling
        for validator_of in [lambda value, module=each.module: validator(module)(value)]
    ),
)


def _finds(text: str) -> Iterator[Found]:
    for kind, pattern, test in _PLACES:
        for match in pattern.finditer(text):
            if test(match[0]):
                yield Found(kind, *match.span())
    for match in _ACCOUNT.finditer(text):
        # Capitals that follow an account in a sentence look like a part of it.
        ends = [match.end(), *(match.start() + at.start() for at in reversed(list(re.finditer(" ", match[0]))))]
        if stop := next((end for end in ends if is_iban(text[match.start() : end])), None):
            yield Found("bank account numbers", match.start(), stop)
