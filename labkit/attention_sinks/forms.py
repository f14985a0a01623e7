"""Sink attention: a query sees the first `n_sink` tokens, the `window` tokens before it, and itself.

StreamingLLM, Xiao et al. 2023 (arXiv 2309.17453), §3.2; learnable sink logits as gpt-oss has them.
All forms take the same arguments and agree to rounding:

    q, k: (b h t d_k); v: (b h t d_v); n_sink, window: integers >= 0; scale: None means d_k ** -0.5;
    sink_logits: (h) or None, one logit a head that joins the softmax's denominator and carries no value.
    Returns out (b h t d_v) in q's dtype; half precision is accumulated in float32.
"""

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from jaxtyping import Bool, Float
from torch import Tensor

from kernels.inputs import check_qkv, widest

Queries = Float[Tensor, "b h t dk"]
Values = Float[Tensor, "b h t dv"]
PerHead = Float[Tensor, " h"]


def visible(t: int, n_sink: int, window: int) -> Bool[Tensor, "t t"]:
    """Which key j (column) a query i (row) sees: j <= i, and j is a sink or at most `window` tokens back."""
    i, j = torch.arange(t)[:, None], torch.arange(t)
    return (j <= i) & ((j < n_sink) | (i - j <= window))


def masked(
    q: Queries,
    k: Queries,
    v: Values,
    *,
    n_sink: int,
    window: int,
    scale: float | None = None,
    sink_logits: PerHead | None = None,
) -> Values:
    """The definition: softmax(q kᵀ · scale) over the keys that `visible` allows, times v. Cost t²."""
    q, k, v, scale, dtype = checked(q, k, v, n_sink, window, scale, sink_logits)
    scores = einsum(q, k, "b h i d, b h j d -> b h i j") * scale
    scores = scores.masked_fill(~visible(q.shape[2], n_sink, window).to(q.device), -torch.inf)
    pattern = softmax_with_sink(scores, sink_logits)
    return einsum(pattern, v, "b h i j, b h j d -> b h i d").to(dtype)


def banded(
    q: Queries,
    k: Queries,
    v: Values,
    *,
    n_sink: int,
    window: int,
    scale: float | None = None,
    sink_logits: PerHead | None = None,
) -> Values:
    """The same in time and memory linear in t: blocks of queries meet their band of keys, and the sinks.

    Queries go in n blocks; a block's band is the `window` keys before it and its own. Cost t · (window + block).
    """
    q, k, v, scale, dtype = checked(q, k, v, n_sink, window, scale, sink_logits)
    t = q.shape[2]
    window, n_sink = min(window, t), min(n_sink, t)
    block = max(window, 32)
    n = -(-t // block)
    if n == 0:
        return v.to(dtype)
    rest = n * block - t
    q = rearrange(F.pad(q, (0, 0, 0, rest)), "b h (n i) d -> b h n i d", n=n)
    band_k = F.pad(k, (0, 0, window, rest)).unfold(2, window + block, block)  # (b h n d j)
    band_v = F.pad(v, (0, 0, window, rest)).unfold(2, window + block, block)

    i = rearrange(torch.arange(n * block, device=q.device), "(n i) -> n i 1", n=n)
    j = i[:, :1] - window + torch.arange(window + block, device=q.device)  # (n 1 j), negative before the text
    in_band = (j >= 0) & (j <= i) & (i - j <= window)
    before_band = torch.arange(n_sink, device=q.device) < i - window  # a sink inside the band counts once

    near = einsum(q, band_k, "b h n i d, b h n d j -> b h n i j") * scale
    far = einsum(q, k[:, :, :n_sink], "b h n i d, b h s d -> b h n i s") * scale
    scores = torch.cat([near.masked_fill(~in_band, -torch.inf), far.masked_fill(~before_band, -torch.inf)], -1)
    near, far = softmax_with_sink(scores, sink_logits).split([window + block, n_sink], -1)
    out = einsum(near, band_v, "b h n i j, b h n d j -> b h n i d")
    out = out + einsum(far, v[:, :, :n_sink], "b h n i s, b h s d -> b h n i d")
    return rearrange(out, "b h n i d -> b h (n i) d")[:, :, :t].to(dtype)


def kernel(
    q: Queries,
    k: Queries,
    v: Values,
    *,
    n_sink: int,
    window: int,
    scale: float | None = None,
    sink_logits: PerHead | None = None,
) -> Values:
    """The same as a Triton kernel: online softmax, blocks outside the band are skipped (kernels/attention_sinks.py)."""
    from kernels.attention_sinks import sink_attention

    _, _, _, scale, _ = checked(q, k, v, n_sink, window, scale, sink_logits)
    return sink_attention(q, k, v, n_sink=n_sink, window=window, scale=scale, sink_logits=sink_logits)


def softmax_with_sink(
    scores: Float[Tensor, "b h *rest s"], sink_logits: PerHead | None
) -> Float[Tensor, "b h *rest s"]:
    """Softmax over the last axis with one more logit a head in the denominator: exp(s) / (Σ exp(s) + exp(sink))."""
    if sink_logits is None:
        return scores.softmax(-1)
    shape = (1, -1, *(1 for _ in scores.shape[2:]))
    column = sink_logits.to(scores.dtype).reshape(shape).expand(*scores.shape[:-1], 1)
    return torch.cat([scores, column], -1).softmax(-1)[..., :-1]


def checked(
    q: Tensor, k: Tensor, v: Tensor, n_sink: int, window: int, scale: float | None, sink_logits: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, float, torch.dtype]:
    """Refuse bad input in one line; otherwise q, k, v in the dtype to accumulate in, the scale, and q's dtype."""
    check_qkv(q, k, v)
    check_sizes(n_sink, window)
    if sink_logits is not None and (not isinstance(sink_logits, Tensor) or sink_logits.shape != q.shape[1:2]):
        got = f"{tuple(sink_logits.shape)}" if isinstance(sink_logits, Tensor) else type(sink_logits).__name__
        raise ValueError(f"sink_logits: expected (h) = ({q.shape[1]},), one a head, got {got}")
    wide = widest(q)
    return q.to(wide), k.to(wide), v.to(wide), q.shape[-1] ** -0.5 if scale is None else scale, q.dtype


def check_sizes(n_sink: int, window: int) -> None:
    """Refuse a number of sinks or a window that is not an integer >= 0."""
    for name, n in (("n_sink", n_sink), ("window", window)):
        if not isinstance(n, int) or isinstance(n, bool) or n < 0:
            raise ValueError(f"{name}: expected an integer >= 0, got {n!r}")
