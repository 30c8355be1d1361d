"""The files by which tiers trust one another, as they are configured, and what servers and clients make of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sfss.errors import SetupError
from sfss.memcache.access import Access
from sfss.secret import Secret, read_secret
from sfss.tls import Tls, client_tls, server_tls


@dataclass(frozen=True, slots=True)
class Trust:
    """Names of files; empty where there is none.

    A server with a `certificate` and its `key` speaks TLS, and with an `authority` only to clients that show a
    certificate which that one signed. A client with an `authority` speaks TLS, to servers whose certificate that one
    signed, and shows `certificate` where it is asked for one. With `plain_too` a server takes connections without TLS
    as well, while its clients are turned to it.
    """

    secret: str = ""
    certificate: str = ""
    key: str = ""
    authority: str = ""
    plain_too: bool = False

    def door(self) -> tuple[Secret | None, Tls | None]:
        """What a server asks for, and what TLS it speaks. Raises `SetupError`."""
        tls = None
        if self.certificate or self.key or self.authority or self.plain_too:
            if not (self.certificate and self.key):
                raise SetupError("TLS needs a certificate and its key: tlscert and tlskey")
            tls = server_tls(self.certificate, self.key, self.authority)
        return read_secret(Path(self.secret)) if self.secret else None, tls

    def access(self) -> Access:
        """What a client gives, and what TLS it speaks. Raises `SetupError`."""
        tls = None
        if self.certificate or self.key or self.authority:
            if not self.authority:
                raise SetupError("TLS needs the authority that signed the servers' certificates: tlsca")
            if bool(self.certificate) is not bool(self.key):
                raise SetupError("a certificate and its key go together: tlscert and tlskey")
            tls = client_tls(self.authority, self.certificate, self.key)
        return Access(read_secret(Path(self.secret)).words if self.secret else b"", tls)
