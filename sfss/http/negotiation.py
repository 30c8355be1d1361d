"""Which of two answers a client wants at one URL: the page for people or the JSON for programs."""

from __future__ import annotations


def prefers_html(accept: str) -> bool:
    """Whether an `Accept` header asks for HTML rather than JSON. RFC 9110, section 12.5.1.

    A tie, a missing header and `*/*` alone mean JSON: that is what programs send, and browsers always name
    `text/html`. A quality that can't be read counts as 0.
    """
    return _quality(accept, "text", "html") > _quality(accept, "application", "json")


def _quality(accept: str, kind: str, subkind: str) -> float:
    """The quality (0 … 1) that the most specific range of the header gives to `kind/subkind`."""
    best_specificity, quality = -1, 0.0
    for item in accept.split(","):
        media_range, *parameters = (part.strip().lower() for part in item.split(";"))
        specificity = {"*/*": 0, f"{kind}/*": 1, f"{kind}/{subkind}": 2}.get(media_range, -1)
        if specificity > best_specificity:
            best_specificity, quality = specificity, _weight(parameters)
    return quality


def _weight(parameters: list[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return min(max(float(value), 0.0), 1.0)
            except ValueError:
                return 0.0
    return 1.0
