"""From views to scores: the one forward pass of out-of-fold scoring and of prediction."""

import os
from typing import Any

import numpy as np

# Views that go through the model at once. Fixed, because the shape of a batch changes the last
# bits of its results, and the same video has to get the same score wherever it is scored.
MOST_VIEWS = 32


def pick_device(local_rank: int = 0) -> Any:
    """This process's GPU, or the CPU."""
    import torch

    return torch.device("cuda", local_rank) if torch.cuda.is_available() else torch.device("cpu")


def autocast(device: Any, enabled: bool = True) -> Any:
    """Mixed precision on a GPU (bfloat16 where the hardware has it, else float16); float32 on the CPU."""
    import torch

    if device.type != "cuda":
        return torch.autocast("cpu", enabled=False)
    return torch.autocast("cuda", dtype=half_type(), enabled=enabled)


def half_type() -> Any:
    import torch

    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def use_all_cores(processes: int = 1) -> None:
    """Give this process its share of the cores, unless OMP_NUM_THREADS decides."""
    import torch

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // processes))


class Scorer:
    """A model in evaluation mode that turns views into probabilities of live."""

    def __init__(self, model: Any, device: Any, amp: bool = True) -> None:
        import torch

        self.model = model.to(device, memory_format=torch.channels_last).eval()
        self.device, self.amp = device, amp

    def views(self, views: Any) -> np.ndarray:
        """float32 views (V x 3 x H x W) -> float64 scores (V,)."""
        import torch

        self.model.eval()
        scores = []
        with torch.inference_mode():
            for part in views.split(MOST_VIEWS):
                with autocast(self.device, self.amp):
                    logits = self.model(part.to(self.device, memory_format=torch.channels_last))
                scores.append(torch.sigmoid(logits.double()).flatten().cpu().numpy())
        return np.concatenate(scores)

    def frames(self, views: Any | None, n_frames: int) -> np.ndarray:
        """One score per frame: the mean over its views, which lie one after the other."""
        if n_frames == 0:
            return np.empty(0)
        return self.views(views).reshape(n_frames, -1).mean(axis=1)
