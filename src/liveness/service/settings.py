"""What the service allows, and how it refuses. Imports nothing of the web framework."""

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from liveness.base.errors import UserError
from liveness.base.machine import cores

MIB = 1 << 20
TOKEN = "LIVENESS_TOKEN"  # the environment variable with the callers' token
SHORTEST_TOKEN = 16  # characters
LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass(frozen=True)
class ServiceLimits:
    """What one caller may take. Temporary files take at most ``places() * bytes``."""

    bytes: int = 32 * MIB  # of a body
    seconds: float = 60.0  # of a clip's own duration
    pixels: int = 36_000_000  # of a frame
    clips: int = field(default_factory=cores)  # decoded and scored at the same time
    queue: int = 16  # that wait for that, beside those
    decode_seconds: float = 30.0  # that a decoder may work on a clip
    upload_seconds: float = 60.0  # until a body is there
    header_seconds: float = 10.0  # until a request's headers are there
    idle_seconds: float = 5.0  # that a connection may wait for its next request
    connections: int = 256

    def places(self) -> int:
        """Clips that are accepted and not answered yet, at most."""
        return self.clips + self.queue

    def check(self) -> None:
        """A UserError for a limit that lets nothing through, or is none."""
        for name, value in vars(self).items():
            least = 0 if name == "queue" else 1
            if not least <= value < math.inf:
                raise UserError(f"--{name.replace('_', '-')} {value:g}: expected {least} or more")


@dataclass(eq=False)
class Refusal(Exception):
    """An answer other than a row: HTTP status, a word for programs, one line for people."""

    status: int
    error: str
    reason: str
    headers: Mapping[str, str] = field(default_factory=dict)

    def body(self) -> dict[str, str]:
        """The JSON object that the caller gets."""
        return {"error": self.error, "reason": self.reason}


def read_token(host: str) -> str:
    """The callers' token, "" where everyone on this machine may call; a UserError where that would be too open."""
    token = os.environ.get(TOKEN, "").strip()
    if token and (len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable() or " " in token):
        raise UserError(
            f"{TOKEN}: expected at least {SHORTEST_TOKEN} ASCII characters without blanks; "
            'make one: python -c "import secrets; print(secrets.token_urlsafe())"'
        )
    if not token and host not in LOOPBACK:
        raise UserError(
            f"--host {host}: others could call the service, so it needs a token: set {TOKEN}, or keep --host 127.0.0.1"
        )
    return token
