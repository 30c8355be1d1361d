"""Who gets the page and who the JSON, by `Accept`."""

from __future__ import annotations

import pytest

from sfss.http.negotiation import prefers_html

CHROMIUM = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8"


@pytest.mark.parametrize("accept", [CHROMIUM, "text/html", "text/*", "application/json;q=0.5, text/html", "TEXT/HTML"])
def test_a_browser_gets_the_page(accept: str) -> None:
    assert prefers_html(accept)


@pytest.mark.parametrize(
    "accept",
    [
        "",
        "*/*",
        "application/json",
        "application/json, text/html",
        "text/html;q=0.4, application/json;q=0.6",
        "text/html;q=0, */*",
        "text/html;q=nonsense, application/json;q=0.1",
        "image/png",
        ";;,,q=1",
    ],
)
def test_a_program_gets_the_json(accept: str) -> None:
    assert not prefers_html(accept)


def test_a_quality_beyond_its_range_is_cut_to_it() -> None:
    assert not prefers_html("text/html;q=9, application/json")
    assert not prefers_html("text/html;q=nan, application/json;q=0.1")
