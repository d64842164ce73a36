"""Secrets in text: found by their form or by the name they are given, and replaced before anything is written.

Detect-secrets finds the known formats; what it misses or cuts short (links, JSON web tokens, unquoted values) is found here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

REDACTED = "<redacted>"
SECRET_NAME = re.compile(
    r"(?i)pass(?:word|wd|phrase|code)|(?<![a-z])(?:pwd|pass|pw)(?![a-z])|secret|token(?!i[sz])|credential|bearer"
    r"|(?:api|access|private|auth|account|client|service|encryption|signing|master|db|database|storage|shared|ssh|session)[_\-.]?key(?!\w*id)"
)
# Not a secret but something about one, such as token_file, password_env, max_tokens.
_ABOUT = re.compile(
    r"(?i)(?:file|path|dir|folder|ur[li]|name|ids?|type|class|len|length|size|count|field|column|header|prefix|env|var|kind"
    r"|ttl|_s|seconds|limit|regex|pattern|format|hash|digest|sha256|endpoint|tokens|passwords|secrets)$"
)
_DIGEST = re.compile(
    r"(?i)sha\d*|digest|hash|commit|(?<![a-z])rev|revision|checksum|md5|blake|crc|fingerprint|etag|oid|integrity|uuid|guid"
    r"|(?<![a-z])ids?(?![a-z])|expected|golden"
)
URL_PASSWORD = re.compile(r"://[^\s:/@'\"<>]*:([^\s/'\"<>]+)@")
FORMATS = re.compile(
    r"-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----(?P<block>(?:(?!-----BEGIN)[\s\S]){1,20000}?)-----END [A-Z0-9 ]*PRIVATE KEY"
    r"|-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?: BLOCK)?-----(?P<open>(?:[\s\"'\\rn+,]{0,9}[A-Za-z0-9+/=]{16,})+)"
    r"|(?P<token>eyJ[\w\-]{5,500}\.eyJ[\w\-]{5,}(?:\.[\w\-]*)?"
    r"|(?:ghp|gho|ghu|ghs|ghr)_\w{30,}|github_pat_\w{22,}|glpat-[\w\-]{20,}|xox[a-z]-[\w\-]{10,}|xapp-[\w\-]{10,}"
    r"|(?:A3T[A-Z0-9]|AKIA|ASIA|ABIA|ACCA)[A-Z0-9]{16}|AIza[\w\-]{35}|sk-(?:proj-|ant-)?[\w\-]{32,}|hf_[A-Za-z0-9]{30,}"
    r"|dapi[0-9a-f]{32}|npm_[A-Za-z0-9]{36}|pypi-AgE[\w\-]{50,})"
    r"|(?i:bearer|basic)[ \t]+(?P<bearer>(?=[\w.~+/\-]*\d)[\w.~+/\-]{12,}=*)"
    r"|://(?P<user>[A-Za-z0-9_\-]{20,})@"
)
_QUOTED = re.compile(
    r"(?<![\w.\-])(?P<name>[\w.\-]{2,80})[\"'\]]{0,2}[ \t]{0,20}(?::[ \t]*[\w.\[\] |]{1,40})?(?:=>|:=|==|!=|=|:)[ \t]{0,20}"
    r"(?P<prefix>[A-Za-z]{0,2})(?P<quote>[\"'`])(?P<value>(?:(?!(?P=quote))[^\n\\]|\\.){3,600})(?P=quote)"
)
_UNQUOTED = re.compile(
    r"(?m)^[ \t>\-$]*(?:export |set |ENV |ARG )?(?P<name>[\w.\-]{2,80})[ \t]*[:=][ \t]*"
    r"(?P<value>[^\s'\"#{\[<$](?:[^\n#]|(?<!\s)#){2,600}?)[ \t\r]*(?:\s#.*)?$"
)
_INLINE = re.compile(r"(?<![\w.\-])(?P<name>[\w.\-]{2,80})=(?P<value>[^\s\"'`&;,(){}\[\]$<>\\]{5,300})")
_OPTION = re.compile(r"--(?P<name>[\w\-]{2,80})[ \t]+(?P<value>[^\s\"'`&;,(){}\[\]$<>\\\-][^\s\"'`&;,(){}\[\]$<>\\]{4,300})")
_CODE = re.compile(r"(?i)\.(pyi?|ipynb|[jt]sx?|java|go|rs|cc?|h|cpp|hpp|cs|scala|kt|r|rb|jl|json|css|sql|lua)")
_PROSE = re.compile(r"(?i)\.(md|rst|txt|html?|j2|svg|[ct]sv|log)")
_PLACEHOLDERS = re.compile(r"(?i)none|null|true|false|pass(word|wd)?|secret|token|string|bytes|optional|required|redacted")
_KEYWORDS = re.compile(r"(?i)key|pass|pwd|secret|token|cred|contrase")
_SEPARATORS = " \t\r\n=:\"'"


def redact(content: bytes, name: str, encoding: str = "utf-8") -> tuple[bytes, int]:
    """The content with each secret's value replaced, and how many there were. `name` tells code from configuration and prose."""
    try:
        text = content.decode(encoding, "surrogateescape" if encoding == "utf-8" else "strict")
    except UnicodeDecodeError:
        return content, 0
    lines = _secret_lines(text)
    spans = {*_known(text, lines), *_assigned(text, Path(name)), *_keywords(lines, name)}
    # What is a secret in one line is one in every other, be it in a comment.
    values = sorted({text[start:stop] for start, stop in spans if stop - start >= 8 and _mixed(text[start:stop])}, key=len, reverse=True)
    if values:
        spans |= {match.span() for match in re.finditer("|".join(map(re.escape, values)), text)}
    out, end, count = [], 0, 0
    for start, stop in sorted(spans):
        if stop <= end:
            continue
        if start >= end:
            out += [text[end:start], REDACTED]
            count += 1
        end = stop
    if not count:
        return content, 0
    return "".join([*out, text[end:]]).encode(encoding, "surrogateescape" if encoding == "utf-8" else "strict"), count


