"""`GET /file?path=P&explain`: where a file lives, and how it is on each of its replicas. For operators."""

from __future__ import annotations

import time

from sfss.errors import BadRequest
from sfss.explanation import explain_topic, structured
from sfss.store import Store, settled
from sfss.web.answers import Answer, json_answer
from sfss.web.errors import Refused
from sfss.web.operators import Operators
from sfss.web.requests import Request


def wants_explanation(query: str) -> bool:
    """Whether a raw query has `explain` beside the path."""
    return any(piece.partition("=")[0] == "explain" for piece in query.split("&"))


class Explanations:
    """Explains keys of `store`, each within `timeout_s`."""

    def __init__(self, store: Store, operators: Operators, timeout_s: float) -> None:
        self._store = store
        self._operators = operators
        self._timeout_s = timeout_s

    async def explain(self, request: Request, key: bytes) -> Answer:
        self._operators.check(request)
        call = request.call(time.monotonic(), self._timeout_s)
        try:
            told = await settled(self._store.stats(explain_topic(key), call))
        except BadRequest:
            # What the store has no figures on: the key itself was checked before.
            raise Refused(501, "unsupported", "what is stored here has no replicas to tell of") from None
        named = {"path": request.file_path, "key": key.decode("utf-8", "replace")}
        return json_answer(200, named | structured(told))
