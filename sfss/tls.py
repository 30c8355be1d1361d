"""TLS: which versions, whose certificates. One set of rules for HTTP and for what the tiers say to one another.

Every file is PEM; a certificate's file has its chain, too. All of it is read at start, and again for a new connection
where a file has changed since: certificates are renewed while everything runs. Connections that are there go on.
"""

from __future__ import annotations

import logging
import os
import ssl
import time
from collections.abc import Callable
from functools import partial
from typing import TypeAlias

from sfss.errors import SetupError

LOOK_S = 1.0
"""How often the files are looked at, at most."""

_log = logging.getLogger("sfss.tls")

Tls: TypeAlias = Callable[[], ssl.SSLContext]
"""What TLS a new connection speaks."""


def server_tls(certificate: str, key: str, authority: str = "") -> Tls:
    """`server_context` of these files as they are now. Raises `SetupError` if it can't be made at first."""
    return Renewed(partial(server_context, certificate, key, authority), (certificate, key, authority))


def client_tls(authority: str, certificate: str = "", key: str = "") -> Tls:
    """`client_context` of these files as they are now. Raises `SetupError` if it can't be made at first."""
    return Renewed(partial(client_context, authority, certificate, key), (authority, certificate, key))


class Renewed:
    """What `make` makes of `files`, made anew when one of them has changed.

    Files change one after the other. Where they don't fit together, or one is half there, what was made before stays in
    use until the next change.
    """

    def __init__(self, make: Tls, files: tuple[str, ...], *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._make = make
        self._files = tuple(file for file in files if file)
        self._monotonic = monotonic
        self._seen = self._look()
        self._look_at = monotonic() + LOOK_S
        self._context = make()

    def __call__(self) -> ssl.SSLContext:
        now = self._monotonic()
        if now >= self._look_at:
            self._look_at = now + LOOK_S
            seen = self._look()
            if seen != self._seen:
                self._seen = seen
                self._renew()
        return self._context

    def _renew(self) -> None:
        try:
            self._context = self._make()
        except SetupError as error:
            _log.warning("%s; what was read before stays in use", error)
        else:
            _log.info("read anew for TLS: %s", ", ".join(self._files))

    def _look(self) -> list[tuple[int, int, int] | None]:
        return [_state_of(file) for file in self._files]


def _state_of(file: str) -> tuple[int, int, int] | None:
    try:
        found = os.stat(file)
    except OSError:
        return None
    return (found.st_mtime_ns, found.st_size, found.st_ino)


def server_context(certificate: str, key: str, authority: str = "") -> ssl.SSLContext:
    """For a server with `certificate`. With an `authority`, clients must show a certificate that it signed.
    Raises `SetupError`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _identify(context, certificate, key)
    if authority:
        context.verify_mode = ssl.CERT_REQUIRED
        _trust(context, authority)
    return context


def client_context(authority: str, certificate: str = "", key: str = "") -> ssl.SSLContext:
    """For a client that trusts servers whose certificate `authority` signed, for the host name or address that they are
    called by. `certificate` is shown to servers that ask for one. Raises `SetupError`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    _trust(context, authority)
    if certificate:
        _identify(context, certificate, key)
    return context


def _identify(context: ssl.SSLContext, certificate: str, key: str) -> None:
    try:
        context.load_cert_chain(certificate, key)
    except OSError as error:  # ssl.SSLError is one
        raise SetupError(f"can't use {certificate} and {key}: {error.strerror or error}") from None


def _trust(context: ssl.SSLContext, authority: str) -> None:
    try:
        context.load_verify_locations(cafile=authority)
    except OSError as error:
        raise SetupError(f"can't use {authority}: {error.strerror or error}") from None