def _known(text: str, lines: list[re.Match[str]]) -> Iterator[tuple[int, int]]:
    """Secrets that their form gives away, wherever they stand."""
    for match in FORMATS.finditer(text):
        kind = match.lastgroup or ""
        if kind != "block" or re.search(r"[A-Za-z0-9+/=]{16}", match[kind]):
            yield match.span(kind)
    for match in URL_PASSWORD.finditer(text):
        if _is_literal(match[1]):
            yield match.span(1)
    forms, by_line = _detectors()
    found = [match for pattern in forms for match in pattern.finditer(text)]
    found += [match for pattern in by_line for line in lines for match in pattern.finditer(text, *line.span())]
    for match in found:
        # A group is the secret itself when it is long; else it is a prefix, as in GitHub's `(ghp|gho)_...`.
        group = max(range(match.re.groups + 1), key=lambda number: (number > 0 and len(match[number] or "") >= 8, -number))
        start, stop = match.span(group)
        while stop > start and text[stop - 1] in _SEPARATORS:
            stop -= 1
        while start < stop and text[start] in _SEPARATORS:
            start += 1
        # Several patterns stop before the secret does, and half a secret is a leak.
        while stop < len(text) and (text[stop].isalnum() or text[stop] in "_-"):
            stop += 1
        yield start, stop


@cache
def _detectors() -> tuple[list[re.Pattern[str]], list[re.Pattern[str]]]:
    """The patterns of detect-secrets: forms of secrets, and assignments to the names of services, which are slow and go by line.

    Not used: public addresses are no secrets, and the others are done better here.
    """
    from detect_secrets.core.plugins.util import get_mapping_from_secret_type_to_class
    from detect_secrets.plugins.base import RegexBasedDetector

    other = {"IPPublicDetector", "BasicAuthDetector", "JwtTokenDetector", "PrivateKeyDetector"}
    known: Iterable[Any] = get_mapping_from_secret_type_to_class().values()
    kinds = [kind for kind in known if issubclass(kind, RegexBasedDetector) and kind.__name__ not in other]
    patterns = [pattern for kind in kinds for pattern in kind().denylist]
    by_line = [pattern for pattern in patterns if pattern.pattern.startswith("(?:(?<=\\W)|") or ".+" in pattern.pattern]
    return [pattern for pattern in patterns if pattern not in by_line], by_line


def _secret_lines(text: str) -> list[re.Match[str]]:
    """The lines that speak of a secret, long ones in pieces: some patterns of detect-secrets take cubic time."""
    return [line for line in re.finditer(r"[^\n]{8,300}", text) if _KEYWORDS.search(line[0]) and not re.search(r"\w{100}", line[0])]


