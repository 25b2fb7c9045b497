"""Cases of willisma/SiT: data at t = 1, a velocity of the other sign, a diffusion that is half of our w."""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ditkit.backbones.output import Output
from ditkit.convert.sit import DataAtOne
from ditkit.evaluate.likelihood import Hutchinson, log_likelihood, prior_log_density
from ditkit.guidance import DIT_CHANNELS, ClassifierFree
from ditkit.objectives import weights
from ditkit.objectives.loss import Draws
from ditkit.objectives.matching import simple
from ditkit.objectives.weights import Weight
from ditkit.process.continuous import GVP, VP, Linear
from ditkit.process.denoiser import Denoised, Denoiser
from ditkit.process.density import Uniform
from ditkit.process.langevin import FORMS
from ditkit.process.path import Path, over
from ditkit.process.prediction import Eps, Prediction, Score, Velocity
from ditkit.solvers.dopri5 import dopri5
from ditkit.solvers.flow import EULER, integrate
from ditkit.solvers.ode import euler, heun, midpoint, rk4
from ditkit.solvers.sde import drift, euler_maruyama, stochastic_heun
from tests.conformance.adapters.dit import condition_of, load_case
from tests.conformance.adapters.torchdiffeq import AnyTime, dopri5_past_the_end
from tests.conformance.harness import Case, covers

PATHS: dict[str, type[Path]] = {"Linear": Linear, "GVP": GVP, "VP": VP}
ROWS: dict[str, type[Prediction]] = {"velocity": Velocity, "noise": Eps, "score": Score}
FORM_NAMES = {"SBDM": "sbdm", "inccreasing-decreasing": "increasing_decreasing"}
SOLVERS = {"Euler": euler_maruyama, "Heun": stochastic_heun}
LAST = {None: "noise", "Mean": "mean", "Tweedie": "tweedie", "Euler": "euler"}


def signed(row: str, output: Tensor) -> Tensor:
    """A row in the other convention: a derivative by time changes its sign."""
    return -output if row == "velocity" else output


class Interval(NamedTuple):
    """The reference's times (its own convention) from noise to data: ``check_interval``."""

    start: float
    end: float

    @staticmethod
    def of(path: str, row: str, eps: float | None, *, form: str | None = None, last: float = 0.0, train: bool = False):
        """form: of the diffusion, None for an ODE. Times that a row or a form cannot take are kept eps away from."""
        vp, bare = path == "VP", path != "VP" and row == "velocity"
        if bare:
            eps = 0.0
        elif eps is None:
            eps = (1e-5 if train else 1e-3) if vp else 1e-3
        end = 1 - (last if form and last else eps)
        from_eps = not vp and (row != "velocity" or form == "SBDM")
        return Interval(eps if from_eps else 0.0, end)

    def times(self, count: int) -> Tensor:
        """``count`` equally spaced times, ours: descending from noise."""
        return 1 - self.theirs(count)

    def theirs(self, count: int) -> Tensor:
        """The reference's times, rounded to float32 as there: 1 - 0.999 feels it in its fourth digit."""
        return torch.linspace(self.start, self.end, count).double()


def denoiser_of(case: Case, path: str, row: str) -> Denoiser:
    """The case's network read as a row on a path."""
    net, prediction = load_case(case), ROWS[row]()
    return Denoiser(
        DataAtOne(net, prediction), PATHS[path](), prediction, condition_of(case.inputs["y"], net.num_classes)
    )


def velocity(path: Path, t: Tensor, said: Denoised) -> Tensor:
    """The reference's velocity, from data's lack to data."""
    return -drift(path, t, said)


@covers("sit_forward*")
def forward(case: Case) -> dict[str, Tensor]:
    x, t, n = case.inputs["x"], 1 - case.inputs["t"].double(), len(case.inputs["x"]) // 2
    denoiser = denoiser_of(case, "Linear", "velocity")
    conditional, null = denoiser.condition[:n], denoiser.condition[n:]
    scale = case.config["cfg_scale"]
    first = ClassifierFree(denoiser.given(conditional), scale, DIT_CHANNELS, against=null)
    second = ClassifierFree(denoiser.given(null), 1 - scale, DIT_CHANNELS, against=conditional)
    with torch.no_grad():
        guided = [first(x[:n], t[:n]), second(x[:n], t[:n])]
        return {
            "y": velocity(denoiser.path, t, denoiser(x, t)),
            "cfg": torch.cat([velocity(denoiser.path, t[:n], said) for said in guided]),
        }


