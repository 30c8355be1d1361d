"""The one tree of errors, grouped by who can do something about it.

Absent is `None`, never an exception; broken is an exception, never `None`. Each tier has one table that
turns these into its own words: `sfss.memcache.errors` into error lines, `sfss.web.errors` into HTTP statuses.
Messages are for the reader at the other end, and carry the numbers.
"""

from __future__ import annotations

from enum import Enum


class Outcome(Enum):
    """What may have happened to a write that was not acknowledged."""

    NOT_APPLIED = "not-applied"
    UNKNOWN = "unknown"


class SfssError(Exception):
    """Root of every error that sfss raises on purpose."""

    outcome = Outcome.NOT_APPLIED


# --- the operator, at start: one line, exit status 2 --------------------------------------------------


class SetupError(SfssError):
    """A start is refused: an option, a configuration file, a directory or a port is not usable as given."""


# --- the client: the request can't be served as it stands, now or later -------------------------------


class BadRequest(SfssError):
    """The request is malformed: a key, a number, a path or a body breaks a rule that the message names."""


class BadKey(BadRequest):
    """A key is empty, too long, holds forbidden bytes, or begins with a reserved character."""


class TooLarge(SfssError):
    """A value is larger than the limit that the message names."""


class Unsupported(SfssError):
    """The request is well formed, but this server can't keep what it asks for."""


class WrongCluster(SfssError):
    """The caller's ring or cluster is not the one that this node belongs to."""


def of_other_cluster(name: str, found: str, wanted: str) -> str:
    """What to say of a node that was met where one of another cluster should be."""
    return (
        f"{name} belongs to cluster {found or '-'}, not to {wanted}: correct its address, or give it an empty data "
        "directory if nobody needs what it has"
    )


class StaleRing(WrongCluster):
    """The caller placed the key by another ring than the node's, which has the number `ring`; 0: it has none."""

    def __init__(self, ring: int) -> None:
        super().__init__(ring)  # so that a copy is made from its arguments, as of any error
        self.ring = ring

    def __str__(self) -> str:
        return f"stale ring {self.ring}"


# --- nobody yet: the same request may succeed later ---------------------------------------------------


class Unavailable(SfssError):
    """The service can't answer now. `outcome` says what became of a write."""

    def __init__(self, message: str = "", outcome: Outcome = Outcome.NOT_APPLIED) -> None:
        super().__init__(message)
        self.outcome = outcome


class Unreachable(Unavailable):
    """No server of the tier below could be reached at all."""


class Unauthenticated(Unreachable):
    """A server of the tier below is there and doesn't let us in: a secret is missing, or isn't the same."""


class QuorumUnavailable(Unavailable):
    """Fewer replicas answered than the quorum needs."""


class Busy(Unavailable):
    """A limit on work in hand is reached; nothing was begun."""


class Stopping(Unavailable):
    """The server is about to end; nothing was begun."""


class Recovering(Unavailable):
    """The node knows that it has lost data and can't tell absent from lost."""


class Expired(Unavailable):
    """The request's deadline passed before it was served."""


class ConnectionLost(Unavailable):
    """The connection to the server closed, fell out of step or fell silent before the answer came."""


# --- the operator, while running -----------------------------------------------------------------------


class OutOfDisk(SfssError):
    """The disk has no room for a write; reads and deletes go on."""


class CorruptRecord(SfssError):
    """Stored bytes failed their checksum or are not the record that was looked for."""


class RemoteError(Unavailable):
    """A server answered an error line that is none of ours; the message is that line."""
