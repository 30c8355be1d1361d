"""Which web pages may write."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from multidict import CIMultiDict

from sfss.errors import SetupError
from sfss.settings import load_settings
from sfss.web.errors import Refused
from sfss.web.origins import Origins

FILES = "https://files.example.com"


def written(allowed: tuple[str, ...] = (), *, tls: bool = False, **headers: str) -> bool:
    """Whether a write with these headers is let through; with `tls`, by a server that speaks it."""
    fields = CIMultiDict({name.replace("_", "-"): value for name, value in headers.items()})
    request: Any = SimpleNamespace(headers=fields, connection=SimpleNamespace(tls=tls))
    try:
        Origins(allowed).check(request)
    except Refused as refused:
        return refused.name != "foreign_page"
    return True


def test_programs_that_are_no_browsers_write() -> None:
    assert written(Host="127.0.0.1:8255")
    assert written(Host="files.example.com")
    assert written()


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8255", "localhost:8255", "localhost", "[::1]:8255", "[::1]", "10.0.0.7", "LOCALHOST:1"]
)
def test_a_page_from_the_same_address_writes(host: str) -> None:
    assert written(Origin=f"http://{host.lower()}", Host=host, Sec_Fetch_Site="same-origin")


@pytest.mark.parametrize(
    ("origin", "host"),
    [
        ("http://evil.example", "127.0.0.1:8255"),
        ("null", "127.0.0.1:8255"),
        ("", "127.0.0.1:8255"),
        ("http://127.0.0.1:8000", "127.0.0.1:8255"),
        ("http://localhost:8255", "127.0.0.1:8255"),
        ("http://127.0.0.1:8255.evil.example", "127.0.0.1:8255"),
        ("http://evil.example:8255", "evil.example:8255"),  # a name that was made to lead here
        ("http://1.example:8255", "1.example:8255"),
        ("chrome-extension://abc", "127.0.0.1:8255"),
        ("other://127.0.0.1:8255", "127.0.0.1:8255"),
    ],
)
def test_any_other_page_does_not(origin: str, host: str) -> None:
    assert not written(Origin=origin, Host=host)


@pytest.mark.parametrize("address", ["127.0.0.1", "localhost:8255", "[::1]"])
def test_a_page_that_came_without_tls_does_not_write_by_it(address: str) -> None:
    assert written(tls=True, Origin=f"https://{address}", Host=address)
    assert not written(tls=True, Origin=f"http://{address}", Host=address)
    assert written((f"http://{address}",), tls=True, Origin=f"http://{address}", Host=address)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_behind_a_server_that_speaks_tls_the_browser_says_whether_the_scheme_is_the_same(scheme: str) -> None:
    origin = f"{scheme}://10.0.0.7"

    assert written(Origin=origin, Host="10.0.0.7", Sec_Fetch_Site="same-origin")
    assert not written(Origin=origin, Host="10.0.0.7", Sec_Fetch_Site="cross-site")
    assert written((origin,), Origin=origin, Host="10.0.0.7", Sec_Fetch_Site="cross-site")


@pytest.mark.parametrize("site", ["cross-site", "same-site", "Cross-Site", "new-word"])
def test_a_browser_that_only_tells_the_site_is_believed(site: str) -> None:
    assert not written(Host="127.0.0.1:8255", Sec_Fetch_Site=site)
    assert written(("*",), Host="127.0.0.1:8255", Sec_Fetch_Site=site)


def test_a_person_who_types_an_address_is_no_other_page() -> None:
    assert written(Host="127.0.0.1:8255", Sec_Fetch_Site="none")


def test_configured_pages_write() -> None:
    assert written((FILES,), Origin=FILES, Host="files.example.com")
    assert not written((FILES,), Origin="http://files.example.com", Host="files.example.com")
    assert written(("*",), Origin="http://evil.example", Host="127.0.0.1:8255")


def test_origins_are_configured_as_browsers_tell_them() -> None:
    assert load_settings(None, {"SFSS_ORIGINS": f"{FILES}, HTTP://A:1"}).origins == (FILES, "http://a:1")
    for wrong in ("files.example.com", "https://a/b", "://a", "https://"):
        with pytest.raises(SetupError, match="SFSS_ORIGINS"):
            load_settings(None, {"SFSS_ORIGINS": wrong})