@covers("sit_intervals")
def intervals(case: Case) -> dict[str, Tensor]:
    found: dict[str, Interval] = {}
    sample, train = case.config["sample_eps"], case.config["train_eps"]
    for path in PATHS:
        for row in ROWS:
            name = f"{path}.{row}"
            ode = Interval.of(path, row, sample)
            found |= {
                f"{name}.train": Interval.of(path, row, train, train=True),
                f"{name}.ode": ode,
                f"{name}.ode_reverse": Interval(1 - ode.start, 1 - ode.end),
            }
            for last in case.config["last_step_sizes"]:
                for form in ("SBDM", "sigma"):
                    found[f"{name}.sde.{form}.last{last}"] = Interval.of(path, row, sample, form=form, last=last)
    return {name: torch.tensor(interval, dtype=torch.float64) for name, interval in found.items()}


def row_readings(path: Path, row: str, output: Tensor, x: Tensor, t: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(velocity, score, noise) of the reference that a network's output, taken as a row, stands for."""
    said = Denoised(*ROWS[row]().solve(path, signed(row, output), x, t))
    return velocity(path, t, said), over(-1 / path.sigma(t), x) * said.eps, said.eps


@covers("sit_path_*")
def paths(case: Case) -> dict[str, Tensor]:
    path, t = PATHS[case.config["path"]](), 1 - case.inputs["t"].double()
    x, eps, x0, output = (case.inputs[name] for name in ("x", "x0", "x1", "model_output"))
    out = {
        "alpha": path.alpha(t),
        "sigma": path.sigma(t),
        "d_alpha": -path.d_alpha(t),
        "d_sigma": -path.d_sigma(t),
        "d_alpha_alpha_ratio": -path.drift(t),
        "xt": path.mix(x0, eps, t),
        "ut": -Velocity().target(path, x0, eps, t),
        "drift_mean": over(path.drift(t), x) * x,
        "drift_var": path.diffusion_squared(t)[:, None] / 2,
    }
    for form in case.config["forms"]:
        for norm in case.config["norms"]:
            w = FORMS[FORM_NAMES.get(form, form)](path, t, norm)
            out[f"diffusion.{form}.norm{norm}"] = w[:, None] / 2
    for row in ROWS:
        out[f"drift.{row}"], out[f"score.{row}"], noise = row_readings(path, row, output, x, t)
        if row == "velocity":
            out["score_from_velocity"], out["noise_from_velocity"] = out["score.velocity"], noise
        if row == "score":
            out["velocity_from_score"] = out["drift.score"]
    return out


HALF_LIKELIHOOD = 0.5
"""The reference's likelihood weight is that of half of g^2."""


def eps_weight(name: str) -> Weight:
    """The reference's weight on the error of the noise, which rows of noise and score are trained by."""
    if name == "likelihood":
        return lambda path, row, t: HALF_LIKELIHOOD * weights.likelihood(path, row, t)
    return weights.find({"none": "snr", "velocity": "velocity"}[name])


@covers("sit_loss_*")
def losses(case: Case) -> dict[str, Tensor]:
    config, out = case.config, {}
    path = PATHS[config["path"]]()
    x0, eps, u, output = (case.inputs[name] for name in ("x1", "x0", "u", "model_output"))
    for row in config["predictions"]:
        start, end = Interval.of(config["path"], row, config["train_eps"], train=True)
        t = Uniform(1 - end, 1 - start)(1 - u, path)
        denoiser = Denoiser(lambda x, time, condition, row=row: Output(signed(row, output), {}), path, ROWS[row]())
        out |= {f"{row}.t": 1 - t, f"{row}.xt": path.mix(x0, eps, t)}
        for name in config["loss_weights"]:
            weight = "none" if row == "velocity" else eps_weight(name)
            out[f"{row}.{name}.loss"] = simple(denoiser, x0, Draws(t, eps), weight=weight).per_sample
        if row == "velocity":
            out["ut"] = -denoiser.prediction.target(path, x0, eps, t)
    return out


@covers("sit_sde_*")
def stochastic(case: Case) -> dict[str, Tensor]:
    recorded, out = case.expected(), {}
    for combination in case.config["combos"]:
        path, row, form, norm = combination
        for last in case.config["last_steps"]:
            name = f"{path}.{row}.{form}.norm{norm}.last_{last}.final"
            if name in recorded:  # the others are those that the reference cannot do
                states = sde_states(case, path, row, form, norm, last)
                out[name] = states[-1]
                if last == "Mean":
                    out.setdefault("trajectory_first_combo_Mean", torch.stack(states))
    return out


@torch.no_grad()
def sde_states(case: Case, path: str, row: str, form: str, norm: float, last: str | None) -> list[Tensor]:
    """The states after each step of ``sample_sde``, the last step being one of its own size, or none."""
    config, noises = case.config, case.inputs["noises"]
    size = 0.0 if last is None else config["last_step_size"]
    ts = Interval.of(path, row, None, form=form, last=size).times(config["num_steps"])
    if last is not None:
        ts = torch.cat([ts, (ts[-1:] - size).clamp(min=0)])
    states = SOLVERS[config["method"]](
        denoiser_of(case, path, row),
        case.inputs["z"],
        ts,
        noise=lambda k: noises[k],
        w=FORM_NAMES.get(form, form),
        scale=norm,
        last=LAST[last],
    )
    return [state.x for state in states]


METHODS = {"euler": euler, "heun2": heun, "midpoint": midpoint, "rk4": rk4, "dopri5": dopri5}
CLEAN = 1e-9
"""How near VP's data end is come to where its velocity, which the reference does not take apart, is infinite."""


def ode_states(case: Case, denoiser: Denoiser, method: str, ts: Tensor, **tolerances: float) -> list[Tensor]:
    """The states from the initial one on; x and t are stepped in as the reference does, in t."""
    options: dict[str, Any] = {"variable": "time", **tolerances}
    if method in ("heun2", "rk4"):
        options["at_clean_end"] = True
    with torch.no_grad():
        z = case.inputs["z"]
        return [z, *(state.x for state in METHODS[method](denoiser, z, ts, **options))]


@covers("sit_ode")
def deterministic(case: Case) -> dict[str, Tensor]:
    config, out = case.config, {}
    for name in case.expected():
        if name.startswith(("reverse.", "tight.")) or name.endswith(".trajectory"):
            continue
        path, row, method, _ = name.split(".")
        ts = Interval.of(path, row, None).times(config["num_steps"])
        denoiser = denoiser_of(case, path, row)
        if method == "dopri5":
            with torch.no_grad():
                out[name] = dopri5_past_the_end(AnyTime(denoiser), case.inputs["z"], ts[0], ts[-1], **config["dopri5"])
            continue
        states = ode_states(case, denoiser, method, ts)
        out |= {name: states[-1], f"{path}.{row}.{method}.trajectory": torch.stack(states)}
    for name in case.expected():
        kind, *combination = name.split(".")
        if kind == "tight":
            path, row, method = combination
            ts = Interval.of(path, row, None).times(config["num_steps"])
            out[name] = ode_states(case, denoiser_of(case, path, row), method, ts, rtol=2e-6, atol=1e-6)[-1]
        if kind == "reverse":
            path, row, _ = combination
            with torch.no_grad():
                ts = Interval.of(path, row, None).times(config["num_steps"]).flip(0)
                *_, last = integrate(denoiser_of(case, path, row), case.inputs["z"], ts, EULER, "time")
            out[name] = last.x
    return out


class InCallOrder:
    """Hutchinson's estimate with another probe at every evaluation."""

    columns = 1

    def __init__(self, probes: Tensor) -> None:
        self.probes = iter(probes)

    def __call__(self, v: Tensor, x: Tensor) -> Tensor:
        return Hutchinson(next(self.probes)[None])(v, x)


@covers("sit_likelihood")
def likelihood(case: Case) -> dict[str, Tensor]:
    x, bits, config = case.inputs["x"], case.inputs["bits"], case.config
    out = {"prior_logp": prior_log_density(Linear(), x, torch.ones((), dtype=torch.float64))}
    for path, row in config["combos"]:
        # the reference does not mirror its interval: it walks the times of noise to data from data to noise
        times = Interval.of(path, row, None).theirs(config["num_steps"])
        if path == "VP":
            times = times.clamp(min=CLEAN)
        for method in ("euler", "heun2"):
            solver = functools.partial(METHODS[method], variable="time")
            found = log_likelihood(
                denoiser_of(case, path, row),
                x,
                divergence=InCallOrder(2 * bits - 1),
                times=times,
                prior=lambda latent, t: prior_log_density(Linear(), latent, torch.ones_like(t)),
                solver=functools.partial(solver, at_clean_end=True) if method == "heun2" else solver,
            )
            name = f"{path}.{row}.{method}"
            out |= {f"{name}.logp": found.log_p, f"{name}.latent": found.latent}
    return out
