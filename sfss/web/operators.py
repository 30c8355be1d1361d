"""Who may ask for what is of operators: metrics, and where a file lives. The rest of the web tier is for everybody.

By default that is this machine. An address proves nothing once a request has come through a server in front: to the web
tier all of them come from that one. So a request that says it was passed on is nobody's, wherever it comes from.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

from sfss.settings import Network
from sfss.web.errors import Refused
from sfss.web.requests import Request

_PASSED_ON = ("Forwarded", "X-Forwarded-For", "X-Real-IP", "Via")


class Operators:
    """Those who ask from one of `networks`."""

    def __init__(self, networks: Sequence[Network]) -> None:
        self._networks = tuple(networks)

    def check(self, request: Request) -> None:
        """Refuse (403) whoever isn't one of them."""
        if any(name in request.headers for name in _PASSED_ON):
            raise Refused(
                403, "operators_only", f"{request.path} is for operators: ask this server itself, not a proxy"
            )
        host = request.connection.client_host
        if not self._knows(host):
            raise Refused(403, "operators_only", f"{request.path} is for operators, and {host} is none (OPERATORS)")

    def _knows(self, host: str) -> bool:
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            return False
        if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        return any(address in network for network in self._networks)
