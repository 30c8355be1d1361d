"""Find the one file in a multipart/form-data body (RFC 7578). Works on the whole body, which the caller has bounded.

The file is the part named `upload_file` or `file`, else the only part that has a file name. Its bytes are taken as they
are. Everything that is a matter of size has a limit, and everything doubtful is refused: storing the envelope, or
the wrong part, would be a silent loss.
"""

from __future__ import annotations

import re

from sfss.errors import BadRequest, TooLarge

PARTS_MAX = 16
HEAD_BYTES_MAX = 8 * 1024
BOUNDARY_CHARS_MAX = 70
"""RFC 2046, 5.1.1."""

FILE_NAMES = ("upload_file", "file")

_BOUNDARY = re.compile(r';\s*boundary=(?:"([^"\\]+)"|([^\s;"]+))', re.IGNORECASE)
_PARAMETER = re.compile(rb';\s*([A-Za-z*]+)=(?:"((?:[^"\\\r\n]|\\.)*)"|([^\s;"]+))')


def is_multipart_form(content_type: str) -> bool:
    """Whether a Content-Type announces a form with files."""
    return content_type.partition(";")[0].strip().lower() == "multipart/form-data"


def file_in_form(body: bytes, content_type: str, file_bytes_max: int) -> bytes:
    """The bytes of the form's file. Raises `BadRequest`, or `TooLarge` for a file over `file_bytes_max`."""
    delimiter = b"--" + _boundary_of(content_type)
    named: list[tuple[int, int]] = []
    unnamed: list[tuple[int, int]] = []
    for name, has_filename, start, end in _parts(body, delimiter):
        if name in FILE_NAMES:
            named.append((start, end))
        elif has_filename:
            unnamed.append((start, end))
    files = named or unnamed
    if not files:
        raise BadRequest("the form has no file; name its part upload_file or file")
    if len(files) > 1:
        raise BadRequest(f"the form has {len(files)} files; exactly one is needed")
    start, end = files[0]
    if end - start > file_bytes_max:
        raise TooLarge(f"the file has {end - start} bytes; the limit is {file_bytes_max}")
    return body[start:end]


def _boundary_of(content_type: str) -> bytes:
    match = _BOUNDARY.search(content_type)
    boundary = (match[1] or match[2]) if match else ""
    if not boundary:
        raise BadRequest("multipart/form-data without a boundary")
    if len(boundary) > BOUNDARY_CHARS_MAX or not boundary.isascii():
        raise BadRequest(f"the boundary is longer than {BOUNDARY_CHARS_MAX} characters or not ASCII")
    return boundary.encode()


def _parts(body: bytes, delimiter: bytes) -> list[tuple[str, bool, int, int]]:
    """The parts in order: name, whether it has a file name, and where its bytes start and end."""
    parts: list[tuple[str, bool, int, int]] = []
    position = _after_first_delimiter(body, delimiter)
    while True:
        after = body[position : position + 2]
        if after == b"--":
            if body[position + 2 :].partition(b"\r\n")[0].strip(b" \t"):
                raise BadRequest("the form's last boundary is not followed by a line end")
            return parts
        line_end = body.find(b"\r\n", position, position + HEAD_BYTES_MAX)
        if line_end < 0 or body[position:line_end].strip(b" \t"):
            raise BadRequest("a boundary of the form is not followed by a line end")
        if len(parts) == PARTS_MAX:
            raise BadRequest(f"the form has more than {PARTS_MAX} parts")
        # The line end before the head may also be the blank line after it: a part without headers.
        head_end = body.find(b"\r\n\r\n", line_end, line_end + HEAD_BYTES_MAX)
        if head_end < 0:
            raise BadRequest(f"a part's headers have no end within {HEAD_BYTES_MAX} bytes")
        start = head_end + 4
        end = body.find(b"\r\n" + delimiter, head_end + 2)
        if end < 0:
            raise BadRequest("the form is cut off: its last boundary is missing")
        name, has_filename = _disposition(body[line_end:head_end])
        parts.append((name, has_filename, start, max(start, end)))
        position = end + 2 + len(delimiter)


def _after_first_delimiter(body: bytes, delimiter: bytes) -> int:
    if body.startswith(delimiter):
        return len(delimiter)
    found = body.find(b"\r\n" + delimiter, 0, HEAD_BYTES_MAX)
    if found < 0:
        raise BadRequest("the form does not begin with its boundary")
    return found + 2 + len(delimiter)


def _disposition(head: bytes) -> tuple[str, bool]:
    """The name of a part, and whether it has a file name. Nested multiparts are refused: nothing sends them."""
    name, has_filename = "", False
    for line in head.split(b"\r\n"):
        header, _, value = line.partition(b":")
        header = header.strip().lower()
        if header == b"content-disposition":
            for parameter, quoted, token in _PARAMETER.findall(value):
                if parameter.lower() == b"name":
                    name = (quoted or token).decode("utf-8", "replace")
                elif parameter.lower() in (b"filename", b"filename*"):
                    has_filename = True
        elif header == b"content-type" and value.strip().lower().startswith(b"multipart/"):
            raise BadRequest("the form has a multipart inside of a part")
        elif header == b"content-transfer-encoding" and value.strip().lower() not in (b"binary", b"8bit", b"7bit"):
            raise BadRequest("a part has a Content-Transfer-Encoding; send its bytes as they are")
    return name, has_filename
