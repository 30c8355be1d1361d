"""How a client gets in: the user and password that it gives first, and TLS.

Memcached's ASCII authentication: the first `set` of a connection carries user and password for a value, under any key.
A server that asks for none would store it. So the key is one that our servers refuse, and the value one that has
expired when it arrives: nobody can ever read it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from sfss.tls import Tls

AUTHENTICATION_KEY = b"@authentication"


@dataclass(frozen=True, slots=True)
class Access:
    """`words` are user, blank, password; empty where none are given. `tls` is None for plain connections, else gives
    what a new one speaks."""

    words: bytes = field(default=b"", repr=False)
    tls: Tls | None = None

    @property
    def request(self) -> bytes:
        """The first request of a connection."""
        return b"set %b 0 -1 %d\r\n%b\r\n" % (AUTHENTICATION_KEY, len(self.words), self.words)

    def stream_options(self, host: str) -> dict[str, Any]:
        """What `asyncio.open_connection` wants to know besides the address."""
        return {} if self.tls is None else {"ssl": self.tls(), "server_hostname": host}


OPEN = Access()
"""Nothing is asked for."""
