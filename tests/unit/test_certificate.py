"""Certificates: what is signed is what is read, one changed byte is refused, and no name from data can steer a page or a terminal."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import json
import math
import re
from concurrent.futures import ThreadPoolExecutor
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from cluster import store as store_module
from cluster.store import Store
from conf.errors import RaycycleError
from flows import certificate as module
from flows.certificate import BIT_EXACT, Certificate, Difference, StageComparison, lines, plain, read, render, write
from ledger import keys

STAGES = ("ingest", "prepare", "sweep", "evaluate", "score")
HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=1>&\x1b[31m\u202e\udc00\n{{ 7 * 7 }}"


def stage(name: str, equal: Any = True, **changed: Any) -> StageComparison:
    recorded = {"rows": f"{name:x<64}"}
    made: dict[str, Any] = {"stage": name, "equal": equal, "recorded": recorded, "seconds": 1.25, "exactness": BIT_EXACT}
    return StageComparison(**{**made, "replayed": recorded if equal else {"rows": f"{name:y<64}"}, **changed})


def certificate(**changed: Any) -> Certificate:
    made: dict[str, Any] = {
        "run_id": "2c05415b99ef45d0a7608ecaa0ea414b",
        "verdict": "equal",
        "made": "2026-11-24T17:12:25+00:00",
        "by": "auditor",
        "code": {"commit": "68001dc5" * 5, "changed_files": ["flows/sweep.py"]},
        "environment": {"lock_digest": "ab" * 32, "differences": ["xgboost 3.2.0, was 3.1.0"]},
        "snapshot": {"name": "flights", "version": 0, "digest": "rows1:327130:0123456789abcdef0123456789abcdef"},
        "stages": tuple(map(stage, STAGES)),
        "first_difference": None,
        "until": "score",
        "record_digest": "cd" * 32,
    }
    return Certificate(**{**made, **changed})


def different(first: Difference | None, **changed: Any) -> Certificate:
    stages = tuple(stage(name, equal=name == "ingest") for name in STAGES)
    return certificate(**{"verdict": "different", "stages": stages, "first_difference": first, **changed})


DELAY = Difference("prepare", "training matrix", "dep_delay", {"flight": 12, "carrier": "UA", "month": 1, "day": 2}, 1.5, 2.5)


def signed_by_hand(folder: Path, store: Store, data: bytes) -> None:
    (folder / "certificate.json").write_bytes(data)
    (folder / "certificate.sig").write_bytes(keys.sign(store, data))


def signed(store: Store, folder: Path, made: Certificate) -> Certificate:
    write(made, store, folder)
    return read(folder, store)


@pytest.mark.parametrize("made", [certificate(), different(DELAY), different(None)], ids=["equal", "different", "nowhere"])
def test_what_is_read_is_what_was_written_and_who_signed_it(store: Store, tmp_path: Path, made: Certificate) -> None:
    assert write(made, store, tmp_path / "out") == tmp_path / "out" / "certificate.json"
    wanted = dataclasses.replace(made, key_id=keys.key_id(keys.public_key(store)))
    assert read(tmp_path / "out", store) == wanted
    assert read(tmp_path / "out", None) == wanted
    files = sorted(file.name for file in (tmp_path / "out").iterdir())
    assert files == ["certificate.html", "certificate.json", "certificate.pub.pem", "certificate.sig"]
    assert (tmp_path / "out" / "certificate.pub.pem").read_bytes() == keys.public_key(store)


def test_the_same_certificate_is_the_same_bytes(store: Store, tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(certificate(), store, tmp_path / name)
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()
    data = (tmp_path / "a" / "certificate.json").read_bytes()
    assert data == (json.dumps(json.loads(data), sort_keys=True, indent=1) + "\n").encode("ascii")


@pytest.mark.parametrize("name", ["certificate.json", "certificate.sig"])
@pytest.mark.parametrize("with_store", [True, False])
def test_every_changed_byte_is_refused(store: Store, tmp_path: Path, name: str, with_store: bool) -> None:
    write(certificate(), store, tmp_path)
    good = (tmp_path / name).read_bytes()
    for place in range(0, len(good), 1 if with_store else 37):
        changed = bytearray(good)
        changed[place] ^= 1 << place % 8
        (tmp_path / name).write_bytes(changed)
        with pytest.raises(RaycycleError, match=re.escape(str(tmp_path / name))):
            read(tmp_path, store if with_store else None)
    for other in (good + b"\n", good[:-1], b""):
        (tmp_path / name).write_bytes(other)
        with pytest.raises(RaycycleError, match=re.escape(str(tmp_path / name))):
            read(tmp_path, store if with_store else None)
    (tmp_path / name).write_bytes(good)
    assert read(tmp_path, store if with_store else None).verdict == "equal"


@pytest.mark.parametrize("name", ["certificate.json", "certificate.sig", "certificate.pub.pem"])
def test_a_missing_file_is_named(store: Store, tmp_path: Path, name: str) -> None:
    write(certificate(), store, tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(RaycycleError, match=re.escape(name)):
        read(tmp_path, store)


def test_a_damaged_key_beside_it_is_named(store: Store, tmp_path: Path) -> None:
    write(certificate(), store, tmp_path)
    (tmp_path / "certificate.pub.pem").write_bytes(b"none")
    with pytest.raises(RaycycleError, match=r"certificate\.pub\.pem is damaged"):
        read(tmp_path, None)


def test_a_certificate_of_another_key_is_refused_by_the_project(store: Store, tmp_path: Path) -> None:
    other = Store.open(tmp_path / "other")
    write(certificate(), other, tmp_path / "out")
    keys.public_key(store)
    with pytest.raises(RaycycleError, match=r"certificate\.pub\.pem is not the key of this project"):
        read(tmp_path / "out", store)
    assert read(tmp_path / "out", None).key_id == keys.key_id(keys.public_key(other))
    (tmp_path / "out" / "certificate.pub.pem").write_bytes(keys.public_key(store))  # the right key beside a wrong signature
    for asked in (store, None):
        with pytest.raises(RaycycleError, match="changed after signing"):
            read(tmp_path / "out", asked)


def test_checking_in_a_store_without_a_key_makes_none(store: Store, tmp_path: Path) -> None:
    other = Store.open(tmp_path / "other")
    write(certificate(), other, tmp_path / "out")
    with pytest.raises(RaycycleError, match="holds no key"):
        read(tmp_path / "out", store)
    assert list(store.keys.iterdir()) == []
    keys.public_file(store).write_bytes(keys.public_key(other))
    assert read(tmp_path / "out", store).verdict == "equal"


def test_writers_at_once_leave_one_whole_certificate(store: Store, tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: write(certificate(by=str(number)), store, tmp_path), range(16)))
    found = read(tmp_path, store)
    assert (tmp_path / "certificate.html").read_bytes() == render(found)


def test_reading_needs_the_public_key_alone(store: Store, tmp_path: Path) -> None:
    write(certificate(), store, tmp_path)
    keys.private_file(store).unlink()
    assert read(tmp_path, store).verdict == "equal"


@pytest.mark.parametrize(
    ("edit", "match"),
    [
        (lambda found: {**found, "format": 2}, "unknown format: 2"),
        (lambda found: {**found, "format": True}, "not a certificate|more or other"),
        (lambda found: [found], "unknown format"),
        (lambda found: {name: value for name, value in found.items() if name != "format"}, "unknown format"),
        (lambda found: {**found, "extra": 1}, "more or other"),
        (lambda found: {**found, "key_id": "0" * 16}, "another key"),
        (lambda found: {**found, "verdict": "different"}, "not a certificate"),
        (lambda found: {**found, "verdict": "perhaps"}, "not a certificate"),
        (lambda found: {**found, "stages": []}, "not a certificate"),
        (lambda found: {name: value for name, value in found.items() if name != "run_id"}, "not a certificate"),
    ],
)
def test_signed_bytes_that_are_no_certificate_of_this_format_are_refused(store: Store, tmp_path: Path, edit: Any, match: str) -> None:
    write(certificate(), store, tmp_path)
    found = edit(json.loads((tmp_path / "certificate.json").read_bytes()))
    signed_by_hand(tmp_path, store, (json.dumps(found, sort_keys=True, indent=1) + "\n").encode())
    with pytest.raises(RaycycleError, match=match) as caught:
        read(tmp_path, store)
    assert "certificate.json" in str(caught.value)


@pytest.mark.parametrize("data", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"NaN", b"9" * 5000])
def test_signed_rubbish_is_refused(store: Store, tmp_path: Path, data: bytes) -> None:
    write(certificate(), store, tmp_path)
    signed_by_hand(tmp_path, store, data)
    with pytest.raises(RaycycleError, match=r"certificate\.json"):
        read(tmp_path, store)


def test_a_second_name_for_one_key_does_not_pass(store: Store, tmp_path: Path) -> None:
    write(certificate(), store, tmp_path)
    data = (tmp_path / "certificate.json").read_bytes()
    signed_by_hand(tmp_path, store, data.replace(b'{\n "by"', b'{\n "verdict": "different",\n "by"', 1))
    with pytest.raises(RaycycleError, match="more or other"):
        read(tmp_path, store)


def test_a_claim_that_its_digests_deny_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="digests differ"):
        stage("sweep", equal=True, replayed={"rows": "other"})
    assert stage("sweep", equal=True, replayed={"rows": "other"}, exactness="within 1e-6").equal
    for verdict, stages, first in (
        ("equal", [stage("ingest"), stage("sweep", equal=False)], None),
        ("different", [stage("ingest")], None),
        ("equal", [stage("ingest")], DELAY),
        ("equal", [], None),
        ("different", [], DELAY),
    ):
        with pytest.raises(ValueError, match="does not follow"):
            certificate(verdict=verdict, stages=tuple(stages), first_difference=first)


@pytest.mark.parametrize("crash_at", ["certificate.pub.pem", "certificate.json", "certificate.sig", "certificate.html"])
def test_a_crash_while_writing_over_an_older_one_leaves_nothing_that_misleads(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crash_at: str
) -> None:
    write(different(DELAY), store, tmp_path)
    real = store_module.write_atomic

    def crash(file: Path, data: bytes) -> Path:
        if file.name == crash_at:
            raise KeyboardInterrupt
        return real(file, data)

    monkeypatch.setattr(module, "write_atomic", crash)
    with pytest.raises(KeyboardInterrupt):
        write(certificate(), store, tmp_path)
    assert not (tmp_path / "certificate.html").exists()
    if crash_at == "certificate.html":  # everything that counts is there
        assert read(tmp_path, store).verdict == "equal"
    else:
        with pytest.raises(RaycycleError, match=r"certificate\.sig"):
            read(tmp_path, store)
    monkeypatch.undo()
    assert signed(store, tmp_path, certificate()).verdict == "equal"


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        (math.nan, "NaN"),
        (np.float64("-inf"), "-Infinity"),
        (np.float32("inf"), "Infinity"),
        (np.float32(0.1), float(np.float32(0.1))),
        (np.float16(0.5), 0.5),
        (np.longdouble(1.5), 1.5),
        (np.int8(-3), -3),
        (np.uint64(2**64 - 1), 2**64 - 1),
        (np.bool_(True), True),
        (True, True),
        (np.str_("a"), "a"),
        (np.bytes_(b"a"), "61"),
        (b"\0\xff", "00ff"),
        (np.datetime64("2013-01-01T05:00:00.123456789"), "2013-01-01T05:00:00.123456789"),
        (np.datetime64("NaT"), "NaT"),
        (np.timedelta64(3, "s"), "3 seconds"),
        (np.array([[1.5, np.nan]]), [[1.5, "NaN"]]),
        (np.array(3), 3),
        (np.complex128(1j), "1j"),
        (dt.date(2013, 1, 1), "2013-01-01"),
        (dt.datetime(2013, 1, 1, 5, tzinfo=dt.UTC), "2013-01-01T05:00:00+00:00"),
        (dt.time(5, 30), "05:30:00"),
        (dt.timedelta(seconds=90), "0:01:30"),
        (pd.Timestamp("2013-01-01 05:00:00.000000001"), "2013-01-01T05:00:00.000000001"),
        (pd.NaT, "NaT"),
        (pd.NA, "<NA>"),
        (pa.scalar(2.5), 2.5),
        (pa.scalar(dt.date(2013, 1, 1)), "2013-01-01"),
        (pa.scalar(None, pa.int64()), None),
        (decimal.Decimal("1.10"), "1.10"),
        ({1: (1, {2.5}), None: None}, {"1": [1, [2.5]], "None": None}),
        (Path("a/b"), "a/b"),
        ("\udc00ü", "\udc00ü"),
    ],
    ids=repr,
)
def test_values_of_any_kind_become_plain_json_and_survive(store: Store, tmp_path: Path, value: Any, wanted: Any) -> None:
    got = plain(value)
    assert got == wanted and type(got) is type(wanted)
    made = different(Difference("ingest", "snapshot rows", "x", {"key": value}, value, [value]))
    first = signed(store, tmp_path, made).first_difference
    assert first == made.first_difference
    assert first and (first.recorded, first.replayed, first.row_key) == (wanted, [wanted], {"key": wanted})
    assert all("\n" not in line for line in lines(made))


def test_numbers_of_numpy_in_the_comparison_survive_too(store: Store, tmp_path: Path) -> None:
    stages = (stage("ingest", equal=np.bool_(True), seconds=np.float32(3)), stage("prepare", seconds=3))
    found = signed(store, tmp_path, certificate(stages=stages))
    assert [type(each.equal) for each in found.stages] == [bool, bool]
    assert [each.seconds for each in found.stages] == [3.0, 3.0]


def test_an_equal_certificate_says_so_in_its_first_line(store: Store, tmp_path: Path) -> None:
    said = lines(signed(store, tmp_path, certificate()))
    assert said[0] == "equal: 5 of 5 stages"
    assert said[1:] == [
        "  compared  bit-exact",
        "  until     score",
        "  code      68001dc56800, changed: flows/sweep.py",
        "  differs   xgboost 3.2.0, was 3.1.0",
        f"  signed    key {keys.key_id(keys.public_key(store))}, 2026-11-24T17:12:25+00:00, by auditor",
    ]


def test_a_tolerance_is_told() -> None:
    stages = (stage("ingest"), stage("sweep", exactness="within 1e-6", replayed={"rows": "near"}))
    nothing: dict[str, Any] = {"code": {"commit": None, "changed_files": []}, "environment": {"lock_digest": None, "differences": []}}
    said = lines(certificate(stages=stages, **nothing))
    assert said[0] == "equal: 2 of 2 stages"
    assert "  compared  sweep within 1e-6" in said
    assert "  code      no commit recorded" in said
    assert "  differs   nothing in the environment" in said


@pytest.mark.parametrize(
    ("first", "wanted"),
    [
        (DELAY, "prepare, column dep_delay, row (flight 12, carrier UA, month 1, ...): recorded 1.5, replayed 2.5"),
        (Difference("sweep", "trial 7 loss", None, None, 0.25, math.nan), "sweep, trial 7 loss: recorded 0.25, replayed NaN"),
        (Difference("ingest", "rows", "x", {"id": 1}, None, 1), "ingest, column x, row (id 1): recorded null, replayed 1"),
        (Difference("ingest", "rows", "x", {}, 1, "1"), 'ingest, column x: recorded 1, replayed "1"'),
        (None, "prepare, sweep, evaluate, score"),
    ],
)
def test_a_different_one_says_where_and_what(first: Difference | None, wanted: str) -> None:
    said = lines(different(first))
    assert said[0] == f"different: {wanted}"
    assert "  equal     1 of 5 stages: ingest" in said
    assert ("  in        training matrix" in said) is (first is DELAY)


def hostile() -> Certificate:
    many = {f"{HOSTILE}{number}": HOSTILE for number in range(30)}
    stages = tuple(
        StageComparison(HOSTILE, number > 2, many, dict.fromkeys(many, HOSTILE + "2"), 1.0, f"within {HOSTILE}") for number in range(5)
    )
    return certificate(
        verdict="different",
        run_id=HOSTILE,
        made=HOSTILE,
        by=HOSTILE,
        code={"commit": HOSTILE, "changed_files": [HOSTILE] * 300},
        environment={"lock_digest": HOSTILE, "differences": [HOSTILE] * 300},
        snapshot={"name": HOSTILE, "version": 1, "digest": HOSTILE},
        stages=stages,
        first_difference=Difference(HOSTILE, HOSTILE, HOSTILE, {HOSTILE: HOSTILE}, HOSTILE, [HOSTILE]),
        until=HOSTILE,
        record_digest=HOSTILE,
    )


class Page(HTMLParser):
    """The tags, attributes and texts of a page."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(page.decode("utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


