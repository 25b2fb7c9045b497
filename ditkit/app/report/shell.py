"""The frame of a page that stands alone: head, style, and a policy that keeps the browser from loading anything."""

from __future__ import annotations

from importlib import resources

from ditkit.app.report import series
from ditkit.app.report.html import Html, element, join

_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""The browser itself refuses whatever is not in the file: no scripts, no addresses."""


def page(title: str, *body: str | None) -> Html:
    """One HTML page, without scripts or external resources; title and plain strings of the body are escaped."""
    style = resources.files("ditkit.app.report").joinpath("style.css").read_text(encoding="utf-8")
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name_="color-scheme", content="light dark"),
        element("title", title),
        element("style", Html(series.style() + style)),
    )
    return join(Html("<!doctype html>\n"), element("html", head, element("body", *body), lang="en"), Html("\n"))
