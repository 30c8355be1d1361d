"""sfss's own form of mg, ms and md: the lines that our client sends and our servers read on every request.

They are ordinary meta commands with the flags of docs/wire.rst in one fixed order, so that each side can take the
other's line apart with one pattern. Both sides' formats stand here next to their patterns. Any other order means the
same and takes the long way (`commands.meta_get` and its neighbours); servers answer both alike.
"""

from __future__ import annotations

import re

_KEY = rb"([^\x00-\x20\x7f?@][^\x00-\x20\x7f]{0,249})"
_TAIL = rb"(?: G([0-9]{1,9}))?(?: U([0-9]{1,9}))?(?: O([!-~]{1,32}))?\r\n"

MG = re.compile(rb"mg " + _KEY + rb"( v)? s f A V H( Y)?" + _TAIL)
"""Groups: key, ` v` for a get, ` Y` for raw records, ring, milliseconds, opaque."""

MS = re.compile(
    rb"ms " + _KEY + rb" ([0-9]{1,8}) F([0-9]{1,10}) A([0-9]{1,12}) V([0-9]{0,19}) H((?:[0-9a-f]{16})?) B( Q)?" + _TAIL
)
"""Groups: key, size, flags, expiry, version, checksum (both empty where unstamped), ` Q` where others may write
the key, ring, milliseconds, opaque."""

MD = re.compile(rb"md " + _KEY + rb"(?: A([0-9]{1,12}))? V([0-9]{0,19}) H((?:[0-9a-f]{16})?) B( Q)?" + _TAIL)
"""Groups: key, expiry (none for an unstamped delete), version, checksum, ` Q`, ring, milliseconds, opaque."""

FOUND = re.compile(
    rb"(?:VA ([0-9]{1,8})|HD) s([0-9]{1,8}) f([0-9]{1,10}) A([0-9]{1,12}) V([0-9]{1,20}) H([0-9a-f]{16})"
    rb"( Yv| Yt)?(?: O([!-~]{1,32}))?\r\n"
)
"""The answer to MG where there is a record; `MISSED` where there is none. Groups: block length (None for HD), size,
flags, expiry, version, checksum, kind, opaque."""

WRITTEN = re.compile(rb"(HD|NS) V([0-9]{1,20}) H([0-9a-f]{16}) B([0-9]{1,3})/([0-9]{1,3})(?: O([!-~]{1,32}))?\r\n")
"""The answer to a write. Groups: code, version, checksum, durable, copies, opaque."""

MISSED = re.compile(rb"EN(?: O([!-~]{1,32}))?\r\n")
"""The answer to MG where there is none. Group: opaque."""
