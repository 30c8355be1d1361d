"""The certificate and the versions of TLS."""

from __future__ import annotations

import ssl


def tls_context(certificate: str, key: str) -> ssl.SSLContext:
    """TLS 1.2 and up with the system's defaults. Raises `OSError` (of which `ssl.SSLError` is one)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.load_cert_chain(certificate, key)
    return context
