"""What a client is told whose bytes are no HTTP."""

from __future__ import annotations

from aiohttp.http_exceptions import BadHttpMethod, BadStatusLine, HttpProcessingError, LineTooLong

from sfss.web.errors import Refused


def refusal_of(error: HttpProcessingError) -> Refused:
    """The answer for an error of the parser; the connection ends with it."""
    if isinstance(error, BadHttpMethod):
        return Refused(501, "unknown_method", "there is no such method", close=True)
    if isinstance(error, LineTooLong):
        return Refused(400, "line_too_long", "the request line or a header is over 8190 bytes", close=True)
    if isinstance(error, BadStatusLine) and "Invalid HTTP version" in error.message:
        return Refused(505, "unsupported_version", "HTTP/1.1 is spoken here", close=True)
    return Refused(400, "bad_request", f"not HTTP as it should be: {_short(error)}", close=True)


def _short(error: HttpProcessingError) -> str:
    lines = [line.strip() for line in error.message.splitlines() if line.strip()]
    return lines[0].rstrip(":") if lines else "it can't be parsed"