def _assigned(text: str, file: Path) -> Iterator[tuple[int, int]]:
    """Values that a name such as `password` calls secret, or that look random and are not called a digest."""
    code, prose, yaml = _CODE.fullmatch(file.suffix), _PROSE.fullmatch(file.suffix), file.suffix.lower() in (".yaml", ".yml")
    for match in _QUOTED.finditer(text):
        before = text[max(text.rfind("\n", 0, match.start()) + 1, match.start() - 80) : match.start()]
        if _is_secret(match["name"], match["value"], before, formatted="f" in match["prefix"].lower()):
            yield match.span("value")
    for pattern in (_INLINE, _OPTION):
        for match in pattern.finditer(text):
            named = _names_secret(match["name"]) and _is_literal(match["value"]) and _mixed(match["value"])
            if named and (not code or _in_string(text, match.start())):
                yield match.span("value")
    if not code:
        for match in _UNQUOTED.finditer(text):
            value = match["value"]
            sign = yaml and value[0] in "&*!|>%@"  # an anchor, a tag, a block: no plain value of YAML begins so
            if sign or (prose and (" " in value or not _mixed(value))):
                continue
            if _is_secret(match["name"], value):
                yield match.span("value")


def _keywords(lines: list[re.Match[str]], name: str) -> Iterator[tuple[int, int]]:
    """What detect-secrets' keyword detector finds in addition, such as `"value" == password`, less what it knows to be no secret."""
    from detect_secrets.filters import heuristic
    from detect_secrets.plugins.keyword import REGEX_BY_FILETYPE, KeywordDetector
    from detect_secrets.util.filetype import determine_file_type

    detector, forms = KeywordDetector(), REGEX_BY_FILETYPE.get(determine_file_type(name))
    for match in lines:
        line = match[0]
        for value in detector.analyze_string(line, forms):
            at = line.find(value)
            literal = at >= 0 and _is_literal(value) and _mixed(value) and " " not in value
            if literal and SECRET_NAME.search(line) and not heuristic.is_indirect_reference(line):
                yield match.start() + at, match.start() + at + len(value)


def _is_secret(name: str, value: str, before: str = "", *, formatted: bool = False) -> bool:
    """Whether `value`, given to `name`, is one; a random value is none where its name, or the line before it, speaks of digests."""
    if not _is_literal(value) or (formatted and "{" in value):
        return False
    if _names_secret(name):
        # A person's password may be any word; a token or key is made by a machine, and neither a count nor a short word.
        made = re.search(r"(?i)token|key", name) and (re.fullmatch(r"[\d._]+", value) or (len(value) < 8 and not _mixed(value)))
        return not made and not re.fullmatch(r"[A-Z]+(?:_[A-Z]+)+", value)
    return not _DIGEST.search(f"{before} {name}") and _is_random(value)


def _names_secret(name: str) -> bool:
    return bool(SECRET_NAME.search(name)) and not _ABOUT.search(name)


def _is_literal(value: str) -> bool:
    """Whether the value stands for itself: no reference such as ${X}, <X>, {{x}}, os.environ[...], a path or a placeholder."""
    if _PLACEHOLDERS.fullmatch(value) or not re.search(r"\w", value) or value == REDACTED:
        return False
    if value.startswith(("$", "<", "{", "%", "oc.env", "env:")) or "${" in value or "{{" in value:
        return False
    if re.fullmatch(r"[A-Za-z_][\w.]*[(\[].*", value):
        return False
    return _mixed(value) or not re.fullmatch(r"[~.]{0,2}(?:/[\w.\-]+)+/?", value)


def _mixed(value: str) -> bool:
    """Whether letters stand beside digits or punctuation, as they do in few words."""
    return bool(re.search(r"[A-Za-z]", value) and re.search(r"[\d!@#$%^&*+=?~]", value))


def _is_random(value: str) -> bool:
    """The entropy limits of detect-secrets (3.0 bits for hexadecimal, 4.5 for base64), for values as long as keys are."""
    if re.fullmatch(r"[0-9a-f]{16,128}|[0-9A-F]{16,128}", value):
        return bool(re.search(r"\d", value) and re.search(r"[A-Fa-f]", value)) and _entropy(value) > 3.0
    if not re.fullmatch(r"[A-Za-z0-9+/_\-]{23,512}={0,2}", value) or re.match(r"sha\d+-", value):
        return False
    return all(re.search(kind, value) for kind in ("[a-z]", "[A-Z]", r"\d")) and _entropy(value) > 4.5


def _entropy(value: str) -> float:
    shares = (value.count(letter) / len(value) for letter in set(value))
    return -sum(share * math.log2(share) for share in shares)


def _in_string(text: str, at: int) -> bool:
    """Whether the place is inside quotes, as far as its line tells."""
    before = text[text.rfind("\n", 0, at) + 1 : at]
    return before.count('"') % 2 == 1 or before.count("'") % 2 == 1
