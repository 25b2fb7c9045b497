"""Look at a data set before training on it: ditkit data check SOURCE."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro
from pydantic.dataclasses import dataclass

from ditkit.app.cli import parse
from ditkit.app.names import SOURCES
from ditkit.base.errors import UserError, unknown
from ditkit.train.settings import STRICT, Positive

if TYPE_CHECKING:
    from ditkit.data.check import Findings


@dataclass(frozen=True, config=STRICT)
class Options:
    """Read every image once and say what there is: sizes, classes, duplicates, what training would skip and what looks
    wrong. Exit code 1 if training would skip any image.
    """

    source: Annotated[str, tyro.conf.Positional, tyro.conf.arg(help=f"The images: {SOURCES}.")]
    sheet: Path | None = Path("data-check.png")
    """Where to write the contact sheet, a PNG of up to 100 images; None: nowhere."""
    json: Path | None = None
    """Where to write all that was found, as JSON."""
    workers: Positive | None = None
    """Threads; None: one per core."""


_USAGE = "usage: ditkit data check SOURCE ...\n\n`ditkit data check --help` says what it takes."


def main(args: Sequence[str]) -> int:
    """The command."""
    if args and args[0] in ("-h", "--help"):
        print(_USAGE)
        return 0
    if not args:
        raise UserError("nothing is asked of the data: expected ditkit data check SOURCE")
    if args[0] != "check":
        raise unknown("word behind ditkit data", args[0], ["check"])
    return _check(parse(Options, "data check", args[1:]))


def _check(options: Options) -> int:
    from ditkit.app import data_check
    from ditkit.app.pictures import save_png
    from ditkit.base.files import write_json
    from ditkit.data.check import check
    from ditkit.data.source import open_source

    _check_outside(options)
    found = check(open_source(options.source), options.workers)
    print("\n".join(data_check.lines(found)))
    if options.sheet and found.good:
        save_png(options.sheet, data_check.contact_sheet(found))
        print(f"contact sheet: {options.sheet}")
    if options.json:
        write_json(options.json, data_check.as_json(found))
    return _verdict(found)


def _verdict(found: Findings) -> int:
    from ditkit.data.decode import MOST_BAD

    if not found.bad:
        print("training would skip nothing")
        return 0
    share = len(found.bad) / len(found.source)
    what = f"refuse this source: more than {MOST_BAD:.0%} do not decode" if share > MOST_BAD else "skip these"
    print(f"{len(found.bad):,} of {len(found.source):,} images do not decode; training would {what}")
    return 1


def _check_outside(options: Options) -> None:
    """Raises UserError for a contact sheet or JSON file inside the data, of which it would become a part, and where
    none can be written.
    """
    from ditkit.base.files import check_writable, expanded

    data = expanded(options.source)
    for name, path in (("sheet", options.sheet), ("json", options.json)):
        if path and data.is_dir() and path.resolve().is_relative_to(data.resolve()):
            raise UserError(
                f"--{name} {path} lies inside the data {options.source}, which it would change: choose another place"
            )
        if path and path.is_dir():
            raise UserError(f"--{name} {path} is a folder: expected a file; add a name")
        if path:
            check_writable(path.parent)
