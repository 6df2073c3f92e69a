"""The running loss on its way from the device, read when it is there: no step is waited for.

    arrivals = Arrivals(device)
    arrivals.send(losses, step)      # after each step
    arrivals.require_finite()        # of what was sent LATE steps ago

Asking a GPU for a number of the step at hand would make it wait for this process, and this process for it, after
every step. So each step's sums are copied into page-locked memory behind the step, with an event, and looked at while
the next ones are queued.
"""

import math
from collections import deque

import torch

from liveness.base.errors import UserError
from liveness.models.device import empty_for

# Steps between sending and looking. A fixed number, not "whatever is there": every rank has to end at the same step.
LATE = 2


class Arrivals:
    """The sums of one epoch: of the losses, and of the samples that they are of."""

    def __init__(self, device: torch.device) -> None:
        self.loss = 0.0  # the newest sums that have been looked at
        self.samples = 0
        self._device = device
        self._under_way: deque[tuple[int, torch.Tensor, torch.cuda.Event | None]] = deque()
        self._free: list[torch.Tensor] = []  # buffers to be used again

    def send(self, sums: torch.Tensor, step: int) -> None:
        """Queue the copy of the running sums (loss, samples; float64) behind ``step``, whose share they hold."""
        buffer = self._free.pop() if self._free else empty_for(self._device, (2,), torch.float64)
        buffer.copy_(sums, non_blocking=True)
        event = None
        if self._device.type != "cpu":
            event = torch.cuda.Event()
            event.record()
        self._under_way.append((step, buffer, event))

    def require_finite(self, late: int = LATE) -> None:
        """Look at the sums of all steps but the last ``late``; a UserError where a loss was not finite."""
        while len(self._under_way) > late:
            step, buffer, event = self._under_way.popleft()
            if event is not None:
                event.synchronize()
            loss, samples = buffer.tolist()
            self._free.append(buffer)
            if not math.isfinite(loss):  # a sum stays so: this is the first such step
                raise UserError(
                    f"the loss is not finite in step {step}; train.clip_grad=1, a lower train.lr or train.amp=false "
                    "may help; last.pt keeps what was saved before"
                )
            self.loss, self.samples = loss, int(samples)
