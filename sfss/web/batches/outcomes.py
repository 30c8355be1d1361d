"""How the replies of a batch's files are waited for, and their errors told: as those of single requests."""

from __future__ import annotations

import contextlib
import logging
from typing import Any

from sfss.errors import SfssError
from sfss.log import of_call
from sfss.promise import Promise
from sfss.store import Call
from sfss.web.errors import Failure, Refused, failure_of
from sfss.web.requests import Request

_log = logging.getLogger("sfss.web")


async def settled_reply(reply: Any) -> None:
    """Wait until it is known what a promise holds, be it an error; that is looked at later, in its turn."""
    if isinstance(reply, Promise) and not reply.done():
        with contextlib.suppress(Exception):
            await reply


def told_failure(request: Request, path: str, error: BaseException) -> Failure:
    """What to tell of one file, and the operator of it, by the same rules as a single request's."""
    failure = failure_of(error)
    if not isinstance(error, SfssError):
        _log.error("%s of %s failed", request.path, path, exc_info=error, extra=of_call(Call(request_id=request.id)))
    elif failure.status >= 500 and not isinstance(error, Refused):
        request.connection.server.failures.note(failure, f"POST {request.path} of {path}", request.id)
    return failure
