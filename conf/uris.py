"""Addresses as they may be shown."""

from __future__ import annotations

import re


def redacted(uri: str) -> str:
    """The URI as it may be shown: with `***` for a password or token, wherever it stands."""
    uri = re.sub(r"://([^:/@?]*):.*@", r"://\1:***@", uri)
    return re.sub(r"(?i)([?&][^=&]*(?:pass|secret|token|key)[^=&]*=)[^&]*", r"\1***", uri)
