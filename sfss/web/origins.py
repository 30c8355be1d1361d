"""Which web pages may write.

Whoever reaches the port can write, by design. A browser reaches it for any page that its user opens: also a port on
the loopback interface, where nobody else does, and forms and `fetch` send a file there without asking first. So a write
that a browser marks as another site's is refused. Programs that aren't browsers send neither of these headers.

A page's own server can have its name lead to 127.0.0.1, and then `Origin` and `Host` are the same name. So a page is
our own only where both are an address, or localhost; other names are to be configured.

The same address by another scheme is another site: what comes by http:// may have been changed on its way. Where this
server speaks TLS the scheme is known. Behind one that does, it isn't, and either is taken; but there a browser says
itself whether the page is from where it sends the write (`Sec-Fetch-Site`, which it tells to https:// and localhost).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Final

from multidict import istr

from sfss.web.errors import Refused
from sfss.web.requests import Request

_ORIGIN: Final = istr("Origin")
_SITE: Final = istr("Sec-Fetch-Site")
_HOST: Final = istr("Host")
_OWN_SITE: Final = ("same-origin", "none")
"""`none` is what a person typed, or a bookmark."""


class Origins:
    """Pages from here and those of `allowed` (as `https://files.example.com`) may write; with `*` all."""

    def __init__(self, allowed: Iterable[str]) -> None:
        self._allowed = frozenset(allowed)
        self._all = "*" in self._allowed

    def check(self, request: Request) -> None:
        """Refuse (403) a write that some other page has a browser send."""
        headers = request.headers
        origin = headers.get(_ORIGIN)
        site = headers.get(_SITE)
        if (origin is None and site is None) or self._all or origin in self._allowed:
            return
        if site is None or site.strip().lower() in _OWN_SITE:
            if origin is None or _is_own(origin, headers.get(_HOST, ""), request.connection.tls):
                return
        elif origin is None:
            origin = f"another site ({site[:20]})"
        raise Refused(
            403,
            "foreign_page",
            f"a web page of {origin[:200]} has a browser send this; pages that may write are named in ORIGINS",
            close=True,
        )


def _is_own(origin: str, host: str, tls: bool) -> bool:
    scheme, _, authority = origin.lower().partition("://")
    known = scheme == "https" or (scheme == "http" and not tls)
    return known and authority == host.strip().lower() and _is_address(authority)


def _is_address(authority: str) -> bool:
    name = authority.lower()
    if not name.endswith("]"):
        head, colon, port = name.rpartition(":")
        name = head if colon and port.isdigit() else name
    if name == "localhost":
        return True
    try:
        ipaddress.ip_address(name.removeprefix("[").removesuffix("]"))
    except ValueError:
        return False
    return True