PAGES = {"equal": certificate(), "different": different(DELAY), "nowhere": different(None), "hostile": hostile()}


@pytest.mark.parametrize("made", PAGES.values(), ids=PAGES)
def test_the_page_stands_alone_and_runs_nothing(made: Certificate) -> None:
    page = render(made)
    found = Page(page)
    assert not {"script", "img", "link", "iframe", "object", "a", "form"} & set(found.tags)
    assert {name for name, _ in found.attributes} <= {"lang", "charset", "name", "content", "http-equiv", "class", "title"}
    assert b"://" not in page and b"url(" not in page
    assert b"prefers-color-scheme: dark" in page and b"@media print" in page
    assert len(page) < 60_000


def test_hostile_names_are_escaped_on_the_page_and_tame_on_the_terminal(store: Store, tmp_path: Path) -> None:
    found = signed(store, tmp_path, hostile())
    page = (tmp_path / "certificate.html").read_bytes()
    assert b"<script" not in page and b"<img" not in page and b"\x1b" not in page
    assert "\u202e".encode() not in page
    assert b"{{ 7 * 7 }}" in page  # text, not a template
    said = lines(found)
    assert not re.search(r"[\x00-\x1f\x7f-\x9f\u202e\ud800-\udfff]", "".join(said))
    assert len(said) < 12 and max(map(len, said)) < 1200
    assert found.run_id == HOSTILE


