"""Flow attention: linear against torch's own attention, chunkwise against the published formula; cost a token."""

import functools
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

import kernels
from bench.peers import DENSE, dense, qkv
from labkit import flow_attention
from labkit.flow_attention import causal
from labkit.rounds import PASSES, Row, growth, memory, race


def published(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """The causal formula as it is published (arXiv 2202.06258, its code): a matrix of d × d for every token."""
    n, Q, K = torch.arange(1, q.shape[2] + 1).to(q), q.sigmoid(), k.sigmoid()
    per_sink, per_source = (n / (x * y.cumsum(2)).sum(-1) for x, y in ((Q, K), (K, Q)))
    sink = (Q * (K * per_source[..., None]).cumsum(2)).sum(-1) / n
    source = ((K * (Q * per_sink[..., None]).cumsum(2)).sum(-1) / n).clamp(-1, 1).exp()
    c = n * source / source.cumsum(-1)
    memory = torch.einsum("bhtd,bhte->bhtde", K, c[..., None] * v).cumsum(2)
    return torch.sigmoid(sink)[..., None] * torch.einsum("bhtd,bhtde->bhte", Q * (per_sink / n)[..., None], memory)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """torch's softmax attention, every query to every key."""
    return F.scaled_dot_product_attention(q, k, v)


def main() -> Iterator[Row]:
    torch.testing.assert_close(published(*qkv(512)), causal.chunkwise(*qkv(512))[0], rtol=1e-3, atol=1e-4)
    both = {"chunkwise": causal.chunkwise, "published formula": published}
    for way in PASSES:
        yield from race("causal", both, qkv, 2048, 3, way)
        yield from memory("causal", both, functools.partial(qkv, h=1), 4096, way)
        for t in (1024, 4096, 8192):
            yield from race("causal", {"chunkwise": causal.chunkwise, DENSE: dense}, qkv, t, 3, way)
        for t in (256, 1024, 4096, 8192):
            n = 9 if t <= 1024 else 3
            yield from race("bidirectional", {"linear": flow_attention.linear, DENSE: attend}, qkv, t, n, way)
        for what, form in (("bidirectional", flow_attention.linear), ("causal", causal.chunkwise)):
            yield from growth(what, form.__name__, form, qkv, (1024, 2048, 4096, 8192, 16384), 5, way)
    definition = {"linear": flow_attention.linear, "pairwise": flow_attention.pairwise}
    yield from race("bidirectional", definition, qkv, 2048, 5)
    yield from race("causal", {"chunkwise": causal.chunkwise, "recurrent": causal.recurrent}, qkv, 1024, 3)
    yield from growth("causal", "recurrent", causal.recurrent, qkv, (256, 512, 1024, 2048), 3)
    if kernels.WHERE == "compiled":
        yield from compiled(functools.partial(qkv, device="cuda"), 8192, 20)


def compiled(make, t: int, n: int) -> Iterator[Row]:
    """The kernels on the GPU."""
    for way in PASSES:
        forms = {"kernel": flow_attention.kernel, "linear": flow_attention.linear, DENSE: attend}
        yield from race("bidirectional, GPU", forms, make, t, n, way)
        forms = {"kernel": causal.kernel, "chunkwise": causal.chunkwise, DENSE: dense}
        yield from race("causal, GPU", forms, make, t, n, way)
