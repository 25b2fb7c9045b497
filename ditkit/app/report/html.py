"""HTML whose text is escaped by construction: only what ``element`` made passes unescaped."""

from __future__ import annotations

import html


class Html(str):
    """Markup that is safe to place as it is; a plain ``str`` is text and gets escaped."""

    __slots__ = ()


_SHORT = 24
"""Letters of a table's cell that is not broken into lines, at most."""
_VOID = {"br", "img", "input", "link", "meta"}


def element(name: str, *children: str | None, **attributes: str | int | bool | None) -> Html:
    """An element. Children that are None are left out; plain strings are escaped.

    Attributes: a trailing underscore is dropped (``class_``), others become hyphens (``aria_label``); True gives
    the bare name, None and False leave the attribute out.
    """
    given = [(key.rstrip("_").replace("_", "-"), value) for key, value in attributes.items()]
    start = name + "".join(
        f" {key}" if value is True else f' {key}="{html.escape(str(value))}"'
        for key, value in given
        if value is not None and value is not False
    )
    return Html(f"<{start}>") if name in _VOID else Html(f"<{start}>{join(*children)}</{name}>")


def join(*children: str | None) -> Html:
    """The children one after another, plain strings escaped."""
    return Html("".join(c if isinstance(c, Html) else html.escape(c) for c in children if c is not None))


def table(head: list[str], rows: list[list[str]], *, caption: str) -> Html:
    """A table with column headers; the first cell of each row is the row's header. It scrolls sideways when narrow.

    A short cell, such as a number with its error, stays on one line.
    """
    body = [element("tr", element("th", row[0], scope="row"), *(_cell(cell) for cell in row[1:])) for row in rows]
    return scroller(
        element(
            "table",
            element("caption", caption),
            element("thead", element("tr", *(element("th", cell, scope="col") for cell in head))) if head else None,
            element("tbody", *body),
        ),
        label=caption,
    )


def _cell(text: str) -> Html:
    return element("td", text, class_="short" if len(text) <= _SHORT else "text")


def scroller(*children: str | None, label: str) -> Html:
    """A box that scrolls sideways by itself, so that the page never does; reachable by keyboard."""
    return element("div", *children, class_="scroller", tabindex=0, role="region", aria_label=label)
