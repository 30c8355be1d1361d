"""Verdicts: a figure, what it had to be, and whether it was."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Verdict:
    """One figure, and the most it may be, or the least. `spread` is that of the turns; `note` qualifies the figure."""

    name: str
    value: float
    bound: float
    unit: str
    at_least: bool = False
    spread: tuple[float, float] | None = None
    note: str = ""

    @property
    def met(self) -> bool:
        return self.value >= self.bound if self.at_least else self.value <= self.bound

    def figures(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "value": self.value,
            "spread": self.spread,
            "unit": self.unit,
            "bound": self.bound,
            "at_least": self.at_least,
            "met": self.met,
            "note": self.note,
        }
