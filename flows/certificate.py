"""The certificate of a replay: what was compared, whether it was equal, and a signature that anyone can check.

$ raycycle reproduce RUN
"""

from __future__ import annotations

import datetime as dt
import json
import math
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypedDict

from cluster.store import Store, write_atomic
from conf.errors import RaycycleError
from flows.pages import templates
from ledger import keys

FORMAT = 1
BIT_EXACT = "bit-exact"
JSON_FILE, SIGNATURE, PUBLIC_KEY, PAGE = "certificate.json", "certificate.sig", "certificate.pub.pem", "certificate.html"

# How much the page shows: it stays small whatever a run recorded, since the JSON file has everything.
_DIGESTS, _ITEMS, _LONGEST = 12, 20, 200


class Code(TypedDict):
    """The commit that was replayed, and which files differed from it when the run was made."""

    commit: str | None
    changed_files: list[str]


class Environment(TypedDict):
    """The lock file's digest, and in what the replay's environment differed from the recorded one."""

    lock_digest: str | None
    differences: list[str]


class SnapshotName(TypedDict):
    name: str
    version: int
    digest: str


@dataclass(frozen=True)
class StageComparison:
    """One stage, recorded and replayed: digests by the name of what they are of.

    `exactness` is "bit-exact", or the tolerance within which values were called equal: then digests may differ.
    """

    stage: str
    equal: bool
    recorded: dict[str, str]
    replayed: dict[str, str]
    seconds: float
    exactness: str

    def __post_init__(self) -> None:
        if self.equal and self.exactness == BIT_EXACT and self.recorded != self.replayed:
            raise ValueError(f"stage {self.stage} is called equal and bit-exact, but its digests differ")


@dataclass(frozen=True)
class Difference:
    """The first thing that was not equal. Values of any kind become plain JSON here."""

    stage: str
    what: str
    column: str | None
    row_key: dict[str, Any] | None
    recorded: Any
    replayed: Any

    def __post_init__(self) -> None:
        for name in ("row_key", "recorded", "replayed"):
            object.__setattr__(self, name, plain(getattr(self, name)))


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """What a replay found. `write` fills `key_id`, since only the signing key knows its name.

    `made` is a UTC time in ISO form, `until` the last stage that was replayed, `record_digest` the SHA-256 of the recorded record.json.
    """

    run_id: str
    verdict: Literal["equal", "different"]
    made: str
    by: str
    code: Code
    environment: Environment
    snapshot: SnapshotName
    stages: tuple[StageComparison, ...]
    first_difference: Difference | None
    until: str
    record_digest: str
    key_id: str = ""
    format: Literal[1] = 1

    def __post_init__(self) -> None:
        found = "equal" if self.stages and all(stage.equal for stage in self.stages) else "different"
        if not self.stages or self.verdict != found or (found == "equal" and self.first_difference):
            raise ValueError(f"verdict {self.verdict!r} does not follow from {len(self.stages)} stages and the first difference")

    @property
    def equal_stages(self) -> list[str]:
        return [stage.stage for stage in self.stages if stage.equal]


def write(certificate: Certificate, store: Store, folder: Path) -> Path:
    """Sign the certificate and write its four files into `folder`; returns the JSON file.

    The signature is written after what it signs and the page last: a crash in between leaves something that `read` refuses.
    """
    from filelock import FileLock

    public = keys.public_key(store)
    signed = _parse(_dump(replace(certificate, key_id=keys.key_id(public))))
    data, page = _dump(signed), render(signed)
    with FileLock(store.locks / "certificates.lock", timeout=30):
        for name in (SIGNATURE, PAGE):
            (folder / name).unlink(missing_ok=True)
        write_atomic(folder / PUBLIC_KEY, public)
        write_atomic(folder / JSON_FILE, data)
        write_atomic(folder / SIGNATURE, keys.sign(store, data))
        write_atomic(folder / PAGE, page)
    return folder / JSON_FILE


