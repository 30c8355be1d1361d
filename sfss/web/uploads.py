"""Take the body of an upload: whole, within its limits, undamaged, without its envelope, or not at all."""

from __future__ import annotations

from typing import Final

from multidict import CIMultiDictProxy

from sfss.errors import BadRequest, TooLarge
from sfss.web.conditions import READ_CONDITIONS
from sfss.web.digests import check_digests
from sfss.web.errors import Refused
from sfss.web.memory import BodyMemory
from sfss.web.multipart import file_in_form, is_multipart_form
from sfss.web.requests import Request

ENVELOPE_BYTES_MAX: Final = 64 * 1024
"""What a form may add to its file: boundaries, headers, other fields."""


def announced_length(request: Request) -> int | None:
    """The length that a write's head announces for its body; None for chunks. Refuses what no write may ask for."""
    headers = request.headers
    for name in READ_CONDITIONS:
        if name in headers:
            raise Refused(
                501, "unsupported", f"{name} on a write can't be honoured without a race; send the write without it"
            )
    if "Content-Range" in headers:
        raise BadRequest("part of a file can't be written; send all of it, without Content-Range")
    if "Expect" in headers and headers["Expect"].strip().lower() != "100-continue":
        raise Refused(417, "expectation_failed", "only Expect: 100-continue is understood")
    if headers.get("Transfer-Encoding", "chunked").strip().lower() != "chunked":
        # Whatever else is done to the bytes on their way would have to be undone here (RFC 9112, 6.1).
        raise Refused(501, "unsupported", "chunked is the one transfer coding understood here", close=True)
    announced = headers.get("Content-Length")
    if announced is not None:
        return int(announced)
    if "Transfer-Encoding" not in headers:
        # By HTTP/1.1 that is an empty body; but who meant to send bytes would replace a file by an empty one, and
        # before 1.1 a body may follow that ends with the connection, whole or cut off.
        raise Refused(
            411, "length_required", "announce the body: Content-Length (0 for an empty file) or chunks", close=True
        )
    return None


async def receive_up_to(request: Request, limit: int, too_large: str) -> bytes:
    """Wait for a body of up to `limit` bytes, for which memory is held; `TooLarge` says `too_large` beyond that."""
    body = request.body
    announced = request.headers.get("Content-Length")
    if body.is_eof():
        received = body.read_nowait()
        if len(received) > limit:
            raise TooLarge(too_large)
        return received
    request.connection.await_body()
    if announced is not None:
        body.set_read_chunk_size(int(announced))  # so that reading isn't paused for what is going to be held anyway
        request.connection.resume_reading()  # what came before this was set may have paused it
        error = body.exception()
        if error is not None:  # what broke before the wait began isn't told to it
            raise error
        await body.wait_eof()
        received = body.read_nowait()
    else:
        chunks: list[bytes] = []
        count = 0
        while chunk := await body.readany():
            count += len(chunk)
            if count > limit:
                raise TooLarge(too_large)
            chunks.append(chunk)
        received = b"".join(chunks)
    request.connection.body_taken()
    return received


class Uploads:
    """Takes bodies of up to `file_bytes_max` bytes each, all together within `memory`."""

    def __init__(self, file_bytes_max: int, memory: BodyMemory) -> None:
        self._file_bytes_max = file_bytes_max
        self._memory = memory

    def check_head(self, request: Request) -> None:
        """Refuse what the head tells already, before a byte of body is asked for, and hold memory for the body."""
        if request.plain_path and len(request.whole) <= self._file_bytes_max:
            self._memory.hold(len(request.whole))
            request.held_bytes = len(request.whole)
            return
        limit = self._limit(request)
        length = announced_length(request)
        if length is None:
            length = limit
        elif length > limit:
            raise TooLarge(f"a body of {length} bytes is announced; the limit for a file is {self._file_bytes_max}")
        self._memory.hold(length)
        request.held_bytes = length

    async def receive(self, request: Request) -> bytes:
        """Wait for the body. Slow, short and broken ones are refused by the connection."""
        limit = self._limit(request)
        return await receive_up_to(
            request, limit, f"the body has over {limit} bytes; the limit for a file is {self._file_bytes_max}"
        )

    def file_of(self, request: Request, body: bytes) -> bytes:
        """The file that a complete body brings: the form's file part, or the body itself."""
        request.received = len(body)
        if request.plain_path:
            return body
        headers = request.headers
        if "Content-Digest" in headers or "Content-MD5" in headers:
            check_digests(body, _whole(headers, "Content-Digest"), _whole(headers, "Content-MD5"))
        content_type = headers.get("Content-Type", "")
        if is_multipart_form(content_type):
            return file_in_form(body, content_type, self._file_bytes_max)
        if len(body) > self._file_bytes_max:
            raise TooLarge(f"the body has {len(body)} bytes; the limit for a file is {self._file_bytes_max}")
        return body

    def _limit(self, request: Request) -> int:
        if is_multipart_form(request.headers.get("Content-Type", "")):
            return self._file_bytes_max + ENVELOPE_BYTES_MAX
        return self._file_bytes_max


def _whole(headers: CIMultiDictProxy[str], name: str) -> str | None:
    """A header's value; of several lines all, as one list (RFC 9110, 5.3)."""
    lines = headers.getall(name, ())
    return ", ".join(lines) if lines else None
