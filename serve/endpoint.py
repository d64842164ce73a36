"""The endpoint: every request is authorised, decoded against the contract, batched, predicted and answered here."""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from conf.errors import suggest
from ledger.identities import Identity
from serve.batching import Limits
from serve.errors import HttpError, body_of, overloaded
from serve.models import Loader, Release, ServedModel

_MODELS = "/v1/models"
_log = logging.getLogger("ray.serve")
_encode = msgspec.json.encode


@dataclass(frozen=True)
class Settings:
    """What a request may cost."""

    max_body_bytes: int = 8 * 2**20
    body_timeout_s: float = 30.0
    limits: Limits = field(default_factory=Limits)


class Endpoint:
    """Answers for all released models. `loader` opens a bundle, `verify` tells who holds a token."""

    def __init__(self, loader: Loader, verify: Callable[[str], Identity | None], settings: Settings | None = None) -> None:
        self._loader, self._verify, self.settings = loader, verify, settings or Settings()
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._opener = ThreadPoolExecutor(1, thread_name_prefix="loader")  # so that loading a version delays no prediction
        self._released: Mapping[str, Release] | None = None
        self._models: dict[str, ServedModel] = {}
        self._prepared: dict[str, ServedModel] = {}

    async def __call__(self, request: Request) -> Response:
        try:
            body, status = await self._answer(request), 200
        except HttpError as error:
            return Response(body_of(error), error.status, error.headers, "application/json")
        except Exception as error:
            # The message of a foreign error may quote a row, and no payload is ever logged.
            _log.error("request failed: %s", type(error).__name__)
            failed = HttpError(500, "the model failed on this request")
            return Response(body_of(failed), 500, media_type="application/json")
        if body is _NOT_READY:
            status = 503
        return Response(body, status, media_type="application/json")

    async def _answer(self, request: Request) -> bytes:
        method, path = request.scope["method"], request.scope["path"]
        if path.startswith("/v2/health/"):
            return self._health(method, path)
        headers = dict(request.scope["headers"])
        identity = self._identify(headers)
        parts = path.split("/")
        if not path.startswith(_MODELS) or parts[2] != "models" or len(parts) > 5 or (len(parts) == 5 and parts[4] != "predict"):
            raise HttpError(404, "no such route", value=path[:100], allowed=f"{_MODELS}, {_MODELS}/NAME, {_MODELS}/NAME/predict")
        if len(parts) == 5:
            _require(method, "POST", identity, "predictor")
            return await self._predict(self._model(parts[3], identity), request, headers)
        _require(method, "GET", identity, "viewer")
        if len(parts) == 3:
            return _encode({"models": [self._models[name].summary() for name in sorted(self._models) if identity.may_use(name)]})
        return _encode(self._model(parts[3], identity).description())

    async def _predict(self, model: ServedModel, request: Request, headers: Mapping[bytes, bytes]) -> bytes:
        kind = headers.get(b"content-type", b"").partition(b";")[0].strip().lower()
        if kind != b"application/json":
            raise HttpError(415, "wrong content type", value=kind.decode("latin-1")[:100], allowed="application/json")
        body = await self._body(request, headers)
        answers = await model.batcher.submit(model.decoder.decode(body))
        release = model.release
        return _encode({"id": uuid7(), "model": release.name, "version": release.version, "predictions": answers})

    async def _body(self, request: Request, headers: Mapping[bytes, bytes]) -> bytes:
        limit = self.settings.max_body_bytes
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length[:20]) > limit:
            raise _too_large(limit)
        message = await request.receive()
        if message["type"] == "http.request" and not message.get("more_body"):
            body: bytes = message.get("body", b"")
            if len(body) > limit:
                raise _too_large(limit)
            return body
        chunks, size = [], 0
        try:
            async with asyncio.timeout(self.settings.body_timeout_s):
                while True:
                    if message["type"] != "http.request":
                        raise HttpError(400, "the client went away")
                    chunks.append(message.get("body", b""))
                    size += len(chunks[-1])
                    if size > limit:
                        raise _too_large(limit)
                    if not message.get("more_body"):
                        return b"".join(chunks)
                    message = await request.receive()
        except TimeoutError:
            raise HttpError(408, "the body did not arrive in time", allowed=f"{self.settings.body_timeout_s:g} s") from None

    def _identify(self, headers: Mapping[bytes, bytes]) -> Identity:
        scheme, _, token = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
        identity = self._verify(token.strip()) if scheme.lower() == "bearer" else None
        if identity is None:
            raise HttpError(
                401,
                "a valid token is needed",
                allowed="the header `Authorization: Bearer TOKEN`",
                next="read the token from the file that `raycycle up` names",
                headers={"www-authenticate": "Bearer"},
            )
        return identity

    def _model(self, name: str, identity: Identity) -> ServedModel:
        if not identity.may_use(name):
            raise HttpError(403, "this token is not for this model", value=name[:100], allowed=", ".join(identity.models))
        if model := self._models.get(name):
            return model
        if self._released is None or name in self._released:
            raise overloaded("the model is not ready yet")
        known = [each for each in self._models if identity.may_use(each)]
        raise HttpError(
            404, f"no such model{suggest(name, known)}", value=name[:100], allowed=", ".join(known), next="raycycle deploy NAME"
        )

    def _health(self, method: str, path: str) -> bytes:
        if path not in ("/v2/health/live", "/v2/health/ready"):
            raise HttpError(404, "no such route", value=path[:100], allowed="/v2/health/live, /v2/health/ready")
        _require_method(method, "GET")
        return _READY if path.endswith("live") or self.ready else _NOT_READY

    @property
    def ready(self) -> bool:
        """Every released model is here, and its golden predictions matched."""
        released = self._released or {}
        return bool(released) and all(name in self._models and self._models[name].release == each for name, each in released.items())

    async def prepare(self, release: Release) -> None:
        """Load and verify `release` beside what answers now. Raises what is wrong with it."""
        served = self._models.get(release.name)
        if not (served and served.release == release):
            self._prepared[release.name] = await self._load(release)

    async def follow(self, released: Mapping[str, Release], trial: Collection[Release] = ()) -> dict[str, str]:
        """Answer with exactly these versions; returns the reasons, by model, why one could not be taken (its old one goes on)."""
        reasons: dict[str, str] = {}
        for name, release in released.items():
            served, prepared = self._models.get(name), self._prepared.get(name)
            if served and served.release == release:
                continue
            try:
                self._models[name] = prepared if prepared and prepared.release == release else await self._load(release)
            except Exception as error:
                reasons[name] = str(error) or type(error).__name__
        for gone in set(self._models) - set(released):
            del self._models[gone]
        self._prepared = {name: each for name, each in self._prepared.items() if each.release in trial}
        self._released = dict(released)
        return reasons

    async def _load(self, release: Release) -> ServedModel:
        load = partial(ServedModel.load, release, self._loader, self._worker, self.settings.limits)
        return await asyncio.get_running_loop().run_in_executor(self._opener, load)


