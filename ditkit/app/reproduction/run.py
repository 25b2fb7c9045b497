"""Floor 5: a protocol from its files to its verdict, by the code of ditkit sample and ditkit evaluate."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from ditkit.app import measuring
from ditkit.app.evaluating import Work, evaluate_model, set_label
from ditkit.app.model import Model, check_sampling
from ditkit.app.references import Reference, Space
from ditkit.app.reproduction import files, verdict
from ditkit.app.reproduction.model import load_published
from ditkit.app.reproduction.protocol import File, Protocol
from ditkit.app.samples import Plan
from ditkit.base.files import write_json
from ditkit.base.workers import Workers
from ditkit.evaluate.networks.network import exact_float32


@dataclasses.dataclass(frozen=True)
class Asked:
    """What a call may choose. out: folder of the results. num: None is the protocol's. npz: a file for the samples.

    repeats: sets of samples, each with seeds of its own; then scores are means over them.
    """

    out: Path
    num: int | None = None
    repeats: int = 1
    batch_size: int | None = None
    device: str | None = None
    npz: Path | None = None


@dataclasses.dataclass(frozen=True)
class Reproduction:
    """What came of it. content: of reproduce.json."""

    protocol: Protocol
    num: int
    checks: list[verdict.Check]
    content: dict[str, Any]

    @property
    def verdict(self) -> str:
        """One of PASS, FAIL, NONE of ``verdict``."""
        return self.content["verdict"]

    def __str__(self) -> str:
        pinned = self.protocol.pinned
        rows = verdict.table(self.checks, judged=self.verdict != verdict.NONE)
        said = verdict.sentence(pinned, self.num, self.checks, self.verdict)
        return f"{self.protocol.name}: {pinned.about}\nprotocol {self.protocol.hash[:12]}\n\n{rows}\n\n{said}"


def reproduce(
    protocol: Protocol, found: dict[File, Path], asked: Asked, work: Work, workers: Workers
) -> Reproduction | None:
    """Draws and measures a protocol; goes on where a kill left it; None in processes that do not lead.

    found: where its files are (``files.locate``). Raises UserError before long work, for files that are others than
    the protocol's and for settings that cannot be drawn with.
    """
    pinned = protocol.pinned
    check_sampling(pinned.recipe, pinned.recipe.sample)
    digests = files.check(found, progress=workers.leads)
    with workers.leader_first():
        model = load_published(pinned, found, asked.out, workers.device(asked.device or "auto"))
        against = _reference(protocol, model, found)
    plan = _plan(protocol, asked)
    labels = [set_label(r + 1, asked.repeats) for r in range(asked.repeats)]
    of = digests[pinned.weights]
    with exact_float32():  # a GPU's default rounds the autoencoder's convolutions
        metrics = evaluate_model(model, plan, against, work, workers, of=of, npz=asked.npz, labels=labels)
    return _concluded(protocol, plan.num, metrics, digests, asked.out) if metrics is not None else None


def _reference(protocol: Protocol, model: Model, found: dict[File, Path]) -> Reference:
    pinned = protocol.pinned
    weights = str(found[pinned.network_weights]) if pinned.network_weights else None
    source = str(found[pinned.reference]) if isinstance(pinned.reference, File) else pinned.reference
    return measuring.reference(model, source, Space(pinned.network, weights, pinned.scores))


def _plan(protocol: Protocol, asked: Asked) -> Plan:
    pinned = protocol.pinned
    sampling = pinned.recipe.sample
    if asked.batch_size is not None:
        sampling = dataclasses.replace(sampling, batch_size=asked.batch_size)
    return Plan(sampling, asked.num or pinned.num, pinned.seed, pinned.labels)


def _concluded(
    protocol: Protocol, num: int, metrics: dict[str, Any], digests: dict[File, str], out: Path
) -> Reproduction:
    """The verdict, written to reproduce.json with all that it hangs on; metrics.json as ditkit evaluate writes it."""
    write_json(out / "metrics.json", metrics)
    checked = verdict.checks(protocol.pinned, metrics)
    content = {
        "name": protocol.name,
        "verdict": verdict.verdict(protocol.pinned, num, checked),
        "scores": [{**dataclasses.asdict(check), "agrees": check.agrees} for check in checked],
        "samples": num,
        "protocol": protocol.said,
        "protocol_hash": protocol.hash,
        "files": {file.file: {"sha256": digest, "pinned": file.sha256} for file, digest in digests.items()},
        "measured": metrics,
    }
    write_json(out / "reproduce.json", content)
    return Reproduction(protocol, num, checked, content)
