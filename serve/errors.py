"""The refusals of the endpoint: an HTTP status with the same four words as every other error of raycycle."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from conf.errors import RaycycleError


class HttpError(RaycycleError):
    """Raised anywhere on a request's way; the endpoint answers `status` and `{"error": {...}}`."""

    def __init__(
        self, status: int, what: str, *, value: object = None, allowed: str = "", next: str = "", headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(what, value=value, allowed=allowed, next=next)
        self.status, self.headers = status, dict(headers or {})

    def __reduce__(self) -> tuple[object, ...]:
        return _rebuild, (self.status, self.what, self.value, self.allowed, self.next, self.headers)


def _rebuild(status: int, what: str, value: object, allowed: str, next: str, headers: Mapping[str, str]) -> HttpError:
    return HttpError(status, what, value=value, allowed=allowed, next=next, headers=headers)


def body_of(error: RaycycleError) -> bytes:
    return msgspec.json.encode({"error": error.as_json()})


def overloaded(what: str, retry_after_s: int = 1) -> HttpError:
    return HttpError(503, what, next=f"try again in {retry_after_s} s", headers={"retry-after": str(retry_after_s)})
