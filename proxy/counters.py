"""What a coordinator counts from its start on; told by `stats`."""

from __future__ import annotations

from sfss.errors import Outcome, SfssError


class Counters:
    __slots__ = (
        "busy",
        "corrupt",
        "hedges",
        "quorum_failures",
        "restamped",
        "unknown_outcomes",
        "write_backs",
    )

    def __init__(self) -> None:
        self.busy = 0
        """Requests refused because too much was in flight."""
        self.corrupt = 0
        """Answers whose bytes failed their checksum, at the node or here."""
        self.hedges = 0
        self.quorum_failures = 0
        self.restamped = 0
        """Writes whose first stamp was below what every replica held."""
        self.unknown_outcomes = 0
        self.write_backs = 0

    def count_failure(self, error: Exception) -> None:
        self.quorum_failures += 1
        if isinstance(error, SfssError) and error.outcome is Outcome.UNKNOWN:
            self.unknown_outcomes += 1