def read(folder: Path, store: Store | None) -> Certificate:
    """The certificate in `folder`, checked with the project's key, or without a store with the key beside it.

    Raises RaycycleError, naming the file, when a byte was changed after signing, the key is another or the format unknown.
    """
    data, signature, beside = (_bytes(folder / name) for name in (JSON_FILE, SIGNATURE, PUBLIC_KEY))
    key_id = _key_id(folder / PUBLIC_KEY, beside)
    trusted = beside if store is None else _project_key(store)
    if key_id != keys.key_id(trusted):
        raise RaycycleError(f"{folder / PUBLIC_KEY} is not the key of this project", value=key_id, allowed=keys.key_id(trusted))
    if not keys.verify(trusted, data, signature):
        raise RaycycleError(
            f"{folder / JSON_FILE} and {folder / SIGNATURE} do not fit: one of them was changed after signing",
            next="ask for the certificate again, or make one: raycycle reproduce RUN",
        )
    return _checked(folder / JSON_FILE, data, key_id)


def lines(certificate: Certificate) -> list[str]:
    """The certificate in a few lines for the terminal, the verdict first."""
    found, first = certificate, certificate.first_difference
    count = f"{len(found.equal_stages)} of {len(found.stages)} stages"
    rows: list[tuple[str, str]] = []
    if found.verdict == "different":
        rows += [("in", shown(first.what))] if first and (first.column is not None or first.row_key) else []
        rows += [("equal", f"{count}{': ' if found.equal_stages else ''}{_some(found.equal_stages)}")]
    commit = shown(found.code["commit"])[:12] if found.code["commit"] else "no commit recorded"
    changed = _some(found.code["changed_files"])
    rows += [
        ("compared", "; ".join(f"{shown(s.stage)} {shown(s.exactness)}" for s in found.stages if s.exactness != BIT_EXACT) or BIT_EXACT),
        ("until", shown(found.until)),
        ("code", f"{commit}{', changed: ' if changed else ''}{changed}"),
        ("differs", _some(found.environment["differences"]) or "nothing in the environment"),
        ("signed", f"key {shown(found.key_id)}, {shown(found.made)}, by {shown(found.by)}"),
    ]
    head = f"equal: {count}" if found.verdict == "equal" else f"different: {_place(found)}"
    return [head, *(f"  {label:<9} {text}" for label, text in rows)]


def render(certificate: Certificate) -> bytes:
    """The page as HTML. Every value from the run is made one short line and escaped."""
    import jinja2
    from markupsafe import Markup

    from flows.canvas import COLOURS

    environment = templates(finalize=lambda value: value if isinstance(value, Markup | jinja2.Undefined) else shown(value))
    environment.filters |= {"short": _short}
    template = environment.get_template("certificate.html.j2")
    page = template.render(found=certificate, rows=_digest_rows, colours=COLOURS, items=_ITEMS, bit_exact=BIT_EXACT)
    return page.encode("utf-8", "backslashreplace")


def plain(value: Any) -> Any:
    """`value` as strict JSON: floats that are not finite, times and what else JSON lacks become strings, bytes hexadecimal."""
    if value is None or isinstance(value, bool):
        return value
    for kind in (str, int):
        if isinstance(value, kind):
            return kind(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(item) for item in (sorted(value, key=repr) if isinstance(value, set | frozenset) else value)]
    if isinstance(value, bytes | bytearray):
        return value.hex()
    if isinstance(value, dt.date | dt.time):
        return value.isoformat()
    return _plain_foreign(value)


def _plain_foreign(value: Any) -> Any:
    """Scalars and arrays of numpy and Arrow, known by their shape so that neither is imported for them; else the text of the value."""
    if hasattr(value, "as_py"):
        return plain(value.as_py())
    kind = getattr(getattr(value, "dtype", None), "kind", None)
    if kind and getattr(value, "ndim", 0):
        return [plain(item) for item in value]
    numbers = {"b": bool, "i": int, "u": int, "f": float}
    return plain(numbers[kind](value)) if kind in numbers else str(value)


