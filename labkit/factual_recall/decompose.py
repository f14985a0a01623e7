"""An MLP's output taken apart: by regression on the heads of its block, and by simply running it without a head.

The paper's reading (arXiv 2403.19521, §4; its exact design could not be checked): over many prompts,

    m(x) ≈ Σ_h c_h a_h(x) + b        a_h: what head h of the same block writes; c_h: one number; b: a vector

c_h > 0 says that the MLP amplifies what the head brought, c_h < 0 that it erases it; b is what the MLP adds whatever
the topic is: the task's own component, as in get_capital(X).
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from jaxtyping import Float, Int
from torch import Tensor


class Decomposition(NamedTuple):
    """A fitted regression, in float64."""

    coefficients: Float[Tensor, " h"]
    intercept: Float[Tensor, " d"]
    mean: Float[Tensor, " d"]  # of the outputs it was fitted to: what one says who knows no head

    def predict(self, head_outs: Float[Tensor, "n h d"]) -> Float[Tensor, "n d"]:
        """Σ_h c_h a_h + b"""
        return einsum(self.coefficients, head_outs.double(), "h, n h d -> n d") + self.intercept


class R2(NamedTuple):
    """How much smaller the squared error is than that of always saying … (1: no error; 0: no better)."""

    centred: float  # … the mean output. This one says whether the heads explain anything
    uncentred: float  # … nothing, zero. This one also praises the intercept, and most of an output may be that


def decompose_mlp(mlp_out: Float[Tensor, "n d"], head_outs: Float[Tensor, "n h d"]) -> Decomposition:
    """Least squares for one number a head and one vector, over all n prompts and d coordinates at once.

    Any vector can be a regressor as if it were a head: torch.cat([head_outs, residual[:, None]], 1).
    """
    y, a = _checked(mlp_out, head_outs)
    mean, mean_a = y.mean(0), a.mean(0)
    centred = rearrange(a - mean_a, "n h d -> (n d) h")
    target = rearrange(y - mean, "n d -> (n d) 1")
    coefficients = torch.linalg.lstsq(centred, target, driver="gelsy").solution[:, 0]
    return Decomposition(coefficients, mean - einsum(coefficients, mean_a, "h, h d -> d"), mean)


def r2(fit: Decomposition, mlp_out: Float[Tensor, "n d"], head_outs: Float[Tensor, "n h d"]) -> R2:
    """How well a fit explains these outputs, be they those it was fitted to or others."""
    y, a = _checked(mlp_out, head_outs)
    error = (y - fit.predict(a)).square().sum()
    return R2(_share(error, (y - fit.mean).square().sum()), _share(error, y.square().sum()))


def held_out_r2(
    mlp_out: Float[Tensor, "n d"], head_outs: Float[Tensor, "n h d"], group: Int[Tensor, " n"], folds: int = 5
) -> R2:
    """The same for prompts that the fit has not seen: groups (countries, templates) leave together, a fold at a time.

    Against whom: the mean of those that the fit has seen, so a negative number says that the heads mislead.
    """
    y, a = _checked(mlp_out, head_outs)
    if group.shape != (len(y),):
        raise ValueError(f"group: expected (n) = ({len(y)},), got {tuple(group.shape)}")
    _, group = group.unique(return_inverse=True)
    if not 2 <= folds <= group.max() + 1:
        raise ValueError(f"folds: expected 2 to {int(group.max()) + 1}, the number of groups, got {folds}")
    error = around_mean = y.new_zeros(())
    for fold in range(folds):
        out = group % folds == fold
        fit = decompose_mlp(y[~out], a[~out])
        error = error + (y[out] - fit.predict(a[out])).square().sum()
        around_mean = around_mean + (y[out] - fit.mean).square().sum()
    return R2(_share(error, around_mean), _share(error, y.square().sum()))


# ------------------------------------------------------------------ the causal question
def mlp(lm: Any, layer: int) -> Callable[[Float[Tensor, "*n d"]], Float[Tensor, "*n d"]]:
    """x ↦ m(x): the norm and the MLP of this block, on a residual stream that has the block's attention in it."""
    if not 0 <= layer < len(lm.layers):
        raise ValueError(f"layer: expected 0 to {len(lm.layers) - 1}, got {layer}")
    W = lm.layers[layer]

    @torch.no_grad()
    def m(x: Tensor) -> Tensor:
        h = F.rms_norm(x, x.shape[-1:], W.mlp_norm, lm.config.norm_eps)
        return F.linear(F.silu(F.linear(h, W.W_gate)) * F.linear(h, W.W_up), W.W_down)

    return m


def causal_coefficient(
    m: Callable[[Tensor], Tensor], x: Float[Tensor, "b d"], head_outs: Float[Tensor, "b h d"]
) -> Float[Tensor, "b h"]:
    """κ_h = ⟨m(x) − m(x − a_h), a_h⟩ / ‖a_h‖²: how much of a head's vector its MLP adds to it, by taking it away.

    x: what the MLP reads, residual + attn_out. κ = 1 doubles what the head brought, −1 erases it; if m were linear with
    m(a) = c a, it would be c. Not a derivative: the head is taken away whole.
    """
    if head_outs.ndim != 3 or x.shape != (head_outs.shape[0], head_outs.shape[2]):
        raise ValueError(f"head_outs: expected (b h d) for x (b d) = {tuple(x.shape)}, got {tuple(head_outs.shape)}")
    without = m(x[:, None] - head_outs)
    return ((m(x)[:, None] - without) * head_outs).sum(-1) / head_outs.square().sum(-1)


def _share(error: Tensor, of: Tensor) -> float:
    return (1 - error / of).item()


def _checked(mlp_out: Tensor, head_outs: Tensor) -> tuple[Tensor, Tensor]:
    if mlp_out.ndim != 2 or head_outs.ndim != 3 or head_outs.shape[::2] != mlp_out.shape:
        raise ValueError(
            f"head_outs: expected (n h d) for mlp_out (n d) = {tuple(mlp_out.shape)}, got {tuple(head_outs.shape)}"
        )
    if len(mlp_out) < 2:
        raise ValueError(f"mlp_out: expected at least two prompts, got {len(mlp_out)}")
    return mlp_out.double(), head_outs.double()
