"""The web tier put together: routes, and what is the same for each of them."""

from __future__ import annotations

from typing import Final

from sfss.settings import Settings
from sfss.store import Store
from sfss.web.answers import body_answer
from sfss.web.batches.handlers import BatchHandlers
from sfss.web.batches.keys import KeyMaker
from sfss.web.batches.room import BatchRoom
from sfss.web.counters import SharedCounters
from sfss.web.errors import Refused
from sfss.web.explain import Explanations
from sfss.web.files import FileHandlers
from sfss.web.memory import BodyMemory
from sfss.web.operators import Operators
from sfss.web.origins import Origins
from sfss.web.requests import FILE_PAGE, Answered, Handler, Request
from sfss.web.status import StatusHandler, StatusSource

_NEVER: Final = ("TRACE", "CONNECT")


class Application:
    """Handles requests by what `store` keeps and `status` tells. Knows nothing of sockets."""

    def __init__(
        self, store: Store, status: StatusSource, settings: Settings, counters: SharedCounters, memory: BodyMemory
    ) -> None:
        operators = Operators(settings.operators)
        origins = Origins(settings.origins)
        files = FileHandlers(
            store,
            memory,
            Explanations(store, operators, settings.request_timeout_seconds),
            origins,
            key_encoding=settings.key_encoding,
            key_bytes_max=settings.max_encoded_path_length,
            file_bytes_max=settings.max_content_size,
            request_timeout_s=settings.request_timeout_seconds,
        )
        batches = BatchHandlers(
            store,
            memory,
            origins,
            BatchRoom(memory, settings.batches_max),
            KeyMaker(settings.key_encoding, settings.max_encoded_path_length),
            file_bytes_max=settings.max_content_size,
            files_max=settings.batch_files_max,
            bytes_max=settings.batch_bytes_max,
            seconds_max=settings.batch_seconds_max,
            list_bytes_max=settings.batch_list_bytes_max,
            request_timeout_s=settings.request_timeout_seconds,
            patience_s=settings.body_grace_seconds,
            rate_min=settings.body_rate_min,
        )
        self._files = files
        page = StatusHandler(store, status, counters, operators, settings.ready_fails_on)
        self._routes: dict[str, dict[str, Handler]] = {
            FILE_PAGE: {"GET": files.get, "HEAD": files.head, "PUT": files.put, "DELETE": files.delete},
            "/files": {"POST": files.post},
            "/files:get": {"POST": batches.get},
            "/files:put": {"POST": batches.put},
            "/status": {"GET": page.status, "HEAD": page.status},
            "/metrics": {"GET": page.metrics, "HEAD": page.metrics},
            "/healthz": {"GET": _alive, "HEAD": _alive},
            "/readyz": {"GET": page.ready, "HEAD": page.ready},
        }

    def handle(self, request: Request) -> Answered:
        """Answer a request, or raise what `sfss.web.errors` has a status for."""
        if request.plain_path:  # nearly all are for a file; the rules below have nothing against them
            if request.method == "GET":
                return self._files.get(request)
            if request.method == "PUT":
                return self._files.put(request)
        if request.version != (1, 1):
            _check_version(request)
        if request.path[:1] != "/":
            request.path = _origin_form(request.path)
        methods = self._routes.get(request.path)
        if methods is None:
            raise self._no_such_page(request)
        handler = methods.get(request.method)
        if handler is None:
            raise _not_allowed(request, tuple(methods))
        if "#" in request.query:
            # Whoever sends a fragment has forgotten to encode a name; cut off, two names would become one.
            raise Refused(400, "bad_request", "the request has a #; in a path it is written %23")
        return handler(request)

    def _no_such_page(self, request: Request) -> Refused:
        if request.method in _NEVER:
            return _not_allowed(request, ("GET", "HEAD", "PUT", "POST", "DELETE"))
        return Refused(404, "no_such_page", f"there are {', '.join(self._routes)}")


def _check_version(request: Request) -> None:
    if request.version[0] != 1:
        raise Refused(505, "unsupported_version", "HTTP/1.1 is spoken here", close=True)
    if request.version < (1, 1) and "Transfer-Encoding" in request.headers:
        # A server in front that speaks 1.0 has passed on what it doesn't understand, and may see another end of the
        # body than is seen here (RFC 9112, 6.1).
        raise Refused(400, "bad_request", "HTTP/1.0 has no Transfer-Encoding; announce a Content-Length", close=True)


def _origin_form(target: str) -> str:
    """The path of an absolute request target, as clients send it to a proxy (RFC 9112, 3.2.2)."""
    _, scheme, rest = target.partition("://")
    return "/" + rest.partition("/")[2] if scheme else target


def _not_allowed(request: Request, methods: tuple[str, ...]) -> Refused:
    allowed = ", ".join(methods)
    return Refused(
        405,
        "method_not_allowed",
        f"{request.method} is not for {request.path[:100]}; {allowed} is",
        headers=(("Allow", allowed),),
        close=request.method in _NEVER,
    )


def _alive(request: Request) -> Answered:
    return body_answer(200, "text/plain; charset=utf-8", b"alive\n")