def shown(value: Any, longest: int = _LONGEST) -> str:
    """Any value as one line that neither steers a terminal nor turns the direction of the text around it."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    text = "".join(" " if unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp") else letter for letter in text[: longest + 1])
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _dump(certificate: Certificate) -> bytes:
    """Canonical JSON: sorted keys, ASCII alone, so that equal certificates are equal bytes."""
    return (json.dumps(plain(asdict(certificate)), sort_keys=True, indent=1, allow_nan=False) + "\n").encode("ascii")


def _parse(data: bytes) -> Certificate:
    import msgspec

    return msgspec.convert(json.loads(data), Certificate)


def _checked(file: Path, data: bytes, key_id: str) -> Certificate:
    """The certificate that verified bytes hold."""
    try:
        found = json.loads(data)
        known = found.get("format") if isinstance(found, dict) else None
        if known == FORMAT:
            certificate = _parse(data)
            if certificate.key_id == key_id and _dump(certificate) == data:
                return certificate
    except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors too
        raise RaycycleError(f"{file} is not a certificate ({error})") from None
    if known != FORMAT:
        raise RaycycleError(f"{file} has an unknown format", value=known, allowed=f"format {FORMAT}", next="use the raycycle that made it")
    raise RaycycleError(f"{file} holds more or other than a certificate of format {FORMAT}, or names another key than {key_id}")


def _bytes(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError as error:
        raise RaycycleError(f"{file} cannot be read ({error.strerror})", next="raycycle reproduce RUN makes a certificate") from None


def _project_key(store: Store) -> bytes:
    """The key to check with. Checking never makes one: a new key would only tell that it is another."""
    if not keys.exists(store):
        raise RaycycleError(f"{store.keys} holds no key of this project", next=f"put its published key there, as {keys.public_file(store)}")
    return keys.public_key(store)


def _key_id(file: Path, pem: bytes) -> str:
    try:
        return keys.key_id(pem)
    except RaycycleError as error:
        raise RaycycleError(f"{file} is damaged", allowed=error.allowed, next="take the project's published key") from None


def _place(certificate: Certificate) -> str:
    """Where the first difference is and what stands there: "prepare, column dep_delay, row (flight 12): recorded 1.5, replayed 2.5"."""
    first = certificate.first_difference
    if first is None:
        return _some(stage.stage for stage in certificate.stages if not stage.equal)
    where = [shown(first.stage)]
    if first.column is not None:
        where.append(f"column {shown(first.column, 60)}")
    if first.row_key:
        where.append(f"row ({_some((f'{name} {shown(value, 60)}' for name, value in first.row_key.items()), 3)})")
    if len(where) == 1:
        where.append(shown(first.what))
    values = [shown(value, 60) for value in (first.recorded, first.replayed)]
    if values[0] == values[1]:  # 1 and "1", or long texts that differ late
        values = [shown(json.dumps(value, ensure_ascii=False), 400) for value in (first.recorded, first.replayed)]
    return f"{', '.join(where)}: recorded {values[0]}, replayed {values[1]}"


def _some(texts: Iterable[str], count: int = 5) -> str:
    texts = [shown(text, 80) for text in texts]
    return ", ".join(texts[:count] + ["..."] * (len(texts) > count))


def _digest_rows(stage: StageComparison) -> tuple[list[tuple[str, str | None, str | None]], int]:
    """(name, recorded, replayed) of a stage's digests, those that differ first, and how many more there are than a page shows."""
    both = [(name, stage.recorded.get(name), stage.replayed.get(name)) for name in sorted(stage.recorded.keys() | stage.replayed.keys())]
    both.sort(key=lambda row: row[1] == row[2])
    return both[:_DIGESTS], max(0, len(both) - _DIGESTS)


def _short(digest: str) -> str:
    """Both ends of a digest, since digests of one kind may begin alike."""
    return digest if len(digest) <= 24 else f"{digest[:12]}…{digest[-8:]}"
