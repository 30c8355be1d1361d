"""The live page that the web tier and the proxy's monitor show to browsers.

One document, complete in itself: style, scripts and icon are inside, so there is nothing to route, to cache or to
mix up between two versions of a server, and no other host is ever asked. It holds no figures; its script fetches
them from the document's own URL as JSON, over and over, and draws. What the script may do is nailed down by a
content security policy made of the hashes of exactly these texts.

The parts lie in `static`: `page.html` (shell), `page.css`, and the scripts in the order in which they build on one
another: `figures.js` (JSON to rates and a verdict; touches no document), `charts.js`, `page.js`.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from string import Template

_SCRIPTS = ("figures.js", "charts.js", "page.js")


@dataclass(frozen=True, slots=True)
class Page:
    """A rendered document and the headers that it must be served with (`Content-Type` among them)."""

    html: str
    headers: dict[str, str]


def render_page(name: str) -> Page:
    """Make the document called `name` (as in `status`)."""
    static = files("sfss.http").joinpath("static")
    style = static.joinpath("page.css").read_text("utf-8")
    script = "".join(static.joinpath(part).read_text("utf-8") for part in _SCRIPTS)
    shell = Template(static.joinpath("page.html").read_text("utf-8"))
    html = shell.substitute(name=escape(name), style=style, script=script)
    return Page(html, _headers(style, script))


def _headers(style: str, script: str) -> dict[str, str]:
    policy = (
        "default-src 'none'",
        f"style-src {_source_hash(style)}",
        f"script-src {_source_hash(script)}",
        "connect-src 'self'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
    )
    return {
        "Content-Type": "text/html; charset=utf-8",
        "Content-Security-Policy": "; ".join(policy),
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        # One URL, two answers: without these a browser's Back button may show the JSON in the page's place.
        "Cache-Control": "no-store",
        "Vary": "Accept",
    }


def _source_hash(text: str) -> str:
    """The CSP source expression that allows an inline element of exactly this text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