def test_the_page_shows_everything_and_full_digests_in_titles() -> None:
    found = Page(render(different(DELAY, key_id="0123456789abcdef")))
    titles = {value for name, value in found.attributes if name == "title"}
    for each in different(DELAY).stages:
        assert {*each.recorded.values(), *each.replayed.values()} <= titles
        assert each.stage in found.text
    assert {"cd" * 32, "ab" * 32, "68001dc5" * 5, certificate().snapshot["digest"]} <= titles
    for text in ("2c05415b99ef45d0a7608ecaa0ea414b", "different", "1 of 5 stages", "training matrix", "dep_delay", "1.5", "2.5", "carrier"):
        assert text in found.text
    for text in ("flights@0", "flows/sweep.py", "xgboost 3.2.0, was 3.1.0", "auditor", "0123456789abcdef", "openssl pkeyutl -verify"):
        assert text in found.text


def test_the_page_stays_small_and_names_what_differs_first(store: Store, tmp_path: Path) -> None:
    recorded = {f"model/tree-{number:04}.ubj": f"{number:064x}" for number in range(2000)}
    replayed = {**recorded, "model/tree-1999.ubj": "f" * 64}
    stages = tuple(stage(name, equal=False, recorded=recorded, replayed=replayed) for name in STAGES)
    files = [f"{number}/" + "long" * 100 for number in range(500)]
    row_key = {f"key {number}": "x" * 10_000 for number in range(100)}
    first = Difference("ingest", "snapshot rows", "text", row_key, "y" * 100_000, list(range(10_000)))
    code = {"commit": None, "changed_files": files}
    made = different(first, stages=stages, code=code, environment={"lock_digest": None, "differences": files})
    write(made, store, tmp_path)
    page = (tmp_path / "certificate.html").read_bytes()
    assert len(page) < 60_000
    assert b"model/tree-1999.ubj" in page and b"and 1988 more" in page and b"and 480 more" in page
    assert read(tmp_path, store).first_difference == first
    assert max(map(len, lines(made))) < 1200
