"""How well personal data is found: precision and recall by kind on a labelled sample that is made here, hard negatives included.

python -m bench personal [--json]
"""

from __future__ import annotations

import datetime as dt
import random
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tables.privacy.detection import Values, column_kind, find
from tables.privacy.numbers import validator

EACH, COLUMNS, ROWS = 400, 40, 300
PAGE = Path(__file__).resolve().parents[1] / "docs" / "detection.md"
Random = random.Random
Maker = Callable[[Random], str]

_NAMES = """Ana Ben Chloe Dev Elif Farid Grace Hugo Ines Jonas Kofi Lena Mira Noor Olga Pavel Quinn Rosa Sven Tara Adler Brown Castro Dubois
Eriksen Fischer Gupta Haddad Ivanov Jensen Kim Lopez Moreau Novak Okafor Patel Rossi Silva Tanaka Weber"""
_FIRST, _LAST = _NAMES.split()[:20], _NAMES.split()[20:]
_HOSTS = ("example.com", "mail.example.org", "post.example.net", "uni.example.edu", "firma.example.de")
_PROSE = "the parcel was sent back because nobody opened please try again on monday and leave it with the neighbour"
_WORDS = _PROSE.split()


def _digits(chance: Random, count: int) -> str:
    return "".join(chance.choice("0123456789") for _ in range(count))


def _email(chance: Random) -> str:
    dot = chance.choice(("", ".", "_", "+"))
    return f"{chance.choice(_FIRST)}{dot}{chance.choice(_LAST)}{chance.randrange(99)}@{chance.choice(_HOSTS)}".lower()


def _phone(chance: Random) -> str:
    """A number in use somewhere, with its country's code, or as people in North America write it."""
    import phonenumbers

    region = chance.choice(("US", "GB", "DE", "FR", "IN", "BR", "JP", "NG", "AU", "MX"))
    written = phonenumbers.PhoneNumberFormat
    forms = (written.INTERNATIONAL, written.E164, *((written.NATIONAL,) if region == "US" else ()))
    return phonenumbers.format_number(_number(chance, region), chance.choice(forms))


def _local_phone(chance: Random) -> str:
    """A number as people elsewhere write it for each other: without the country's code it has no form of its own."""
    import phonenumbers

    return phonenumbers.format_number(_number(chance, chance.choice(("GB", "DE", "FR"))), phonenumbers.PhoneNumberFormat.NATIONAL)


def _number(chance: Random, region: str) -> Any:
    """An example number of a region with other last digits."""
    import phonenumbers

    example: Any = phonenumbers.example_number_for_type(region, phonenumbers.PhoneNumberType.MOBILE)
    base = example.national_number // 10**4 * 10**4
    numbers = (phonenumbers.PhoneNumber(example.country_code, base + chance.randrange(10**4)) for _ in iter(int, 1))
    return next(number for number in numbers if phonenumbers.is_valid_number(number))


def _card(chance: Random) -> str:
    from stdnum import luhn

    prefix, length = chance.choice((("4", 16), ("51", 16), ("55", 16), ("2230", 16), ("37", 15), ("6011", 16), ("3530", 16), ("38", 14)))
    body = prefix + _digits(chance, length - len(prefix) - 1)
    number = body + luhn.calc_check_digit(body)
    return " ".join(number[at : at + 4] for at in range(0, length, 4)) if length == 16 and chance.random() < 0.5 else number


def _iban(chance: Random) -> str:
    from stdnum import iban

    country, body = chance.choice((("DE", 18), ("FR", 0), ("NL", 0), ("ES", 0), ("AT", 16), ("PL", 24)))
    while True:
        text = {
            "FR": lambda: _french(chance),
            "NL": lambda: f"ABNA{_digits(chance, 10)}",
            "ES": lambda: _spanish(chance),
        }.get(country, lambda: _digits(chance, body))()
        found = f"{country}{iban.calc_check_digits(f'{country}00{text}')}{text}"
        if iban.is_valid(found):
            return iban.format(found) if chance.random() < 0.5 else found


def _french(chance: Random) -> str:
    bank, branch, account = _digits(chance, 5), _digits(chance, 5), _digits(chance, 11)
    return f"{bank}{branch}{account}{97 - (89 * int(bank) + 15 * int(branch) + 3 * int(account)) % 97:02d}"


def _spanish(chance: Random) -> str:
    from stdnum.es import ccc

    body = _digits(chance, 8), _digits(chance, 10)
    return f"{body[0]}{ccc.calc_check_digits(f'{body[0]}00{body[1]}')}{body[1]}"


