"""Any solver runs any model: a run trained on DDPM's chain gives one image, whatever way the same ODE is followed."""

from __future__ import annotations

import pytest
import torch

from ditkit.app.model import Model, load_model
from ditkit.app.recipe import Sampling
from ditkit.app.run import open_run
from ditkit.condition import Condition
from ditkit.sample import sample
from tests.running import made, train


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    """A DiT of digits, trained for moments with the noise of DDPM's chain as its target."""
    run = tmp_path_factory.mktemp("digits") / "r"
    size = ["--model.width", 32, "--model.heads", 4, "--train.batch-size", 64, "--train.log-every", 50]
    made(train("digits", run, *size, "--train.steps", 150, "--train.checkpoint-every", 150, "--train.lr", 0.003))
    return load_model(open_run(run))


def draw(model: Model, **settings: object) -> torch.Tensor:
    """What is diffused, of four seeds and classes, not rounded."""
    sampling = Sampling(guidance=1.5, **settings)  # type: ignore[arg-type]
    ts = model.grid(sampling)
    condition = Condition(label=model.labels(4))
    return sample(model.denoiser, condition, range(4), model.latent_shape, ts, **model.how(sampling))


@pytest.fixture(scope="module")
def many(model: Model) -> torch.Tensor:
    """DDIM at every time of the chain."""
    return draw(model, solver="ddim", steps="1000")


@pytest.mark.parametrize(
    ("solver", "grid", "options"),
    [
        ("heun", "karras", {}),
        ("heun", "log_snr", {"variable": "time"}),
        ("edm", "karras", {}),
        ("dpmpp_2m", "log_snr", {}),
        ("dpm_solver", "log_snr", {}),
        ("unipc", "log_snr", {}),
        ("rk4", "karras", {}),
        ("dopri5", "uniform", {}),
    ],
)
def test_deterministic_solvers_converge_to_the_image_of_many_ddim_steps(
    solver: str, grid: str, options: dict[str, str], model: Model, many: torch.Tensor
) -> None:
    x = draw(model, solver=solver, grid=grid, solver_options=options, steps="60")
    few = draw(model, solver="ddim", steps="10")
    assert many.std() > 0.1
    error, coarse = ((x - many).square().mean().sqrt(), (few - many).square().mean().sqrt())
    assert error < 0.02 * many.std()
    assert error < coarse / 10
