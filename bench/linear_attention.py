"""Linear attention: every form against fla-core's torch forms and torch's softmax attention; cost a token."""

from collections.abc import Iterator

import torch
from torch import Tensor

from bench.peers import DENSE, dense, fla, qkv
from labkit import linear_attention
from labkit.rounds import PASSES, Row, growth, memory, race


def fla_chunk(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """fla-core has the layout (b t h d): its inputs and output are views, which cost nothing here."""
    return fla("fla_linear_attention").naive_chunk_linear_attn(*(x.transpose(1, 2) for x in (q, k, v))).transpose(1, 2)


def fla_recurrent(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    layout = (x.transpose(1, 2) for x in (q, k, v))
    return fla("fla_linear_attention").naive_recurrent_linear_attn(*layout)[0].transpose(1, 2)


def main() -> Iterator[Row]:
    for peer in (fla_chunk, fla_recurrent):
        torch.testing.assert_close(peer(*qkv(512)), linear_attention.chunkwise(*qkv(512))[0], rtol=1e-3, atol=1e-3)
    ours = {"chunkwise": linear_attention.chunkwise}
    for way in PASSES:
        yield from race("linear attention", ours | {"fla-core, chunk 64": fla_chunk}, qkv, 2048, 9, way)
        yield from race("linear attention", ours | {"parallel": linear_attention.parallel}, qkv, 2048, 5, way)
        once = {"recurrent": linear_attention.recurrent, "fla-core, recurrent": fla_recurrent}
        yield from race("linear attention", once, qkv, 1024, 3, way)
        for t in (1024, 4096, 8192):
            yield from race("linear attention", ours | {DENSE: dense}, qkv, t, 5, way)
        yield from memory("linear attention", ours | {"fla-core, chunk 64": fla_chunk}, qkv, 8192, way)
        lengths = (1024, 2048, 4096, 8192, 16384)
        yield from growth("linear attention", "chunkwise", linear_attention.chunkwise, qkv, lengths, 5, way)
    yield from growth("linear attention", "recurrent", linear_attention.recurrent, qkv, (256, 512, 1024, 2048), 3)
    yield from growth("linear attention", "parallel", linear_attention.parallel, qkv, (512, 1024, 2048, 4096), 3)
