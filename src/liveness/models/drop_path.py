"""Stochastic depth whose draws belong to the sample, not to the process that happens to hold it.

timm's DropPath draws from the global generator, so the same sample is dropped in one distribution
over processes and kept in another. Here each residual branch asks a counter-based hash of
(sample seed, number of the branch): N processes train what one process trains.
"""

import torch

# Constants of splitmix64 (Steele, Lea, Flood: Fast splittable pseudorandom number generators, 2014),
# as signed 64-bit integers, whose products wrap in torch as they should.
_GOLDEN, _MIX_1, _MIX_2 = -7046029254386353131, -4658895280553007687, -7723592293110705685


def _draw_uniform(seeds: torch.Tensor, number: int) -> torch.Tensor:
    """Numbers in [0, 1) from int64 seeds (N,) and the number of a draw: float32 (N,)."""
    # Wrapped here: a number of Python's goes to a GPU with the call, a tensor of one would be copied there first, and
    # the host would wait for it in every block.
    z = seeds + _wrap((number + 1) * _GOLDEN)
    # The right shifts are logical: what the sign bit drags in is masked away.
    z = (z ^ ((z >> 30) & 0x3FFFFFFFF)) * _MIX_1
    z = (z ^ ((z >> 27) & 0x1FFFFFFFFF)) * _MIX_2
    z = z ^ ((z >> 31) & 0x1FFFFFFFF)
    return ((z >> 40) & 0xFFFFFF).to(torch.float32) / (1 << 24)


def _wrap(number: int) -> int:
    """A whole number as a signed one of 64 bits has it, whose products wrap."""
    return (number + (1 << 63)) % (1 << 64) - (1 << 63)


class SampleDropPath(torch.nn.Module):
    """Drops a residual branch for a whole sample, and scales up the ones that are kept."""

    def __init__(self, rate: float, number: int, shared: dict[str, torch.Tensor]) -> None:
        super().__init__()
        self.rate, self.number, self.shared = rate, number, shared

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x: (N, ...), of which row i belongs to the i-th of the seeds in ``shared``."""
        if not self.training or self.rate == 0:
            return x
        seeds = self.shared["seeds"]
        kept = (_draw_uniform(seeds, self.number) >= self.rate).to(x.dtype) / (1 - self.rate)
        return x * kept.view(-1, *[1] * (x.ndim - 1))

    def extra_repr(self) -> str:
        return f"rate={self.rate:.3f}"


def replace_drop_path(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Put a SampleDropPath in the place of each of timm's. Returns what holds their "seeds", one a sample."""
    from timm.layers import DropPath

    shared: dict[str, torch.Tensor] = {}
    found = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, DropPath)
    ]
    for number, (parent, name, child) in enumerate(found):
        setattr(parent, name, SampleDropPath(child.drop_prob or 0.0, number, shared))
    return shared