def _too_large(limit: int) -> HttpError:
    return HttpError(413, "the body is too large", allowed=f"at most {limit} bytes", next="send fewer rows, or use raycycle score")


_READY, _NOT_READY = b'{"ready":true}', b'{"ready":false}'


def _require(method: str, allowed: str, identity: Identity, role: str) -> None:
    _require_method(method, allowed)
    if not identity.has(role):
        raise HttpError(403, "this token has no role for that", value=", ".join(sorted(identity.roles)), allowed=f"{role}, admin")


def _require_method(method: str, allowed: str) -> None:
    if method != allowed:
        raise HttpError(405, "wrong method", value=method[:20], allowed=allowed, headers={"allow": allowed})


class _Random:
    """Random bits from the system, fetched by the page: a call for each request would hand over the interpreter's lock."""

    def __init__(self) -> None:
        self._page, self._at = b"", 0

    def bits80(self) -> int:
        if self._at + 10 > len(self._page):
            self._page, self._at = os.urandom(4000), 0
        self._at += 10
        return int.from_bytes(self._page[self._at - 10 : self._at])


_random = _Random()


def uuid7() -> str:
    """A UUID that sorts by time: 48 bits of Unix milliseconds, then 74 random bits (RFC 9562, section 5.7)."""
    bits = time.time_ns() // 1_000_000 << 80 | 0x7 << 76 | _random.bits80() & ~(0xF << 76)
    digits = f"{bits & ~(0b11 << 62) | 0b10 << 62:032x}"
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"
