"""Logging: one format on all tiers, as text or as JSON lines, to standard error.

A line is time (UTC, ms), level, tier, message and, where there is one, the request id, which is the same from
web to node. Callers use `logging.getLogger("sfss.<tier>")` and pass `extra=of_call(call)`.
"""

from __future__ import annotations

import json
import logging
import sys
import time

from sfss.store import Call

LEVELS = ("debug", "info", "warning", "error")


def of_call(call: Call) -> dict[str, str]:
    """The `extra` of a log call that belongs to a request."""
    return {"request_id": call.request_id.decode("ascii", "replace")}


def set_up_logging(tier: str, level: str = "info", as_json: bool = False) -> None:
    """Send all logging of this process to standard error. `tier` names the process, as in `node:7900`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines(tier) if as_json else _Lines(tier))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def _timestamp(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + f".{int(seconds % 1 * 1000):03d}Z"


class _Lines(logging.Formatter):
    def __init__(self, tier: str) -> None:
        super().__init__()
        self._tier = tier

    def format(self, record: logging.LogRecord) -> str:
        text = f"{_timestamp(record.created)} {record.levelname:<7} {self._tier} {record.getMessage()}"
        request_id = getattr(record, "request_id", "")
        if request_id:
            text += f" request={request_id}"
        if record.exc_info:
            text += "\n" + self.formatException(record.exc_info)
        return text


class _JsonLines(logging.Formatter):
    def __init__(self, tier: str) -> None:
        super().__init__()
        self._tier = tier

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": _timestamp(record.created),
            "level": record.levelname.lower(),
            "tier": self._tier,
            "message": record.getMessage(),
        }
        request_id = getattr(record, "request_id", "")
        if request_id:
            line["request"] = request_id
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)
