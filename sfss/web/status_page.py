"""The page that `GET /status` shows to browsers; programs get the same figures as JSON at the same URL."""

from __future__ import annotations

from functools import cache

from sfss.http.page import Page, render_page


@cache
def status_page() -> Page:
    """The document and the headers to serve it with; the same for every request, so made once."""
    return render_page("status")
