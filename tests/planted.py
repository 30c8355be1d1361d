"""Counting how many tries it takes until a planted fault shows. A report of pytest's (`--junitxml`) tells it as the
property `tries` of the test; `make torture T=plants` makes a table of that."""

from __future__ import annotations

from collections.abc import Iterable


class Tries:
    """Those of the test that runs; 0 where it doesn't count any."""

    def __init__(self) -> None:
        self.count = 0

    def until(self, tries: Iterable[bool]) -> bool:
        """Whether one of the tries, each made when it is asked for, shows the fault."""
        for number, shown in enumerate(tries, 1):
            self.count = number
            if shown:
                return True
        return False


TRIES = Tries()
