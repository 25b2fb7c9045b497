"""Floor 5: what ``ditkit data check`` found, as lines of text, as JSON and as a contact sheet."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from ditkit.app.pictures import enlarged, grid
from ditkit.data.check import Findings
from ditkit.data.decode import Bad, Decoder
from ditkit.data.layout import some

COLUMNS, ROWS = 10, 10
_NAMED = 10
_LARGEST = 96
"""Pixels of the longer side of a picture on the contact sheet at most; small ones are enlarged in whole steps."""


def lines(found: Findings) -> Iterator[str]:
    """What was found, at most ten names of each kind."""
    source = found.source
    yield f"{source.spec}: {_images(len(source))}, {_share(len(found.good), len(source))} decode"
    if found.good:
        yield from _table(found)
    names = source.name
    yield from _named(
        "does not decode" if len(found.bad) == 1 else "do not decode",
        [f"{bad.name}: {bad.reason}" for _, bad in found.bad],
    )
    yield from _named("suspicious", [f"{names(row)}: {why}" for row, why in found.suspicious])
    for title, groups in (("exact duplicates", found.same), ("near duplicates", found.alike)):
        more = sum(len(group) - 1 for group in groups)
        shown = [" = ".join(_some([names(row) for row in group])) for group in groups]
        yield from _named(f"group{'s' * (len(groups) > 1)} of {title} ({_images(more)} too many)", shown)


def _table(found: Findings) -> Iterator[str]:
    sizes = Counter({f"{height}x{width}": count for (height, width), count in found.sizes.items()})
    colours = Counter({"grey" if channels == 1 else "colour": count for channels, count in found.channels.items()})
    heights, widths = zip(*found.sizes, strict=True)
    yield f"sizes        {_counts(sizes)} (height x width)"
    if len(sizes) > 1:
        yield f"             height {_range(heights)}, width {_range(widths)} pixels"
    yield f"stored as    {_counts(found.kinds)}"
    yield f"colours      {_counts(colours)}"
    if found.per_class:
        yield f"classes      {len(found.per_class):,}: {_counts(Counter(found.per_class))}"
        yield f"balance      {_balance(found.per_class)}"
    channels = "grey" if len(found.mean) == 1 else "R, G, B"
    ground = ", what is transparent laid on white" if found.alpha else ""
    yield f"mean         {_row(found.mean)} ({channels}, as shares of 1, over all pixels{ground})"
    yield f"deviation    {_row(found.std)}"
    if found.alpha:
        alpha = found.alpha
        having = _share(alpha.images, len(found.good))
        yield f"alpha        {having} have it: mean {alpha.mean:.4f}, deviation {alpha.std:.4f} (0: transparent)"
    captions = found.source.captions
    if captions is not None:
        having = sum(bool(captions[row]) for row in found.good)
        yield f"captions     {_share(having, len(found.good))} have one"


def _images(count: int) -> str:
    return "1 image" if count == 1 else f"{count:,} images"


def _share(count: int, total: int) -> str:
    return "all" if count == total else f"{count:,} of {total:,}"


def _range(numbers: Sequence[int]) -> str:
    least, most = min(numbers), max(numbers)
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"


def _balance(per_class: Mapping[str, int]) -> str:
    least, most = min(per_class.values()), max(per_class.values())
    if least == most:
        return f"{_images(most)} in each class"
    if not least:
        return f"none in {some([name for name, count in per_class.items() if not count])}, up to {_images(most)}"
    return f"{least:,} to {_images(most)} per class: the largest is {most / least:.3g} times the smallest"


def _counts(counter: Counter[str], most: int = 5) -> str:
    shown = ", ".join(f"{name} ({count:,})" for name, count in counter.most_common(most))
    return shown + (f", ... ({len(counter):,} in all)" if len(counter) > most else "")


def _row(values: Sequence[float]) -> str:
    return " ".join(f"{value:.4f}" for value in values)


def _some(names: Sequence[str]) -> list[str]:
    return [*names[:_NAMED], *([f"... ({len(names):,} in all)"] if len(names) > _NAMED else [])]


def _named(title: str, rows: Sequence[str]) -> Iterator[str]:
    if rows:
        yield f"{len(rows):,} {title}:"
        yield from (f"  {row}" for row in _some(rows))


def as_json(found: Findings) -> dict[str, Any]:
    """All that was found, every name of it, as JSON values."""
    name = found.source.name
    return {
        "source": found.source.spec,
        "fingerprint": found.source.fingerprint(),
        "images": len(found.source),
        "decode": len(found.good),
        "sizes": [{"height": h, "width": w, "images": count} for (h, w), count in found.sizes.most_common()],
        "stored_as": dict(found.kinds.most_common()),
        "channels": {str(channels): count for channels, count in found.channels.most_common()},
        "classes": found.per_class,
        "mean": list(found.mean),
        "std": list(found.std),
        "alpha": None if found.alpha is None else dataclasses.asdict(found.alpha),
        "skipped": [{"name": bad.name, "reason": bad.reason} for _, bad in found.bad],
        "suspicious": [{"name": name(row), "reason": why} for row, why in found.suspicious],
        "duplicates": [[name(row) for row in group] for group in found.same],
        "near_duplicates": [[name(row) for row in group] for group in found.alike],
    }


def contact_sheet(found: Findings) -> Image.Image:
    """Up to 100 of the pictures that decode as training sees them; a row for each of up to 10 classes, else spread."""
    height, width = found.commonest_size
    scale = min(1.0, _LARGEST / max(height, width))
    size = max(1, round(height * scale)), max(1, round(width * scale))
    decode = Decoder(found.source, size, max(found.channels))
    bar = tqdm(_shown(found), desc="contact sheet", unit="img", delay=2, leave=False)
    blank = np.full((decode.channels, *size), 255, np.uint8)
    cells = [blank if row is None or isinstance(seen := decode(row), Bad) else seen.pixels for row in bar]
    return enlarged(grid(np.stack(cells), min(COLUMNS, len(cells)), background=255), max(size))


def _shown(found: Findings) -> list[int | None]:
    rows = np.asarray(found.good)
    if found.source.labels is None or len(found.per_class) > ROWS:
        return [*_spread(rows, COLUMNS * ROWS)]
    labels = found.source.labels[rows]
    shown: list[int | None] = []
    for label in range(len(found.per_class)):
        row = [*_spread(rows[labels == label], COLUMNS)]
        shown += [*row, *[None] * (COLUMNS - len(row))]
    return shown


def _spread(rows: np.ndarray, most: int) -> list[int]:
    """Up to so many of the rows, evenly spread."""
    count = min(most, len(rows))
    return [int(rows[i * len(rows) // count]) for i in range(count)]
