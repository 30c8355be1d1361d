"""What a coordinator counts from its start on; told by `stats`."""

from __future__ import annotations

from dataclasses import dataclass

from sfss.errors import Outcome, SfssError


@dataclass
class Counters:
    busy: int = 0
    """Requests refused because too much was in flight."""

    corrupt: int = 0
    """Answers whose bytes failed their checksum, at the node or here."""

    hedges: int = 0
    quorum_failures: int = 0

    restamped: int = 0
    """Writes whose first stamp was below what every replica held."""

    unknown_outcomes: int = 0
    write_backs: int = 0

    def count_failure(self, error: Exception) -> None:
        self.quorum_failures += 1
        if isinstance(error, SfssError) and error.outcome is Outcome.UNKNOWN:
            self.unknown_outcomes += 1
