"""uvicorn around the application: deadlines for slow callers, JSON for what is no HTTP, a graceful stop.

    run_server(make_app(scorer, limits, token), "127.0.0.1", 8000, limits)

SIGTERM or ctrl-C: nothing new is accepted, what was accepted is answered, then it returns. A second ctrl-C ends it.
"""

import asyncio
import json
import logging
import signal
import socket
from pathlib import Path

import h11
import uvicorn
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from liveness.base.errors import UserError
from liveness.service.settings import Refusal, ServiceLimits

_HEADER_BYTES = 16 * 1024


def run_server(
    app: ASGIApp, host: str, port: int, limits: ServiceLimits, certificate: Path | None = None, key: Path | None = None
) -> None:
    """Serve until a signal comes; a UserError where the port cannot be had or the certificate not be read."""
    config = uvicorn.Config(
        app,
        http=type("Guarded", (_Guarded,), {"limits": limits}),
        ws="none",
        loop="asyncio",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=limits.idle_seconds,  # type: ignore[arg-type]
        h11_max_incomplete_event_size=_HEADER_BYTES,
        ssl_certfile=None if certificate is None else str(certificate),
        ssl_keyfile=None if key is None else str(key),
    )
    logging.getLogger("uvicorn").setLevel(logging.ERROR)  # what callers send is none of the log's business
    try:
        config.load()
    except OSError as error:
        raise UserError(f"{certificate}: no certificate with its key ({error}); expected PEM files") from error
    with bind_listener(host, port) as listener:
        number = listener.getsockname()[1]
        where = f"[{host}]" if ":" in host else host
        scheme = "https" if config.is_ssl else "http"
        # uvicorn gives a signal that it caught to the handler from before: ours, so that a graceful stop ends with 0.
        before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            server = _Server(config)
            server.says = f"serving {scheme}://{where}:{number}/ (ctrl-C ends it)"
            server.run(sockets=[listener])
            if not server.started:
                raise UserError("the service did not start; what stands above says why")
        finally:
            for sent, handler in before.items():
                signal.signal(sent, handler)


class _Server(uvicorn.Server):
    says = ""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Say where it serves, once it does."""
        await super().startup(sockets)
        if self.started:
            print(self.says, flush=True)


def bind_listener(host: str, port: int) -> socket.socket:
    """A socket that listens there; a UserError where that is not to be had."""
    if not 0 <= port <= 65535:  # the system would take the rest of a division
        raise UserError(f"--port {port}: expected 1 to 65535, or 0 for a free one")
    try:
        kind, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        return socket.create_server(address, family=kind, backlog=128, reuse_port=False)
    except OSError as error:
        raise UserError(f"--host {host} --port {port}: cannot listen there ({error}); is the port taken?") from error


class _Guarded(H11Protocol):
    """uvicorn's protocol with deadlines: for a request's headers, for the rest of a refused body, for a reader."""

    limits: ServiceLimits
    _patience: asyncio.TimerHandle | None = None  # for what the caller sends
    _reader: asyncio.TimerHandle | None = None  # for the caller to read

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            self._answer(Refusal(503, "busy", "too many connections; try again later"))
        else:
            self._wait_for_more()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._patience = _cancelled(self._patience)
        elif self._patience is None:
            self._wait_for_more()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.response_complete and self.conn.their_state is h11.SEND_BODY:
            self._wait_for_more()  # refused early: the rest is read and thrown away, for a while

    def timeout_keep_alive_handler(self) -> None:
        if self.conn.their_state is not h11.SEND_BODY:
            super().timeout_keep_alive_handler()

    def send_400_response(self, msg: str) -> None:
        self._answer(Refusal(400, "bad_http", "no valid HTTP request"))

    def pause_writing(self) -> None:
        super().pause_writing()
        self._reader = _cancelled(self._reader) or self.loop.call_later(
            self.limits.header_seconds, self.transport.abort
        )

    def resume_writing(self) -> None:
        super().resume_writing()
        self._reader = _cancelled(self._reader)

    def connection_lost(self, exc: Exception | None) -> None:
        self._patience, self._reader = _cancelled(self._patience), _cancelled(self._reader)
        super().connection_lost(exc)

    def _wait_for_more(self) -> None:
        _cancelled(self._patience)
        self._patience = self.loop.call_later(self.limits.header_seconds, self._give_up)

    def _give_up(self) -> None:
        self._patience = None
        if self.conn.our_state is not h11.IDLE:
            self.transport.abort()
        elif self.conn.trailing_data[0]:
            self._answer(Refusal(408, "too_slow", "the request's headers were not there in time"))
        else:
            self.transport.close()

    def _answer(self, refusal: Refusal) -> None:
        """An answer where no application runs; the connection ends."""
        body = json.dumps(refusal.body()).encode()
        headers = [
            ("content-type", "application/json"),
            ("content-length", str(len(body))),
            ("connection", "close"),
        ]
        try:
            for event in (
                h11.Response(status_code=refusal.status, headers=headers),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        except h11.LocalProtocolError:  # an answer is under way already
            self.transport.abort()
        else:
            self.transport.close()


def _cancelled(alarm: asyncio.TimerHandle | None) -> asyncio.TimerHandle | None:
    """No alarm any more."""
    if alarm is not None:
        alarm.cancel()
    return None
