"""Addresses and reasons as people read them."""

from __future__ import annotations

import errno
import os
import socket

import pytest

from sfss.addresses import host_and_port, reason_of
from sfss.process import refusal


@pytest.mark.parametrize(
    ("host", "written"), [("localhost", "localhost:80"), ("127.0.0.1", "127.0.0.1:80"), ("::1", "[::1]:80")]
)
def test_an_ipv6_host_stands_in_brackets(host: str, written: str) -> None:
    assert host_and_port(host, 80) == written
    assert f"{written} is in use" in str(refusal(OSError(errno.EADDRINUSE, ""), host, 80, "--port"))


def test_a_reason_is_the_systems_words_without_numbers_or_the_address() -> None:
    refused = os.strerror(errno.ECONNREFUSED)

    assert reason_of(OSError(errno.ECONNREFUSED, "Connect call failed ('127.0.0.1', 1)")) == refused
    assert reason_of(socket.gaierror(socket.EAI_NONAME, "Name or service not known")) == "Name or service not known"
    assert reason_of(OSError("no address")) == "no address"
