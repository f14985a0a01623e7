"""DeltaNet as a layer, x (b t d) -> (b t d): what a model trains when the delta rule takes the place of attention.

    q, k, v = SiLU(conv(W x))    a short causal convolution for each, so that a token knows its neighbours
    q, k ← q / ‖q‖, k / ‖k‖      unit keys, with which a step erases by 1 − β and never explodes
    β = σ(W_β x)                 how much of the error is written, per head and token
    out = W_o RMSNorm(memory(q, k, v, β))

Yang et al. 2024 (arXiv 2406.06484), §3. The memory is a function, so that another one can
be put in its place and nothing else changes: `additive` is linear attention.
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
    """A layer around `memory(q, k, v, beta) -> (out, state)`; d_k and d_v are a head's, d // heads if not given."""

    def __init__(
        self, d: int, heads: int, *, d_k: int | None = None, d_v: int | None = None, memory: Memory = forms.chunkwise
    ) -> None:
        super().__init__()
        self.heads, self.memory = heads, memory
        self.d_k, self.d_v = d_k or d // heads, d_v or d // heads
        self.W_q, self.W_k, self.W_v = (nn.Linear(d, heads * n, bias=False) for n in (self.d_k, self.d_k, self.d_v))
        self.conv_q, self.conv_k, self.conv_v = (ShortConv(heads * n) for n in (self.d_k, self.d_k, self.d_v))
        self.W_b = nn.Linear(d, heads, bias=False)
        self.norm = nn.RMSNorm(self.d_v, eps=1e-5)
        self.W_o = nn.Linear(heads * self.d_v, d, bias=False)

    def forward(self, x: Float[Tensor, "b t d"]) -> Float[Tensor, "b t d"]:
        q = F.silu(self.conv_q(self.W_q(x)))
        k = F.silu(self.conv_k(self.W_k(x)))
        v = F.silu(self.conv_v(self.W_v(x)))
        q, k, v = (rearrange(y, "b t (h n) -> b h t n", h=self.heads) for y in (q, k, v))
        beta = rearrange(self.W_b(x).sigmoid(), "b t h -> b h t")
        out, _ = self.memory(F.normalize(q, dim=-1), F.normalize(k, dim=-1), v, beta)
        return self.W_o(rearrange(self.norm(out), "b h t n -> b t (h n)"))

    @property
    def state_floats(self) -> int:
        """Numbers that the layer remembers of a text, however long: d_k d_v a head."""
        return self.heads * self.d_k * self.d_v


class ShortConv(nn.Module):
    """y_t = Σ_i w_i x_{t−i}, i < WIDTH, each channel with its own w; no bias."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(WIDTH, channels).uniform_(-1, 1) * WIDTH**-0.5)

    def forward(self, x: Float[Tensor, "b t c"]) -> Float[Tensor, "b t c"]:
        past, t = F.pad(x, (0, 0, WIDTH - 1, 0)), x.shape[1]
        return sum(w * past[:, WIDTH - 1 - i :][:, :t] for i, w in enumerate(self.weight))


def additive(q: Tensor, k: Tensor, v: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
    return linear_attention.chunkwise(q, k, beta[..., None] * v)
