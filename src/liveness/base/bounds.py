"""What a value of the configuration may be, kept in the metadata of its field (base/config.py has the schema)."""

import math
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Bound:
    """What a value, or each number of a list, may be. ``size``: least and most entries of a list."""

    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf
    below: float = math.inf
    choices: tuple[str, ...] = ()
    size: tuple[int, float] = (0, math.inf)
    pair: bool = False  # a list [low, high] with low <= high

    def admits(self, value: Any) -> bool:
        if self.choices:
            return value in self.choices
        if isinstance(value, list):
            low, high = (2, 2) if self.pair else self.size
            in_order = not self.pair or value == sorted(value)
            return low <= len(value) <= high and in_order and all(self._holds(v) for v in value)
        return self._holds(value)

    def _holds(self, number: float) -> bool:
        return self.least <= number <= self.most and self.above < number < self.below

    def expected(self) -> str:
        """The bound in words, to stand behind "expected"."""
        if self.choices:
            return f"one of {', '.join(word or 'nothing' for word in self.choices)}"
        if self.pair:
            low = "low" if self.least == -math.inf else f"{self.least:g} <= low"
            high = "high" if self.most == math.inf else f"high <= {self.most:g}"
            return f"[low, high] with {low} <= {high}"
        if self.size == (3, 3):
            return "three numbers"
        text = self._range()
        return f"at least one number, each {text}" if self.size[0] else text

    def _range(self) -> str:
        if self.above > -math.inf:
            low = f"above {self.above:g}"
            if self.below < math.inf:
                return f"{low}, below {self.below:g}"
            return low if self.most == math.inf else f"{low}, at most {self.most:g}"
        if self.most == math.inf and self.below == math.inf:
            return f"at least {self.least:g}"
        return f"{self.least:g} to {f'below {self.below:g}' if self.below < math.inf else f'{self.most:g}'}"


def bounded(default: Any, **bound: Any) -> Any:
    """A field of a schema whose value has to lie within ``Bound(**bound)``; a list is copied for each instance."""
    metadata = {"bound": Bound(**bound)}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def choice(default: str, *others: str) -> Any:
    """A field that takes one of several words, the first by default."""
    return bounded(default, choices=(default, *others))


def added_later(default: Any, **bound: Any) -> Any:
    """A field that ``to_dict`` leaves out at its default, as if it had never been added.

    Files that hold a configuration (prepare.json, a member's contract) thus keep their bytes, and with them their
    digests, unless the new setting is used; ``from_dict`` reads both.
    """
    return field(default=default, metadata={"added_later": True} | ({"bound": Bound(**bound)} if bound else {}))


def probability(default: float = 0.0) -> Any:
    return bounded(default, least=0, most=1)