def _ssn(chance: Random) -> str:
    return f"{chance.choice([*range(1, 666), *range(667, 900)]):03d}-{chance.randrange(1, 100):02d}-{chance.randrange(1, 10_000):04d}"


def _dni(chance: Random) -> str:
    number = chance.randrange(10**7, 10**8)
    return f"{number:08d}{'TRWAGMYFPDXBNJZSQVHLCKE'[number % 23]}"


def _hetu(chance: Random) -> str:
    day, number = f"{chance.randrange(1, 29):02d}{chance.randrange(1, 13):02d}{chance.randrange(40, 100)}", chance.randrange(2, 900)
    return f"{day}-{number:03d}{'0123456789ABCDEFHJKLMNPRSTUVWXY'[int(f'{day}{number:03d}') % 31]}"


def _cpf(chance: Random) -> str:
    from stdnum.br import cpf

    while True:
        digits = _digits(chance, 9)
        for length in (10, 11):
            rest = sum(int(d) * (length - at) for at, d in enumerate(digits)) * 10 % 11 % 10
            digits += str(rest)
        if cpf.is_valid(digits):
            return cpf.format(digits)


def _checked(module: str, draw: Maker) -> Maker:
    """Numbers of a national id without a form of its own, drawn until the check digit fits."""

    def make(chance: Random) -> str:
        return next(number for number in (draw(chance) for _ in iter(int, 1)) if validator(module)(number))

    return make


def _ip(chance: Random) -> str:
    if chance.random() < 0.2:
        return ":".join(["2001", "db8", *(f"{chance.randrange(1, 2**16):x}" for _ in range(6))])
    return f"{chance.choice((10, 82, 93, 172, 192, 203))}.{chance.randrange(256)}.{chance.randrange(256)}.{chance.randrange(1, 255)}"


POSITIVE: dict[str, tuple[Maker, ...]] = {
    "e-mail addresses": (_email,),
    "telephone numbers": (*[_phone] * 9, _local_phone),
    "card numbers": (_card,),
    "bank account numbers": (_iban,),
    "national ids": (
        _ssn,
        _dni,
        _hetu,
        _cpf,
        _checked(
            "pl.pesel", lambda chance: f"{chance.randrange(50, 99)}0{chance.randrange(1, 10)}{chance.randrange(10, 29)}{_digits(chance, 5)}"
        ),
        _checked("de.idnr", lambda chance: f"{chance.randrange(1, 10)}{_digits(chance, 10)}"),
    ),
    "IP addresses": (_ip,),
}
NEGATIVE: dict[str, Maker] = {
    "order numbers": lambda chance: f"ORD-{chance.randrange(2020, 2026)}-{_digits(chance, 6)}",
    "timestamps": lambda chance: str(dt.datetime.fromtimestamp(chance.randrange(1_500_000_000, 1_800_000_000), dt.UTC)),
    "UUIDs": lambda chance: str(uuid.UUID(int=chance.getrandbits(128), version=4)),
    "16 digit ids": lambda chance: _digits(chance, 16),
    "11 digit ids": lambda chance: _digits(chance, 11),
    "9 digit ids": lambda chance: _digits(chance, 9),
    "milliseconds": lambda chance: str(chance.randrange(1_500_000_000_000, 1_800_000_000_000)),
    "version numbers": lambda chance: f"{chance.randrange(10)}.{chance.randrange(30)}.{chance.randrange(60)}.{chance.randrange(20)}",
    "decimals": lambda chance: f"{chance.randrange(10**6)}.{_digits(chance, 6)}",
    "part numbers": lambda chance: f"{_digits(chance, 3)}-{_digits(chance, 4)}-{_digits(chance, 2)}",
    "codes with a letter": lambda chance: f"{_digits(chance, 8)}{chance.choice('ABCDEFGHJKLMNPQRSTVWXYZ')}",
    "handles": lambda chance: f"@{chance.choice(_FIRST).lower()}{chance.randrange(99)}",
    "hashes": lambda chance: f"{chance.getrandbits(160):040x}",
    "ISBNs": lambda chance: _isbn(chance),
}


def _isbn(chance: Random) -> str:
    body = _digits(chance, 9)
    check = sum((at + 1) * int(d) for at, d in enumerate(body)) % 11
    return body + ("X" if check == 10 else str(check))


