"""Which models are compared, as a user writes them: sizes times patches, over one recipe; and what each costs."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from tqdm import tqdm

from ditkit.app import build
from ditkit.app.kinds.denoiser import DenoiserRuns
from ditkit.app.recipe import Model, Recipe
from ditkit.base.errors import UserError
from ditkit.nn.cost import Cost, cost

HEAD_WIDTH = 32
"""Channels of an attention head, as near as the width allows, where a size says no number of heads."""
FLOPS_PER_MULTIPLY_ADD = 2
PETAFLOPS_SECOND = 1e15 / FLOPS_PER_MULTIPLY_ADD
"""Multiply-adds in a petaflop/s-second."""


@dataclasses.dataclass(frozen=True)
class Candidate:
    """A model of the grid. name: such as S/2 or 96x4/2; folder: the same as a file name.

    multiply_adds: of one forward pass for one image. tokens: of one image.
    """

    name: str
    recipe: Recipe
    multiply_adds: int
    parameters: int
    tokens: int

    @property
    def folder(self) -> str:
        """The name of its run's folder."""
        return self.name.replace("/", "-p")

    def training_multiply_adds(self, step: int) -> float:
        """What so many steps of training take: a forward pass of each image, and twice that to go back."""
        return 3.0 * self.multiply_adds * self.recipe.train.batch_size * step


def parse_budget(text: str) -> float:
    """A budget in multiply-adds: ``3e15``, or ``6PFs`` (petaflop/s-seconds of 1e15 operations, two a multiply-add)."""
    digits = text.strip().removesuffix("PFs")
    unit = PETAFLOPS_SECOND if digits != text.strip() else 1.0
    try:
        value = float(digits) * unit
    except ValueError:
        value = math.nan
    if not 0 < value < math.inf:
        raise UserError(
            f"--budget {text}: expected a positive number of multiply-adds, such as 3e15, or of petaflop/s-seconds, "
            "such as 6PFs"
        )
    return value


def models(model: Model, sizes: Sequence[str], patches: Sequence[int]) -> dict[str, Model]:
    """The networks by name, one for each size and patch, all else as in ``model``.

    UserError for a size that is none, nothing listed, and a network that is listed twice.
    """
    for what, given, such in (("sizes", sizes, "48x2 96x4 S"), ("patches", patches, "2 4")):
        if not given:
            raise UserError(f"--{what} names none: expected one or more, such as --{what} {such}")
    found: dict[str, Model] = {}
    for size in sizes:
        for patch in patches:
            wanted = dataclasses.replace(_of_size(model, size), patch_size=patch)
            same = [name for name, other in found.items() if _shape(other) == _shape(wanted)]
            name = f"{size}/{patch}"
            if same:
                raise UserError(f"{name} is the same model as {same[0]}: name each size and patch once")
            found[name] = wanted
    return found


def _of_size(model: Model, size: str) -> Model:
    written = re.fullmatch(r"(\d+)x(\d+)(?:x(\d+))?", size)
    bare = dataclasses.replace(model, preset=None, width=None, depth=None, heads=None)
    if not written:
        return dataclasses.replace(bare, preset=_preset(model.backbone, size))
    width, depth, heads = (int(part) if part else None for part in written.groups())
    if not width or not depth or heads == 0:
        raise UserError(f"--sizes {size}: expected positive numbers, WIDTHxDEPTH or WIDTHxDEPTHxHEADS, such as 96x4")
    return dataclasses.replace(bare, width=width, depth=depth, heads=heads or _heads(width))


def _heads(width: int) -> int:
    """The number of heads that divides the width with heads of nearest to HEAD_WIDTH channels."""
    divisors = [h for h in range(1, width + 1) if width % h == 0]
    return min(divisors, key=lambda h: abs(math.log(width / h / HEAD_WIDTH)))


def _preset(backbone: str, size: str) -> str:
    """The first published configuration of a size by letter, such as DiT-S/2 of S; its patch is replaced."""
    written = [re.fullmatch(r"(?:.*-)?(\w+)/\d+", name) for name in _presets(backbone)]
    letters = {found[1]: found[0] for found in reversed([w for w in written if w])}
    if size not in letters:
        raise UserError(
            f"--sizes {size}: expected WIDTHxDEPTH or WIDTHxDEPTHxHEADS, such as 96x4 or 96x4x3, or a published size "
            f"of {backbone}: {', '.join(reversed(letters)) or 'it has none'}"
        )
    return letters[size]


def _presets(backbone: str) -> Mapping[str, Any]:
    known = build.known("backbone")
    return known[backbone].presets() if backbone in known else {}


def _shape(model: Model) -> dict[str, Any]:
    """What a network is made of, whether a preset or the user says it."""
    preset = _presets(model.backbone)[model.preset] if model.preset else {}
    return {**preset, **model.overrides()}


def candidates(recipe: Recipe, networks: Mapping[str, Model], facts: Mapping[str, Any]) -> list[Candidate]:
    """The models for data of these facts, cheapest first.

    UserError, naming the model, where it cannot be made: a patch that does not divide the input, a width that the heads
    do not divide.
    """
    bar = tqdm(networks.items(), "counting multiply-adds", delay=2, leave=False)
    made = [_candidate(name, dataclasses.replace(recipe, model=model), dict(facts)) for name, model in bar]
    return sorted(made, key=lambda c: c.multiply_adds)


def _candidate(name: str, recipe: Recipe, facts: dict[str, Any]) -> Candidate:
    try:
        said, tokens = forward_cost(recipe, facts)
    except UserError as error:
        raise UserError(f"model {name} of --sizes and --patches: {error}") from None
    return Candidate(name, recipe, said.multiply_adds, said.parameters, tokens)


def forward_cost(recipe: Recipe, facts: dict[str, Any]) -> tuple[Cost, int]:
    """What a forward pass of one image costs, as ``ditkit info`` counts it, and its tokens; nothing is computed."""
    with torch.device("meta"):
        net = DenoiserRuns.network(recipe, facts)
        said = cost(net, *DenoiserRuns.example(recipe, facts))
    height, width = getattr(net, "grid", facts["input_size"])
    return said, int(height) * int(width)


def sums(found: Sequence[Candidate]) -> Iterator[str]:
    """The plan in words, a line a model: what it costs, and its share of all training."""
    total = sum(c.training_multiply_adds(c.recipe.train.steps) for c in found)
    for c in found:
        whole = c.training_multiply_adds(c.recipe.train.steps)
        yield (
            f"{c.name}: {c.multiply_adds / 1e9:.4g} Gmac, {c.parameters:,} parameters, {c.tokens} tokens; "
            f"{whole / 1e12:.4g} Tmac of training ({100 * whole / total:.0f}%)"
        )
