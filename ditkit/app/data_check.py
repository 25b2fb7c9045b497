"""Floor 5: what ``ditkit data check`` found, as lines of text, as JSON and as a contact sheet."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

from ditkit.app.pictures import grid
from ditkit.data.check import Findings
from ditkit.data.decode import Bad, Decoder

COLUMNS, ROWS = 10, 10
_NAMED = 10
_SMALLEST, _LARGEST = 48, 96
"""Pixels a side of a picture on the contact sheet; smaller ones are enlarged in whole steps."""


def lines(found: Findings) -> Iterator[str]:
    """What was found, at most ten names of each kind."""
    source = found.source
    yield f"{source.spec}: {len(source):,} images, {len(found.good):,} decode"
    if found.good:
        yield from _table(found)
    names = source.name
    yield from _named("do not decode", [f"{bad.name}: {bad.reason}" for _, bad in found.bad])
    yield from _named("suspicious", [f"{names(row)}: {why}" for row, why in found.suspicious])
    for title, groups in (("exact duplicates", found.same), ("near duplicates", found.alike)):
        more = sum(len(group) - 1 for group in groups)
        shown = [" = ".join(_some([names(row) for row in group])) for group in groups]
        yield from _named(f"groups of {title} ({more:,} images too many)", shown)


def _table(found: Findings) -> Iterator[str]:
    sizes = Counter({f"{height}x{width}": count for (height, width), count in found.sizes.items()})
    colours = Counter({"grey" if channels == 1 else "colour": count for channels, count in found.channels.items()})
    heights, widths = zip(*found.sizes, strict=True)
    yield f"sizes        {_counts(sizes)}"
    if len(sizes) > 1:
        yield f"             height {min(heights)} to {max(heights)}, width {min(widths)} to {max(widths)} pixels"
    yield f"stored as    {_counts(found.kinds)}"
    yield f"colours      {_counts(colours)}"
    if found.per_class:
        least, most = min(found.per_class.values()), max(found.per_class.values())
        balance = f"{most / least:.3g} times" if least else "infinitely"
        yield f"classes      {len(found.per_class):,}: {_counts(Counter(found.per_class))}"
        yield f"balance      {least:,} to {most:,} images per class: the largest has {balance} as many as the smallest"
    yield f"mean         {_row(found.mean)} (R, G, B as shares of 1, over all pixels)"
    yield f"deviation    {_row(found.std)}"
    captions = found.source.captions
    if captions is not None:
        without = sum(not captions[row] for row in found.good)
        yield f"captions     {len(found.good) - without:,} images have one, {without:,} have none"


def _counts(counter: Counter[str], most: int = 5) -> str:
    shown = ", ".join(f"{name} {count:,}" for name, count in counter.most_common(most))
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
    sheet = grid(np.stack(cells), COLUMNS, background=255)
    larger = math.ceil(_SMALLEST / max(size))
    return sheet.resize((sheet.width * larger, sheet.height * larger), Image.Resampling.NEAREST)


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
