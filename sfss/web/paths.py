"""From a request's raw query to the path that it names.

The query is decoded exactly once, here, and strictly: two requests name the same file only when they mean the same
path. What makes a path allowed is `sfss.keys.check_path`.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote_to_bytes

from sfss.errors import BadRequest
from sfss.keys import check_path

_BAD_ESCAPE: Final = re.compile("%(?![0-9A-Fa-f]{2})")


def path_of(query: str) -> str:
    """The checked path that a raw query such as `path=a/b%20c` names. Raises `BadRequest` for anything doubtful."""
    paths = _values_of_path(query)
    if not paths:
        raise BadRequest("the query has no path; say ?path=folder/file")
    if len(paths) > 1:
        raise BadRequest(f"the query has {len(paths)} paths; exactly one is needed")
    path = _decoded(paths[0])
    check_path(path)
    return path


def _values_of_path(query: str) -> list[str]:
    if query.startswith("path=") and "&" not in query:  # what nearly every request looks like
        return [query[5:]]
    values = []
    for piece in query.split("&"):
        name, _, value = piece.partition("=")
        # `p%61th` is `path` to many a server in front of this one, so it counts as a repetition here too.
        if name == "path" or ("%" in name and unquote_to_bytes(name) == b"path"):
            values.append(value)
    return values


def _decoded(text: str) -> str:
    if "%" not in text and "+" not in text and text.isascii():
        return text
    if _BAD_ESCAPE.search(text):
        raise BadRequest("path has a % that two hexadecimal digits don't follow")
    try:
        return unquote_to_bytes(text.replace("+", " ")).decode()
    except UnicodeError:
        raise BadRequest("path is not UTF-8") from None
