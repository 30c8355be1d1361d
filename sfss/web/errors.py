"""The one table that turns errors into HTTP: status, stable name, and what goes beside them."""

from __future__ import annotations

from typing import NamedTuple

from sfss import errors
from sfss.errors import Outcome, SfssError
from sfss.web.digests import DigestMismatch

RETRY_AFTER_S = 1


class Refused(SfssError):
    """A request is answered with an error that only HTTP knows. `headers` are added to the answer; `close` ends the
    connection, because what follows on it can't be trusted or isn't wanted."""

    def __init__(
        self, status: int, name: str, message: str, *, headers: tuple[tuple[str, str], ...] = (), close: bool = False
    ) -> None:
        super().__init__(message)
        self.status = status
        self.name = name
        self.headers = headers
        self.close = close


class Failure(NamedTuple):
    """An error as HTTP tells it."""

    status: int
    name: str
    message: str
    retry: bool
    outcome: Outcome
    headers: tuple[tuple[str, str], ...] = ()
    close: bool = False


CROWDED = Failure(503, "busy", "too many connections", True, Outcome.NOT_APPLIED, close=True)
"""What a client is told for whom there is no connection left."""

# Looked up by the error's class, then by those it derives from. The last column: may the same request succeed soon?
_TABLE: dict[type[BaseException], tuple[int, str, bool]] = {
    errors.BadRequest: (400, "bad_request", False),
    errors.BadKey: (400, "bad_path", False),
    DigestMismatch: (422, "digest_mismatch", False),
    errors.TooLarge: (413, "too_large", False),
    errors.Unsupported: (501, "unsupported", False),
    errors.WrongCluster: (502, "wrong_cluster", False),
    errors.Unavailable: (503, "unavailable", True),
    errors.Unreachable: (504, "unreachable", True),
    errors.QuorumUnavailable: (503, "quorum_unavailable", True),
    errors.Busy: (503, "busy", True),
    errors.Stopping: (503, "stopping", True),
    errors.Recovering: (503, "recovering", True),
    errors.Expired: (503, "deadline_expired", True),
    errors.ConnectionLost: (503, "connection_lost", True),
    errors.RemoteError: (502, "remote_error", True),
    errors.OutOfDisk: (507, "out_of_disk", False),
    errors.CorruptRecord: (500, "corrupt", False),
}


def failure_of(error: BaseException) -> Failure:
    """What to tell the client. An error that isn't ours is a fault of the server, and nothing is known of a write."""
    if isinstance(error, Refused):
        return Failure(error.status, error.name, str(error), False, error.outcome, error.headers, error.close)
    for kind in type(error).__mro__:
        if kind in _TABLE:
            status, name, retry = _TABLE[kind]
            outcome = error.outcome if isinstance(error, SfssError) else Outcome.UNKNOWN
            return Failure(status, name, str(error) or name.replace("_", " "), retry, outcome)
    return Failure(500, "internal", "the server made a mistake; its log has more", False, Outcome.UNKNOWN)
