"""Which solvers are compared, as a user writes them, and how many steps a budget of evaluations buys each."""

from __future__ import annotations

import bisect
import dataclasses
import functools
import math
from collections.abc import Iterator, Mapping, Sequence

from tqdm import tqdm

from ditkit.app import build, checks
from ditkit.app.recipe import Process, Sampling
from ditkit.base.errors import UserError, unknown

Value = str | float


@dataclasses.dataclass(frozen=True)
class Choice:
    """A solver on a grid, with their options: NAME[:OPTION=VALUE,...][@GRID[:OPTION=VALUE,...]]."""

    solver: str
    solver_options: Mapping[str, Value] = dataclasses.field(default_factory=dict)
    grid: str = "uniform"
    grid_options: Mapping[str, Value] = dataclasses.field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> Choice:
        """Reads ``dpmpp_2m``, ``ddim:eta=0.5`` or ``unipc:order=3@karras:rho=5``; the grid is uniform unless named.

        UserError for an unknown name, which says the nearest one, for a grid that is a list of times, and for what is
        not written so.
        """
        solver, at, grid = text.partition("@")
        called = grid.strip().partition(":")[0]
        if build.listed(called):
            raise UserError(
                f"solver {text!r}: the times of the grid {called} are listed, so that no budget can choose how many; "
                "expected a grid of any number of steps, such as uniform or karras, or draw with ditkit sample"
            )
        return cls(*_named("solver", solver, text), *_named("grid", grid if at else "uniform", text))

    def __str__(self) -> str:
        return _written(self.solver, self.solver_options) + (
            "" if self.grid == "uniform" and not self.grid_options else "@" + _written(self.grid, self.grid_options)
        )

    @property
    def adaptive(self) -> bool:
        """Whether it chooses its own steps by a tolerance, so that no budget can be set."""
        return build.adaptive(self.solver)

    def over(self, sampling: Sampling, steps: int) -> Sampling:
        """The settings with this solver and grid in so many steps."""
        return dataclasses.replace(
            sampling,
            solver=self.solver,
            solver_options=dict(self.solver_options),
            grid=self.grid,
            grid_options=dict(self.grid_options),
            steps=str(steps),
        )


@dataclasses.dataclass(frozen=True)
class Task:
    """A point to be made: a choice, its settings, the evaluations that they take (None: known when it is drawn)."""

    choice: Choice
    sampling: Sampling
    evaluations: int | None

    @property
    def steps(self) -> int:
        """Steps of the grid."""
        return int(self.sampling.steps)


ADAPTIVE_STEPS = 2
"""Steps of the grid that a solver of adaptive steps gets: where it has to stop on its way."""


def plan(process: Process, sampling: Sampling, solvers: Sequence[str], budgets: Sequence[int]) -> list[Task]:
    """The points of each solver at each budget, cheapest first; a solver of adaptive steps has one.

    A budget buys as many steps as it pays for; two that buy the same are one point. UserError before any work for a
    name, option or budget that cannot be drawn with.
    """
    for what, given, such in (("solvers", solvers, "ddim heun"), ("evaluations", budgets, "10 20")):
        if not given:
            raise UserError(f"--{what} names none: expected one or more, such as --{what} {such}; or leave it out")
    found: dict[tuple[str, str], Task] = {}
    choices = [Choice.parse(text) for text in solvers]
    for choice in tqdm(choices, "counting evaluations", delay=2, leave=False):
        for task in _of(choice, process, sampling, budgets):
            found.setdefault((str(choice), task.sampling.steps), task)
    return sorted(found.values(), key=lambda task: task.evaluations or max(budgets))


def _of(choice: Choice, process: Process, sampling: Sampling, budgets: Sequence[int]) -> Iterator[Task]:
    if choice.adaptive:
        chosen = choice.over(sampling, ADAPTIVE_STEPS)
        checks.check_sampling(process, chosen)
        yield Task(choice, chosen, None)
        return

    @functools.cache
    def cost(steps: int) -> int:
        return checks.evaluations(process, choice.over(sampling, steps))

    def price(steps: int) -> tuple[float, UserError | None]:
        try:
            return cost(steps), None
        except UserError as error:  # more steps than the model's chain has
            return math.inf, error

    for budget in budgets:
        least = cost(1)
        if budget < least:
            raise UserError(f"evaluations {budget}: solver {choice} takes at least {least}; expected as many or more")
        # at least one evaluation a step, and more steps never take fewer
        steps = bisect.bisect_right(range(1, budget + 1), budget, key=lambda n: price(n)[0])
        _, refused = price(steps + 1)
        if steps < budget and refused:
            raise UserError(
                f"evaluations {budget}: solver {choice} takes at most {cost(steps)}, in {steps} steps; expected as "
                f"many or fewer (of one step more: {refused})"
            )
        yield Task(choice, choice.over(sampling, steps), cost(steps))


def _named(kind: str, text: str, whole: str) -> tuple[str, dict[str, Value]]:
    name, _, options = text.strip().partition(":")
    if name not in build.known(kind):
        raise unknown(kind, name, build.known(kind))
    given: dict[str, Value] = {}
    for part in options.split(",") if options else ():
        option, equals, value = part.partition("=")
        if not (option.strip() and equals and value.strip()):
            raise UserError(f"solver {whole!r}: cannot read {part!r}; expected OPTION=VALUE, such as ddim:eta=0.5")
        given[option.strip()] = _value(value.strip())
    return name, given


def _value(text: str) -> Value:
    try:
        return float(text)
    except ValueError:
        return text


def _written(name: str, options: Mapping[str, Value]) -> str:
    said = ",".join(f"{k}={_exact(v)}" for k, v in sorted(options.items()))
    return f"{name}:{said}" if said else name


def _exact(value: Value) -> str:
    """As short as can be, and read back as the same number: points are known by what is written."""
    return value if isinstance(value, str) else repr(float(value)).removesuffix(".0")
