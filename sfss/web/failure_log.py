"""Answers 5xx in the log: each kind of error is seen by the operator, at a rate that a log can bear.

While a cluster is away every request fails, thousands in a second. So of each error name one line is written at once,
and then, once a second for as long as it goes on, one that has the newest request and says for how many it stands.
"""

from __future__ import annotations

import logging

from sfss.log import of_call
from sfss.store import Call
from sfss.web.errors import Failure

TELL_S = 1.0
_WHAT_CHARS_MAX = 200

_log = logging.getLogger("sfss.web")


class _Storm:
    """One kind of error since its last line: how often it came, and the newest."""

    __slots__ = ("count", "failure", "request_id", "what")

    def __init__(self, failure: Failure, what: str, request_id: bytes) -> None:
        self.count = 0
        self.failure = failure
        self.what = what
        self.request_id = request_id


class FailureLog:
    """Takes a process's failures one by one; `tell` is to be called about once a second."""

    def __init__(self) -> None:
        self._storms: dict[str, _Storm] = {}
        self._told_at = float("-inf")

    def note(self, failure: Failure, what: str, request_id: bytes) -> None:
        """Log a failure, or count it where one of its name was logged just now. `what` failed, as in `GET /file`."""
        storm = self._storms.get(failure.name)
        if storm is None:
            self._storms[failure.name] = _Storm(failure, what, request_id)
            _warn(failure, what, request_id, "")
        else:
            storm.count += 1
            storm.failure = failure
            storm.what = what
            storm.request_id = request_id

    def tell(self, now: float) -> None:
        """Log what was counted, unless that was done within the last second. `now` is `time.monotonic()`."""
        if now < self._told_at + TELL_S:
            return
        self._told_at = now
        for name, storm in list(self._storms.items()):
            if storm.count:
                _warn(storm.failure, storm.what, storm.request_id, f" ({storm.count} since the last such line)")
                storm.count = 0
            else:
                del self._storms[name]


def _warn(failure: Failure, what: str, request_id: bytes, how_often: str) -> None:
    _log.warning(
        "%s: %d %s: %s%s",
        what[:_WHAT_CHARS_MAX],
        failure.status,
        failure.name,
        failure.message,
        how_often,
        extra=of_call(Call(request_id=request_id)),
    )
