"""Floor 5: classes as a user names them, by number or by name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from ditkit.base.errors import UserError, unknown


def parse_classes(text: str, names: Sequence[str], option: str = "--classes") -> list[int]:
    """Class indices from "3,7" or "cat,dog". UserError, naming the option, for one that the model does not know."""
    if not names:
        raise UserError(f"{option} {text}: the model is unconditional, it knows no classes; leave the option out")
    return [_number(part, names, option) for part in _parts([part.strip() for part in text.split(",")], names)]


def _parts(words: list[str], names: Sequence[str]) -> Iterator[str]:
    """The classes between the commas, some of which may belong to a name ("salt, pepper")."""
    plain = {name.replace(" ", ""): name for name in names if "," in name}
    while words:
        ends = (end for end in range(len(words), 1, -1) if ",".join(words[:end]).replace(" ", "") in plain)
        end = next(ends, 1)
        yield words[0] if end == 1 else plain[",".join(words[:end]).replace(" ", "")]
        words = words[end:]


def _number(part: str, names: Sequence[str], option: str) -> int:
    if part in names:
        return list(names).index(part)
    if not part.removeprefix("-").isdecimal():
        raise unknown("class", part, names)
    if not 0 <= int(part) < len(names):
        raise UserError(f"{option} {part}: out of range, the model has classes 0 to {len(names) - 1}")
    return int(part)


def turns(num: int, classes: Sequence[int]) -> Tensor:
    """Labels (num,) int64: the classes in turn."""
    return torch.tensor(list(classes))[torch.arange(num) % len(classes)]
