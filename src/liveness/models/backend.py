"""What a loaded model has to be able to do in order to score, and the way to do it with torch.

Another arithmetic (an exported model in another library) is another class with the methods of ``Backend``;
the queues (models/batches.py) and the loop (models/score.py) ask for nothing else.
"""

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np

from liveness.base.config import View
from liveness.models.device import autocast, one_thread, without_tf32

if TYPE_CHECKING:
    import torch

# Views that go through a model at once: on a GPU always this many, on the CPU at most.
MOST_VIEWS = 32

TORCH = "torch"  # the runtime of members that were not exported; models/exported.py has the others


class Device(Protocol):
    """Where a model computes; a torch.device is one."""

    @property
    def type(self) -> str:
        """``cpu`` or ``cuda``."""
        ...


@dataclass(frozen=True)
class _Host:
    type: str = "cpu"


HOST = _Host()  # the CPU, where torch need not be installed

# A batch of views in the form in which a backend computes: a torch.Tensor, or another library's array.
_Batch = TypeVar("_Batch")


class Backend(Protocol[_Batch]):
    """A model in evaluation mode that turns views into probabilities of live."""

    @property
    def device(self) -> Device:
        """Where it computes."""
        ...

    def to_batch(self, views: np.ndarray, view: View) -> _Batch:
        """uint8 views (V x H x W x 3) -> float32, normalised (V x 3 x H x W). Backends of one kind share the result."""
        ...

    def score_views(self, batch: _Batch) -> np.ndarray:
        """float32 views (V x 3 x H x W) -> float64 scores (V,), which depend on nothing else; on a CPU with one
        thread."""
        ...

    def forward(self, batch: _Batch) -> _Batch:
        """MOST_VIEWS views on the device -> float64 probabilities, still there."""
        ...


class TorchBackend:
    """A torch model as a ``Backend``."""

    def __init__(self, model: "torch.nn.Module", device: "torch.device", amp: bool = True, exact: bool = False) -> None:
        """The model is moved to the device. If that is a GPU, ``amp``: in mixed precision there; ``exact``: in
        float32 without TF32."""
        import torch

        self.model = model.to(device, memory_format=torch.channels_last).eval()  # type: ignore[call-overload]
        self.device, self.amp, self.exact = device, amp and not exact, exact

    def to_batch(self, views: np.ndarray, view: View) -> "torch.Tensor":
        """As ``Backend.to_batch``; the tensor stays in the main memory."""
        import torch

        from liveness.frames.contract import to_tensor

        return torch.stack([to_tensor(one, view) for one in views])

    def score_views(self, batch: "torch.Tensor") -> np.ndarray:
        """As ``Backend.score_views``."""
        self.model.eval()
        with one_thread() if self.device.type == "cpu" else contextlib.nullcontext():
            parts = [self.forward(self._place(part))[: len(part)].cpu().numpy() for part in batch.split(MOST_VIEWS)]
        return np.concatenate(parts)

    def forward(self, batch: "torch.Tensor") -> "torch.Tensor":
        """As ``Backend.forward``; on the CPU the batch may be smaller."""
        import torch

        proper = without_tf32() if self.exact and self.device.type == "cuda" else contextlib.nullcontext()
        with torch.inference_mode(), autocast(self.device, self.amp), proper:
            return torch.sigmoid(self.model(batch).double()).flatten()

    def _place(self, part: "torch.Tensor") -> "torch.Tensor":
        import torch

        if self.device.type == "cpu":
            return part.contiguous(memory_format=torch.channels_last)
        return pad(part).to(self.device, memory_format=torch.channels_last)


def pad(batch: "torch.Tensor") -> "torch.Tensor":
    """MOST_VIEWS views, of which the last are zeros."""
    import torch

    missing = MOST_VIEWS - len(batch)
    return torch.cat([batch, batch.new_zeros(missing, *batch.shape[1:])]) if missing else batch
