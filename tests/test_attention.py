"""Attention gives the same numbers by every way it is computed."""

from __future__ import annotations

import pytest
import torch

from ditkit.base.rng import generator
from ditkit.nn import attention
from ditkit.nn.attention import attend

# Shapes: B 3, N query tokens, M key tokens, D 24, H 3.


def inputs(n: int, m: int, dtype: torch.dtype) -> list[torch.Tensor]:
    draws = generator(0, "attention test", n, m)
    return [torch.randn(3, rows, 24, generator=draws).to(dtype).requires_grad_() for rows in (n, m, m)]


def exact(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int) -> torch.Tensor:
    """Vaswani et al. 2017, eq. 1, head by head in float64."""
    done = []
    for q_h, k_h, v_h in zip(*(x.double().chunk(heads, dim=-1) for x in (q, k, v)), strict=True):
        weights = (q_h @ k_h.mT / q_h.shape[-1] ** 0.5).softmax(-1)
        done.append(weights @ v_h)
    return torch.cat(done, dim=-1)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.04)])
@pytest.mark.parametrize(("n", "m"), [(16, 16), (9, 2)])
def test_values_and_gradients_are_the_papers(n: int, m: int, dtype: torch.dtype, tolerance: float) -> None:
    given, wanted = inputs(n, m, dtype), inputs(n, m, dtype)
    out, reference = attend(*given, heads=3), exact(*wanted, heads=3)
    assert out.dtype == dtype
    torch.testing.assert_close(out.double(), reference, atol=tolerance, rtol=tolerance)
    out.square().sum().backward()
    reference.square().sum().backward()
    for one, other in zip(given, wanted, strict=True):
        assert one.grad is not None
        assert other.grad is not None
        scale = float(other.grad.abs().max())
        torch.testing.assert_close(one.grad.double(), other.grad.double(), atol=tolerance * scale, rtol=tolerance)


def test_scores_are_kept_only_of_short_sequences(monkeypatch: pytest.MonkeyPatch) -> None:
    q, k, v = inputs(16, 16, torch.bfloat16)
    kept = attend(q, k, v, 3)
    monkeypatch.setattr(attention, "LARGEST_WRITTEN_OUT", 15)
    monkeypatch.setattr(attention, "_written_out", None)  # to call it would raise
    torch.testing.assert_close(attend(q, k, v, 3), kept, atol=0.04, rtol=0.04)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_row_does_not_depend_on_the_batch(dtype: torch.dtype) -> None:
    q, k, v = (x.detach().repeat(22, 1, 1)[:64] for x in inputs(16, 16, dtype))
    whole = attend(q, k, v, 3)
    for rows in (1, 3, 8):
        assert torch.equal(attend(q[:rows], k[:rows], v[:rows], 3), whole[:rows])
