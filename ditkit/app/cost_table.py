"""Floor 5: costs as text: a tree of modules, and what is done with the network."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

from ditkit.app.spending import Work
from ditkit.nn.cost import Cost

HEADS = ("module", "kind", "parameters", "multiply-adds", "share", "activations")


def tree(whole: Cost, depth: int) -> str:
    """The modules down to ``depth`` below the network; neighbours that cost the same share a line, and its sums."""
    rows = [HEADS, *_rows([whole], whole, 0, depth)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(HEADS))]
    return "\n".join(
        "  ".join(
            cell.ljust(w) if i < 2 else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def _rows(alike: Sequence[Cost], whole: Cost, level: int, depth: int) -> Iterator[tuple[str, ...]]:
    first, n = alike[0], len(alike)
    names = [module.name.rpartition(".")[2] for module in alike]
    name = (names[0] if n == 1 else f"{names[0]}..{names[-1]}") or "(the network)"
    yield (
        "  " * level + name,
        first.kind if n == 1 else f"{n} {first.kind}",
        f"{n * first.parameters:,}",
        amount(n * first.multiply_adds),
        f"{n * first.multiply_adds / whole.multiply_adds:.1%}" if whole.multiply_adds else "",
        amount(n * first.activations),
    )
    if level < depth:
        columns = zip(*(module.parts for module in alike), strict=True)
        for _, group in groupby(columns, key=lambda column: _size(column[0])):
            yield from _rows([module for column in group for module in column], whole, level + 1, depth)


def _size(module: Cost) -> tuple[object, ...]:
    shape = tuple(_size(part) for part in module.parts)
    return (module.kind, module.parameters, module.multiply_adds, module.norms, module.activations, shape)


def work(done: Work) -> str:
    """What is done with the network: each item's times and multiply-adds, their sum, and larger amounts."""
    head = f"{done.name}, for an image" + (f" ({done.said})" if done.said else "")
    rows = [(item.what, f"{item.times:,g} x", amount(item.multiply_adds), amount(item.total)) for item in done.items]
    rows += [("in all", "", "", amount(done.total))] * (len(rows) > 1)
    rows += [(f"for {what}", "", "", amount(images * done.total)) for what, images in done.larger.items()]
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = [
        f"  {row[0]:<{widths[0]}}  {row[1]:>{widths[1]}}  {row[2]:>{widths[2]}}  {row[3]:>{widths[3]}}" for row in rows
    ]
    return "\n".join([head, *lines])


_UNITS = ("", " k", " M", " G", " T", " P", " E", " Z")


def amount(value: float) -> str:
    """A number with a unit of thousands, to four digits: 118.6 G."""
    power = 0
    while abs(value) >= 999.95 and power < len(_UNITS) - 1:
        value, power = value / 1000, power + 1
    return f"{value:.0f}" if not power and value == int(value) else f"{value:.4g}{_UNITS[power]}"
