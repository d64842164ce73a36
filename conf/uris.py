"""Addresses as they may be shown."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_SECRET = re.compile(r"(?i)pass(word|wd)?$|secret|token|credential|api_?key|access_?key|private_?key")

# A bucket and a prefix of plain names: no user, no query, no `..`, nothing that is written in two ways.
S3 = re.compile(r"s3://(?!.*\.\.)(?P<bucket>[a-z0-9][a-z0-9.\-]{1,61}[a-z0-9])(?P<prefix>(?:/[A-Za-z0-9][A-Za-z0-9_=.\-]*)*)/?")


def redacted(uri: str) -> str:
    """The URI as it may be shown: with `***` for a password or token, wherever it stands."""
    uri = re.sub(r"://([^:/@?]*):.*@", r"://\1:***@", uri)
    return re.sub(r"(?i)([?&][^=&]*(?:pass|secret|token|key)[^=&]*=)[^&]*", r"\1***", uri)


def concealed(value: Any, name: str = "", below: bool = False) -> Any:
    """A configuration's value as it may be written down: addresses redacted, and `***` for what is named like a secret.

    Names are those of parameters, beside `_target_` or `below` args; other mappings are keyed by columns, and one may be called token.
    """
    if isinstance(value, Mapping):
        parameters = below or "_target_" in value
        return {key: concealed(each, str(key) if parameters else "", below or key == "args") for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [concealed(each, name, below) for each in value]
    if isinstance(value, str) and value and _SECRET.search(name):
        return "***"
    return redacted(value) if isinstance(value, str) and "://" in value else value
