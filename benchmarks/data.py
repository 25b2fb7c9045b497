"""How much memory and time it takes to know what is in a data set, before the first image is decoded.

    python benchmarks/data.py [index|decode|start] [--entries 1000000] [--zip FILE.zip] [--out FILE.json]

index: a made-up index of that many entries, flat, in a thousand classes with captions, and in a zip's directory; and a
zip of 60,000 images from the command to the first image. Each is measured in a fresh process: the time by the clock,
that of the processor, which other work on the machine does not lengthen, and the most memory that the process had (its
peak resident size) beyond what it had with the modules loaded.
decode: pictures decoded and brought to size on one core, against plain Pillow; in seconds of the processor's time, so
that other work on the machine does not count.
start: a zip of the command line, from the command to the first batch of 64.
"""

from __future__ import annotations

import argparse
import io
import multiprocessing
import resource
import struct
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageChops, ImageOps
from tqdm import tqdm

from ditkit.base.files import write_json
from ditkit.data.decode import Decoder
from ditkit.data.layout import arrange
from ditkit.data.loader import batch
from ditkit.data.loading import load_images
from ditkit.data.source import open_source

ZIPPED = 60_000
CLASSES = 1000

Row = dict[str, float | int | str]


def main() -> None:
    """Measures, prints the table, writes the JSON file."""
    given = arguments()
    rows = SECTIONS[given.section](given)
    width = max(len(str(row["case"])) for row in rows)
    for row in rows:
        speed = f"{float(row['entries']) / max(1e-9, float(row['seconds'])):>12,.0f} /s"
        clock = f"{row['seconds']:7.3f} s  {row['processor']:7.3f} s of processor time"
        print(f"{row['case']:<{width}}  {clock}  {row['MiB']:7.1f} MiB  {row['entries']:>9,}  {speed}")
    if given.out:
        write_json(given.out, {"section": given.section, "rows": rows})


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("section", nargs="?", default="index", choices=sorted(SECTIONS))
    parser.add_argument("--entries", type=int, default=1_000_000, help="entries of the made-up indices")
    parser.add_argument("--zip", type=Path, help="zip whose start is measured")
    parser.add_argument("--out", type=Path, help="JSON file to write")
    return parser.parse_args()


def index(given: argparse.Namespace) -> list[Row]:
    """The rows of the section "index"."""
    with tempfile.TemporaryDirectory() as folder:
        directory, images = Path(folder) / "directory.zip", Path(folder) / "images.zip"
        write_directory(directory, given.entries)
        write_images(images, ZIPPED)
        cases: list[tuple[str, Callable[..., int], tuple[object, ...]]] = [
            ("flat", listed, (given.entries, 1, False)),
            ("1,000 classes with captions", listed, (given.entries, CLASSES, True)),
            ("zip's directory", opened, (directory, False)),
            (f"zip of {ZIPPED:,}, first image", opened, (images, True)),
        ]
        return [apart(name, work, *values) for name, work, values in tqdm(cases, desc="index")]


