"""The live page as a text: complete in itself, allowing nothing beyond itself, readable by everybody."""

from __future__ import annotations

import base64
import hashlib
import re

import pytest

from sfss.http.page import Page, render_page
from sfss.web.status_page import status_page

CONTRAST_OF_TEXT_MIN = 4.5
"""WCAG 2.2, AA, for text of ordinary size."""


@pytest.fixture(scope="module")
def page() -> Page:
    return render_page("status")


def inside(page: Page, tag: str) -> str:
    found = re.findall(rf"<{tag}>(.*?)</{tag}>", page.html, re.DOTALL)
    assert len(found) == 1
    return str(found[0])


def test_nothing_in_the_page_names_another_host(page: Page) -> None:
    addresses = set(re.findall(r"(?:https?:)?//[a-z0-9][\w.-]*\.[a-z]{2,}[\w/.-]*", page.html))

    assert addresses == {"http://www.w3.org/2000/svg"}  # the name of a namespace, which nobody asks for


def test_the_policy_allows_this_script_and_this_style_and_nothing_else(page: Page) -> None:
    policy = page.headers["Content-Security-Policy"]

    for tag in ("script", "style"):
        digest = base64.b64encode(hashlib.sha256(inside(page, tag).encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    assert "http" not in policy


def test_the_script_makes_no_markup_out_of_text(page: Page) -> None:
    script = inside(page, "script")

    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function", script)
    assert "<!--" not in script


def test_no_handler_or_style_stands_in_an_attribute(page: Page) -> None:
    markup = page.html.replace(inside(page, "script"), "").replace(inside(page, "style"), "")

    assert not re.search(r"<[^>]*\s(on\w+|style)=", markup)


def test_a_name_is_text_and_not_markup() -> None:
    html = render_page('<img src=x onerror="alert(1)">$style').html

    assert "<img" not in html
    assert "&lt;img src=x onerror=&quot;alert(1)&quot;&gt;$style" in html


def test_the_page_has_landmarks_a_language_and_a_polite_live_region(page: Page) -> None:
    for part in ('<html lang="en">', "<header>", '<main id="main">', "<footer>", 'aria-live="polite"', "<noscript>"):
        assert part in page.html
    assert "width=device-width, initial-scale=1" in page.html
    assert "user-scalable" not in page.html


def test_the_page_is_never_kept_in_place_of_the_figures(page: Page) -> None:
    assert page.headers["Cache-Control"] == "no-store"
    assert page.headers["Vary"] == "Accept"
    assert page.headers["X-Content-Type-Options"] == "nosniff"
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"


def test_the_status_page_is_made_once() -> None:
    assert status_page() is status_page()


def luminance(colour: str) -> float:
    """Relative luminance of `#rrggbb`. WCAG 2.2, definitions."""
    channels = [int(colour[index : index + 2], 16) / 255 for index in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(
    ("text", "ground"),
    [
        ("ink", "ground"),
        ("ink", "surface"),
        ("muted", "ground"),
        ("muted", "surface"),
        ("muted", "bad-tint"),
        ("bad", "bad-tint"),
        ("bad", "ground"),
        ("warn", "warn-tint"),
        ("ink", "warn-tint"),
        ("first", "surface"),
        ("second", "surface"),
        ("ok", "surface"),
    ],
)
def test_every_pair_of_colours_can_be_read(page: Page, scheme: str, text: str, ground: str) -> None:
    light, dark = re.findall(r":root \{(.*?)\}", inside(page, "style"), re.DOTALL)
    colours = dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", light if scheme == "light" else dark))

    assert contrast(colours[text], colours[ground]) >= CONTRAST_OF_TEXT_MIN
