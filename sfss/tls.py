"""TLS: which versions, whose certificates. One set of rules for HTTP and for what the tiers say to one another.

Every file is PEM; a certificate's file has its chain, too. All of it is read once, at start.
"""

from __future__ import annotations

import ssl

from sfss.errors import SetupError


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
