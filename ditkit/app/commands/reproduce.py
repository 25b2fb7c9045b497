"""Measure a published number again by its pinned protocol: ditkit reproduce NAME; without a name, what there is."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro
from pydantic.dataclasses import dataclass

from ditkit.app.cli import parse
from ditkit.app.recipe import Enough
from ditkit.base.errors import UserError
from ditkit.train.settings import STRICT, Positive

SHARED = True
"""Whether the processes that torchrun starts share the command's work."""


@dataclass(frozen=True, config=STRICT)
class Options:
    """Draw and measure by a pinned protocol, and print what was measured beside what was published.

    Exit code 0 where every score is within its tolerance, 1 where one is not or there is no verdict, 2 where files are
    missing. The same call again goes on where a kill left it; under torchrun the processes share the drawing.
    """

    name: Annotated[str | None, tyro.conf.Positional] = None
    """A protocol's name, or a .yaml file of your own; None: list them."""
    weights: Path | None = None
    """Folder of the published files; None: the one in the environment variable DITKIT_WEIGHTS."""
    out: Path | None = None
    """Folder for reproduce.json; None: runs/reproduce/NAME."""
    num: Enough | None = None
    """Samples; None: as published. Another number is not the published protocol, and has no verdict."""
    repeats: Positive = 1
    """Sets of so many samples, each with seeds of its own: then scores are means over them, with their errors."""
    batch_size: Positive | None = None
    """Images drawn at a time; None: as the protocol says. Changes no image, but for solvers of adaptive steps, within
    their tolerance."""
    device: str | None = None
    """auto, cpu, cuda, ...; None: auto."""
    npz: Path | None = None
    """Also write the samples there, as arr_0 (N, H, W, 3) uint8 for ADM's evaluator."""


def main(args: Sequence[str]) -> int:
    """The command."""
    options = parse(Options, "reproduce", args)
    if options.name is None:
        given, lists = (dataclasses.asdict(each) for each in (options, Options(weights=options.weights)))
        if said := ", ".join(
            f"--{name.replace('_', '-')} {given[name]}" for name in given if given[name] != lists[name]
        ):
            raise UserError(f"{said} without a protocol's name: expected one, as ditkit reproduce lists them")
        print(listing(options.weights))
        return 0
    from ditkit.app.reproduction.files import MissingFilesError

    try:
        return _reproduce(options, options.name)
    except MissingFilesError as missing:  # more than fits in a line
        print(f"ditkit: {missing.lines}", file=sys.stderr)
        return 2


def _reproduce(options: Options, name: str) -> int:
    from ditkit.app.commands.evaluate import working
    from ditkit.app.reproduction.files import locate
    from ditkit.app.reproduction.protocol import load_protocol
    from ditkit.app.reproduction.run import Asked, reproduce
    from ditkit.app.reproduction.verdict import PASS
    from ditkit.base.files import check_file
    from ditkit.base.workers import workers
    from ditkit.evaluate.suite import check_enough

    if options.npz is not None and options.repeats > 1:
        raise UserError(f"--npz {options.npz} is one file for {options.repeats} sets of samples: measure one at a time")
    protocol = load_protocol(name)
    files = locate(protocol, options.weights)
    check_enough(protocol.pinned.scores, options.num or protocol.pinned.num)
    out = options.out or Path("runs/reproduce") / protocol.name
    for path in (out / "reproduce.json", out / "metrics.json", options.npz):
        if path is not None:
            check_file(path)
    asked = Asked(out, options.num, options.repeats, options.batch_size, options.device, options.npz)
    with workers() as all_of_us, working(out, all_of_us) as work:
        found = reproduce(protocol, files, asked, work, all_of_us)
        if found is None:
            return 0
        print(f"{found}\nwritten to {out / 'reproduce.json'}")
        work.clear()
        return 0 if found.verdict == PASS else 1


def listing(weights: Path | None) -> str:
    """The ready protocols as lines of text: name, what it is, what of its files is there."""
    from ditkit.app.reproduction.files import absent
    from ditkit.app.reproduction.protocol import load_protocol, ready_protocols

    protocols = [load_protocol(name) for name in ready_protocols()]
    width = max(len(protocol.name) for protocol in protocols)
    lines = ["protocols, for ditkit reproduce NAME:", ""]
    for protocol in protocols:
        missing = len(absent(protocol, weights))
        state = f"{missing} of {len(protocol.pinned.files)} files missing" if missing else "ready"
        lines.append(f"{protocol.name:<{width}}  {protocol.pinned.about} ({state})")
    return "\n".join(lines)
