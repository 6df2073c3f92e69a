"""What the service asks of a model: which views it wants of a clip, and the clip's row by them."""

from dataclasses import dataclass
from typing import Protocol

from liveness.frames.views import VideoViews, ViewRequest
from liveness.prediction.rows import Row


@dataclass(frozen=True)
class DecidedBy:
    """The operating point: its name, the threshold with the interval that holds it, and one line on its origin."""

    point: str
    threshold: float
    low: float
    high: float
    source: str


@dataclass(frozen=True)
class MemberScore:
    """A member's score of the clip on the common scale, None where it gave none, and its weight in the blend."""

    name: str
    score: float | None
    weight: float


class Scorer(Protocol):
    """An ensemble that is ready to score; its methods may be called from several threads at a time."""

    name: str
    decided_by: DecidedBy

    def wanted(self) -> list[ViewRequest]:
        """What the members need of a clip."""
        ...

    def score(self, video: VideoViews) -> tuple[Row, list[MemberScore]]:
        """The row of a clip that was decoded, and its members' scores."""
        ...
