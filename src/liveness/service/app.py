"""The service's routes, and what holds for each answer: JSON errors, headers, who may call.

    app = make_app(scorer, limits, token)

An ASGI application (Starlette). Nothing of a caller (address, file name, body) is logged or counted.
"""

import hmac
import sys
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from urllib.parse import urlsplit

import anyio.to_thread
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from liveness import __file__ as package
from liveness.service.answers import Scorer
from liveness.service.bodies import stored_body
from liveness.service.desk import Desk
from liveness.service.metrics import CONTENT_TYPE, Metrics
from liveness.service.settings import LOOPBACK, TOKEN, Refusal, ServiceLimits
from liveness.service.spool import Spool

PAGE = Path(__file__).resolve().parent / "page"
STYLE = Path(package).resolve().parent / "pages" / "templates" / "house.css"  # the look of all pages
FILES = {
    "/": (PAGE / "index.html", "text/html"),
    "/page.js": (PAGE / "page.js", "text/javascript"),
    "/page.css": (PAGE / "page.css", "text/css"),
    "/house.css": (STYLE, "text/css"),
    "/docs": (PAGE / "docs.html", "text/html"),
    "/docs.js": (PAGE / "docs.js", "text/javascript"),
    "/openapi.json": (PAGE / "openapi.json", "application/json"),
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; media-src blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=()",
}


def make_app(scorer: Scorer, limits: ServiceLimits, token: str = "") -> ASGIApp:
    """The application; it starts its workers, and ends them, with the server's lifespan. ``token``: "" for none."""
    metrics = Metrics()
    desk = Desk(scorer, limits, metrics)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        with Spool() as spool:
            app.state.spool = spool
            await anyio.to_thread.run_sync(desk.start)
            try:
                yield
            finally:
                await anyio.to_thread.run_sync(desk.close)

    app = Starlette(
        routes=[
            *(Route(path, _send_file(*file)) for path, file in FILES.items()),
            Route("/score", _score, methods=["POST"]),
            Route("/health", _tell_health),
            Route("/ready", _tell_ready),
            Route("/metrics", _tell_metrics),
        ],
        exception_handlers={Refusal: _refuse, HTTPException: _refuse_route, Exception: _fail},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    app.state.desk, app.state.limits, app.state.token = desk, limits, token
    return _Guard(app, metrics, token)


# --- routes ----------------------------------------------------------------------------------------


async def _score(request: Request) -> Response:
    _require_token(request)
    _require_own_page(request)
    pictures = _read_query(request)
    desk, limits = request.app.state.desk, request.app.state.limits
    with desk.take_place():
        async with stored_body(request, request.app.state.spool, limits) as path:
            return _json(200, await desk.score(path, pictures, _hung_up(request)))


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _tell_health(_: Request) -> Response:
    return _json(200, {"status": "ok"})


async def _tell_ready(request: Request) -> Response:
    if not request.app.state.desk.open:
        raise Refusal(503, "stopping", "the service is starting or stopping")
    return _json(200, {"status": "ready"})


async def _tell_metrics(request: Request) -> Response:
    _require_token(request)
    desk: Desk = request.app.state.desk
    gauges = {
        "places": desk.taken,
        "places_most": desk.limits.places(),
        "ready": int(desk.open),
        "workers_started": sum(worker.started for worker in desk.workers),
    }
    return Response(desk.metrics.render(gauges), headers={"Content-Type": CONTENT_TYPE})


def _send_file(path: Path, kind: str) -> Callable[[Request], Awaitable[Response]]:
    data = path.read_bytes()

    async def send(_: Request) -> Response:
        return Response(data, media_type=kind)

    return send


# --- who may call ----------------------------------------------------------------------------------


def _require_token(request: Request) -> None:
    token = request.app.state.token
    if not token:
        return
    kind, _, given = request.headers.get("authorization", "").partition(" ")
    known = hmac.compare_digest(given.strip().encode("latin-1"), token.encode("ascii"))
    if kind.lower() != "bearer" or not known:
        raise Refusal(
            401, "unauthorized", f"expected the header Authorization: Bearer TOKEN, with the service's {TOKEN}",
            {"WWW-Authenticate": "Bearer"},
        )  # fmt: skip


def _require_own_page(request: Request) -> None:
    """No other site's page may make a browser call the service, where anyone on this machine may."""
    origin = request.headers.get("origin")
    if origin is not None and origin.partition("://")[2] != request.headers.get("host"):
        raise Refusal(403, "foreign_page", "a page of another site called; only the service's own page may")


def _read_query(request: Request) -> bool:
    """Whether the frames' pictures are asked for; a Refusal for what is not known."""
    for name, value in request.query_params.multi_items():
        if name != "pictures" or value not in ("0", "1"):
            raise Refusal(400, "bad_query", "the query may be pictures=1 or pictures=0, nothing else")
    return request.query_params.get("pictures") == "1"


# --- answers ---------------------------------------------------------------------------------------


def _json(status: int, body: dict, headers: dict[str, str] | None = None) -> JSONResponse:
    return JSONResponse(body, status, headers)


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    request.app.state.desk.metrics.count("refused", "error", error.error)
    return _json(error.status, error.body(), dict(error.headers))


async def _refuse_route(request: Request, error: Exception) -> Response:
    """No such path, or another method."""
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return _json(404, Refusal(404, "not_found", "no such path; /docs lists them").body())
    reason = "this path has other methods; /docs lists them" if error.status_code == 405 else error.detail
    return _json(error.status_code, Refusal(0, "bad_method", reason).body(), dict(error.headers or {}))


async def _fail(_: Request, __: Exception) -> Response:
    """A defect of ours: the caller learns that, and the log what it was (``_Guard``)."""
    return _json(500, Refusal(500, "defect", "the service failed at this request").body())


class _Guard:
    """Around everything: the headers of every answer, its count, and a line in the log where our own code fails."""

    def __init__(self, app: Starlette, metrics: Metrics, token: str) -> None:
        self._app, self._metrics, self._token = app, metrics, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] += [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                self._metrics.count("requests", "status", str(message["status"]))
            await send(message)

        try:
            if not self._token and not _is_local(scope):
                answer = _json(403, Refusal(403, "foreign_host", "the header Host has to name this machine").body())
                await answer(scope, receive, send_guarded)
            else:
                await self._app(scope, receive, send_guarded)
        except Exception:  # noqa: BLE001  (it is answered already)
            traceback.print_exc(file=sys.stderr)


def _is_local(scope: Scope) -> bool:
    """Whether the caller took this machine's own name: a name of others that leads here belongs to a foreign page."""
    host = dict(scope["headers"]).get(b"host", b"").decode("latin-1")
    try:
        return urlsplit(f"//{host}").hostname in LOOPBACK
    except ValueError:
        return False