def _sentence(chance: Random, value: str) -> str:
    said = [chance.choice(_WORDS) for _ in range(9)]
    return f"{' '.join(said[:5])} {value}{chance.choice((',', '', '.', ';'))} {' '.join(said[5:])}"


def in_texts(seed: int) -> Counter[tuple[str, str]]:
    """Each value in a sentence of its own: how often (what it is, what `find` says it is)."""
    chance, found = Random(seed), Counter[tuple[str, str]]()
    for kind, makers in POSITIVE.items():
        for number in range(EACH):
            value = makers[number % len(makers)](chance)
            text = _sentence(chance, value)
            hits = [hit for hit in find(text) if text[hit.start : hit.stop] == value]
            found[kind, hits[0].kind if hits else "nothing"] += 1
    for kind, make in NEGATIVE.items():
        for _ in range(EACH):
            hits = find(_sentence(chance, make(chance)))
            found[kind, hits[0].kind if hits else "nothing"] += 1
    return found


def in_columns(seed: int, columns: int = COLUMNS) -> Counter[tuple[str, str]]:
    """Columns whose name tells nothing, of one kind each with up to 10 % of other values: how often (what it is, what is said)."""
    chance, found = Random(seed), Counter[tuple[str, str]]()
    makers: dict[str, tuple[Maker, ...]] = {**POSITIVE, **{kind: (make,) for kind, make in NEGATIVE.items()}}
    for kind, ways in makers.items():
        for number in range(columns):
            make, noise = ways[number % len(ways)], chance.random() * 0.1
            values = ["n/a" if chance.random() < noise else make(chance) for _ in range(ROWS)]
            distinct = list(dict.fromkeys(values))
            found[kind, column_kind("field", Values(distinct, ROWS, len(distinct), True)) or "nothing"] += 1
    return found


def scores(found: Counter[tuple[str, str]]) -> dict[str, tuple[float, float]]:
    """Precision and recall of each kind."""
    result = {}
    for kind in POSITIVE:
        right, said = found[kind, kind], sum(count for (_, told), count in found.items() if told == kind)
        result[kind] = (right / said if said else 0.0, right / sum(count for (truth, _), count in found.items() if truth == kind))
    return result


def measure(parts: Sequence[str], say: Callable[[str], None]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for name, judge in (("texts", in_texts), ("columns", in_columns)):
        say(f"looking at {name}")
        found = judge(0)
        wrong = {f"{truth} as {told}": n for (truth, told), n in sorted(found.items()) if truth in NEGATIVE and told != "nothing"}
        result[name] = {"scores": scores(found), "wrong": wrong}
    least = {f"{name} {kind}": min(both) for name in result for kind, both in result[name]["scores"].items()}
    return {**result, "ratios": least}


def publish(result: dict[str, Any]) -> list[Path]:
    PAGE.write_text(page(result), encoding="utf-8")
    return [PAGE]


def page(result: dict[str, Any]) -> str:
    texts, columns = result["texts"], result["columns"]
    rows = [
        f"| {kind} | {columns['scores'][kind][0]:.3f} | {columns['scores'][kind][1]:.3f} "
        f"| {texts['scores'][kind][0]:.3f} | {texts['scores'][kind][1]:.3f} |"
        for kind in POSITIVE
    ]
    said = "; ".join(f"{what} ({count} of {EACH})" for what, count in texts["wrong"].items()) or "none"
    of_columns = "; ".join(f"{what} ({count} of {COLUMNS})" for what, count in columns["wrong"].items()) or "none"
    return f"""# How well personal data is found

Made by `python -m bench personal` from a sample that the script makes (seed 0). In columns: {COLUMNS} columns of {ROWS} rows of each
kind, with up to 10 % of other values and a name that tells nothing. In texts: {EACH} values of each kind, each in a sentence. Among them
stand as many of each of {len(NEGATIVE)} kinds that are not personal:
{", ".join(NEGATIVE)}.

| kind | columns: precision | recall | texts: precision | recall |
|---|---|---|---|---|
{chr(10).join(rows)}

Taken for personal though they are not, columns: {of_columns}.

Taken for personal though they are not, texts: {said}.

What the script makes follows the published standards of these numbers, so recall says how many of their written forms are known; missed
are telephone numbers without a country code outside North America, and in texts national ids that are digits alone (Poland, Germany): by
themselves they look like any other number. A column is judged by most of its values, so chance hits of single values do not count.

Names and addresses of people, and birth dates, have no check digit: they are found by the name of their column and by how its values
look, and never inside a text. Passport numbers, number plates and national ids without a check digit are found by the name of their
column alone.
"""
