"""DeltaNet as a layer, x (b t d) -> (b t d): what a model trains when the delta rule takes the place of attention.

    q, k, v = SiLU(conv(W x))    a short causal convolution for each, so that a token knows the three before it
    q, k ← q / ‖q‖, k / ‖k‖      unit keys, with which a write erases 1 − β of what was there and never explodes
    β = σ(W_β x)                 how much of the error is written, per token and head
    out = W_o RMSNorm(memory(q, k, v, β))

Yang et al. 2024 (arXiv 2406.06484), §3. The memory is a function, so that another one can
be put in its place while nothing else changes: with `additive` the layer is linear attention (arXiv 2006.16236).
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float
from torch import Tensor, nn

from labkit import linear_attention

from . import forms

Memory = Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
WIDTH = 4  # tokens that the short convolution sees: this one and the three before it


class DeltaNet(nn.Module):
    """The layer around `memory(q, k, v, beta) -> (out, state)`; d_k and d_v are those of a head, or else d // heads."""

    def __init__(
        self, d: int, heads: int, *, d_k: int | None = None, d_v: int | None = None, memory: Memory = forms.chunkwise
    ) -> None:
        super().__init__()
        self.heads, self.memory = heads, memory
        d_k, d_v = d_k or d // heads, d_v or d // heads
        self.W_q, self.W_k, self.W_v = (nn.Linear(d, heads * n, bias=False) for n in (d_k, d_k, d_v))
        self.conv_q, self.conv_k, self.conv_v = (ShortConv(heads * n) for n in (d_k, d_k, d_v))
        self.W_b = nn.Linear(d, heads, bias=False)
        self.norm = nn.RMSNorm(d_v, eps=1e-5)  # one gain, for all heads
        self.W_o = nn.Linear(heads * d_v, d, bias=False)

    def forward(self, x: Float[Tensor, "b t d"]) -> Float[Tensor, "b t d"]:
        q = F.silu(self.conv_q(self.W_q(x)))
        k = F.silu(self.conv_k(self.W_k(x)))
        v = F.silu(self.conv_v(self.W_v(x)))
        q, k, v = (rearrange(y, "b t (h n) -> b h t n", h=self.heads) for y in (q, k, v))
        beta = rearrange(self.W_b(x).sigmoid(), "b t h -> b h t")
        out, _ = self.memory(F.normalize(q, dim=-1), F.normalize(k, dim=-1), v, beta)
        return self.W_o(rearrange(self.norm(out), "b h t n -> b t (h n)"))


class ShortConv(nn.Module):
    """y_t = Σ_i w_i x_{t−i}, i < WIDTH, with a w of its own for each channel; before the first token all is 0."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.empty(WIDTH, channels).uniform_(-(WIDTH**-0.5), WIDTH**-0.5))

    def forward(self, x: Float[Tensor, "b t c"]) -> Float[Tensor, "b t c"]:
        t, padded = x.shape[1], F.pad(x, (0, 0, WIDTH - 1, 0))
        shifted = torch.stack([padded[:, WIDTH - 1 - i :][:, :t] for i in range(WIDTH)])  # (i b t c)
        return (self.w[:, None, None] * shifted).sum(0)


def additive(
    q: Float[Tensor, "b h t dk"],
    k: Float[Tensor, "b h t dk"],
    v: Float[Tensor, "b h t dv"],
    beta: Float[Tensor, "b h t"],
) -> tuple[Float[Tensor, "b h t dv"], Float[Tensor, "b h dk dv"]]:
    """Linear attention in the delta rule's place, S ← S + β k vᵀ: the same, but that it writes v and not the error.

    β stays, as the gate that keeps tokens with nothing to say out of the memory.
    """
    return linear_attention.chunkwise(q, k, beta[..., None] * v)
