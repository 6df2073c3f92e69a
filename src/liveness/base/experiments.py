"""The schema of what compares recipes: rows of a comparison (configs/compare), a space to search (configs/tune).

base/compose.py reads both: ``load_rows``, ``load_space``.
"""

from dataclasses import dataclass, field
from typing import Any

from liveness.base.bounds import bounded, choice
from liveness.base.validity import require


@dataclass
class ComparedRow:
    """A recipe, as it is or with values changed; such a row has a name of its own, which its members get."""

    recipe: str = ""
    name: str = ""  # "": the recipe's
    overrides: list[str] = field(default_factory=list)  # KEY=VALUE, as after -o
    apart: bool = False  # it does not start as the others do (pretrained weights): shown below them


@dataclass
class ComparedRows:
    """configs/compare/<name>.yaml; the others are compared with the first row."""

    name: str = "unnamed"
    rows: list[ComparedRow] = field(default_factory=list)


@dataclass
class Dimension:
    """A key of the recipe and what the search may set it to: one of ``choices``, or a number from low to high."""

    key: str = ""
    low: float | None = None
    high: float | None = None
    log: bool = False  # drawn on a log scale
    whole: bool = False  # whole numbers only
    choices: list[Any] = field(default_factory=list)


@dataclass
class SearchSpace:
    """configs/tune/<name>.yaml: what is searched, and how (docs/tuning.md)."""

    name: str = "unnamed"
    # What a study minimises: the inner fold's log loss, or its worst HTER under the stresses below, at the threshold
    # that its unstressed scores have (laboratory/stressed_search.py).
    objective: str = choice("log_loss", "stressed_hter")
    stressors: list[str] = field(default_factory=list)  # of simulation/stress.py; none named = all
    severities: list[int] = field(default_factory=lambda: [2])
    stressed_videos: int = bounded(100, least=0)  # a sample of the inner fold's videos; 0 = all
    pruner: str = choice("median", "hyperband", "none")
    # Trials that are drawn at random before the sampler learns from them, and that the median pruner waits for.
    startup_trials: int = bounded(5, least=1)
    warmup_epochs: int = bounded(1, least=0)  # epochs of a trial in which it is not pruned
    seed: int = bounded(1, least=0)
    space: list[Dimension] = field(default_factory=list)


# What makes a trial another training than the recipe's own, and what would have seen the inner fold.
_FIXED = ("name", "data", "train.init", "train.teacher", "train.unlabelled", "train.pseudo_labels")


def check_space(space: SearchSpace, where: str) -> None:
    """A UserError unless every dimension is one or the other and each key stands once. Whether the recipe has the key
    and takes the values, only the recipe knows."""
    require(space.space, f"{where}: space is empty; expected a list of key with choices, or with low and high")
    seen: set[str] = set()
    for item in space.space:
        what = f"{where}: {item.key or 'a dimension without a key'}"
        require(item.key and item.key not in seen, f"{what}: expected every key of the recipe once")
        seen.add(item.key)
        require(
            item.key not in _FIXED,
            f"{what}: cannot be searched; a trial is a training of one recipe on one set from its own start",
        )
        ends = (item.low, item.high)
        numbers = item.low is not None and item.high is not None
        require(
            bool(item.choices) != numbers and (numbers or ends == (None, None)),
            f"{what}: expected choices, or low and high, and not both",
        )
        if item.choices:
            require(len(item.choices) > 1 and not (item.log or item.whole), f"{what}: expected at least two choices")
        elif item.low is not None and item.high is not None:
            require(item.low < item.high, f"{what}: low={item.low:g}, high={item.high:g}; expected low below high")
            require(not item.log or item.low > 0, f"{what}: log with low={item.low:g}; expected low above 0")
            fits = not item.whole or (item.low == int(item.low) and item.high == int(item.high))
            require(fits, f"{what}: whole with low={item.low:g}, high={item.high:g}; expected whole numbers")