def apart(case: str, work: Callable[..., int], *values: object) -> Row:
    """Time and memory of ``work(*values)``, which gives the number of entries, in a process of its own."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(1) as pool:
        seconds, processor, memory, entries = pool.apply(_measured, (work, *values))
    times = {"seconds": round(seconds, 3), "processor": round(processor, 3)}
    return {"case": case, **times, "MiB": round(memory / 2**20, 1), "entries": entries}


def _measured(work: Callable[..., int], *values: object) -> tuple[float, float, int, int]:
    open_source("shapes:num=1")  # finds, and so loads, every kind
    before, start, used = peak(), time.perf_counter(), time.process_time()
    entries = work(*values)
    return time.perf_counter() - start, time.process_time() - used, peak() - before, entries


def peak() -> int:
    """The most memory that this process has had, in bytes."""
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.exists() else ():
        if line.startswith("VmHWM:"):  # the other count begins with what the process that started this one had
            return int(line.split()[1]) * 1024
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def listed(count: int, classes: int, captions: bool) -> int:
    """Indexes a made-up listing; the number of images."""
    return len(arrange(made_up(count, classes, captions), "made-up").names)


def made_up(count: int, classes: int, captions: bool) -> Iterator[str]:
    """Names as data sets have them, n04000007/img_000123456.jpg, in no order."""
    for i in range(count):
        number = i * 7_654_321 % count
        folder = f"n{4_000_000 + number % classes:08d}/" if classes > 1 else ""
        yield f"{folder}img_{number:09d}.jpg"
        if captions:
            yield f"{folder}img_{number:09d}.txt"


def opened(path: Path, first: bool) -> int:
    """Opens an archive, and its first image where asked to; the number of images."""
    source = open_source(path)
    if first:
        source.open(0).load()
    return len(source)


def write_directory(path: Path, count: int) -> None:
    """A zip that has only a directory, of ``count`` entries without content."""
    entries = bytearray()
    for name in made_up(count, CLASSES, False):
        head = (b"PK\1\2", 20, 20, 0x800, 0, 0, 0, 0, 0, 0, len(name), 0, 0, 0, 0, 0, 0)
        entries += struct.pack("<4s6H3I5H2I", *head) + name.encode()
    end64 = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, count, count, len(entries), 0)
    at = struct.pack("<4sIQI", b"PK\6\7", 0, len(entries), 1)
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    path.write_bytes(entries + end64 + at + end)


def write_images(path: Path, count: int) -> None:
    """A zip of ``count`` images, 28x28, in ten classes."""
    stream = io.BytesIO()
    Image.effect_noise((28, 28), 50).save(stream, "PNG")
    with zipfile.ZipFile(path, "w") as archive:
        for i in range(count):
            archive.writestr(zipfile.ZipInfo(f"{i % 10}/{i:05d}.png"), stream.getvalue())


PICTURES = (("JPEG", 500, 375, 64), ("JPEG", 500, 375, 256), ("JPEG", 4000, 3000, 256), ("PNG", 500, 375, 256))
"""Format, width and height of what is decoded, and the size that it is brought to."""

AT_ONCE = 12


def decode(given: argparse.Namespace) -> list[Row]:
    """The rows of the section "decode"."""
    rows: list[Row] = []
    for kind, width, height, side in tqdm(PICTURES, desc="decode"):
        with tempfile.TemporaryDirectory() as folder:
            paths = write_pictures(Path(folder), kind, width, height)
            decoder = Decoder(open_source(folder), (side, side), 3)
            ways: dict[str, Callable[[int], object]] = {
                "plain Pillow": lambda i, paths=paths, side=side: plain(paths[i], side),
                "ditkit": decoder,
            }
            for way, work in ways.items():
                seconds = min(processor_seconds(work) for _ in range(3))
                case = f"{kind} {width}x{height} to {side}x{side}, {way}"
                used = round(seconds, 4)
                rows.append({"case": case, "seconds": used, "processor": used, "MiB": 0, "entries": AT_ONCE})
    return rows


def processor_seconds(work: Callable[[int], object]) -> float:
    """Processor time of ``work`` for each of the pictures, s."""
    start = time.process_time()
    for i in range(AT_ONCE):
        work(i)
    return time.process_time() - start


def plain(path: Path, side: int) -> np.ndarray:
    """What one would write with Pillow alone: decode, shrink with bicubic filter, cut out the middle."""
    with Image.open(path) as image:
        return np.asarray(ImageOps.fit(image.convert("RGB"), (side, side), Image.Resampling.BICUBIC))


def write_pictures(folder: Path, kind: str, width: int, height: int) -> list[Path]:
    """Slopes with grain, as smooth as photographs are."""
    paths = []
    for i in range(AT_ONCE):
        slope = Image.radial_gradient("L").resize((width, height))
        grain = Image.effect_noise((width, height), 12)
        bands = [ImageChops.add(slope, grain, 1, -128), ImageChops.offset(slope, 31 * i + 9), slope]
        paths.append(folder / f"{i:02}.{kind.lower()}")
        Image.merge("RGB", bands).save(paths[-1], kind)
    return paths


def start(given: argparse.Namespace) -> list[Row]:
    """The rows of the section "start"."""
    if not given.zip:
        raise SystemExit("start measures a zip: give it with --zip FILE.zip")
    return [apart(f"{given.zip.name}, first batch of 64", first_batch, given.zip)]


def first_batch(path: Path) -> int:
    """Opens an archive and decodes the first batch of an epoch as needed; the number of images."""
    images = load_images(open_source(path), memory=0, progress=False)
    batch(images, step=0, batch_size=64, seed=0)
    return len(images)


SECTIONS: dict[str, Callable[[argparse.Namespace], list[Row]]] = {"index": index, "decode": decode, "start": start}


if __name__ == "__main__":
    main()
