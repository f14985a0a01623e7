"""The delta rule: chunkwise and recurrent against fla-core's torch forms, torch's attention and plain products."""

import functools
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

import kernels
from bench.peers import DENSE, dense, fla, qkv
from labkit import delta_rule
from labkit.rounds import PASSES, Row, growth, memory, race, ratios, rounds

H, D, CHUNK = 4, 64, 64


def inputs(t: int, device: str = "cpu", dtype: torch.dtype = torch.float32) -> list[Tensor]:
    q, k, v = qkv(t, H, D, device, dtype)
    return [q, F.normalize(k, dim=-1), v, torch.rand(1, H, t, generator=torch.Generator().manual_seed(1)).to(q)]


def fla_chunk(q: Tensor, k: Tensor, v: Tensor, beta: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
    return fla("fla_delta_rule").delta_rule_chunkwise(q, k, v, beta, chunk_size=chunk)


FLA = {f"fla-core, chunk {chunk}": functools.partial(fla_chunk, chunk=chunk) for chunk in (32, 64)}


def products(t: int) -> int:
    """How many products of 64 × 64 matrices have a forward pass's FLOPs, 6 d² + 8 C d + C² / 3 a token and head."""
    return round(t * H * (6 * D * D + 8 * CHUNK * D + CHUNK * CHUNK / 3) / (2 * D**3))


def main() -> Iterator[Row]:
    for peer in (*FLA.values(), fla("fla_delta_rule").delta_rule_recurrence):
        torch.testing.assert_close(peer(*inputs(512)), delta_rule.chunkwise(*inputs(512)), rtol=1e-3, atol=1e-4)
    ours = {"chunkwise": delta_rule.chunkwise}
    for way in PASSES:
        yield from race("delta rule", ours | FLA, inputs, 2048, 9, way)
        once = {"recurrent": delta_rule.recurrent, "fla-core, recurrent": fla("fla_delta_rule").delta_rule_recurrence}
        yield from race("delta rule", once, inputs, 1024, 3, way)
        yield from race("delta rule", ours | {"recurrent": delta_rule.recurrent}, inputs, 2048, 3, way)
        for t in (2048, 8192):
            yield from race("delta rule", ours | {DENSE: dense}, inputs, t, 3, way)
    yield from race("delta rule", ours | {"parallel": delta_rule.parallel}, inputs, 1024, 5)

    A, x = torch.randn(products(2048), D, D), inputs(2048)
    flops = {"chunkwise": lambda: delta_rule.chunkwise(*x), "bmm of as many FLOPs": lambda: torch.bmm(A, A)}
    yield from ratios("delta rule, forward, t = 2048", rounds(flops, 15), "chunkwise")

    for way in PASSES:
        yield from memory("delta rule", ours | FLA, inputs, 8192, way)
        yield from growth(
            "delta rule", "chunkwise", delta_rule.chunkwise, inputs, (1024, 2048, 4096, 8192, 16384), 5, way
        )
    yield from growth("delta rule", "recurrent", delta_rule.recurrent, inputs, (256, 512, 1024, 2048), 3)
    if kernels.WHERE == "compiled":
        yield from compiled(functools.partial(inputs, device="cuda"), 8192, 20)


def compiled(make, t: int, n: int) -> Iterator[Row]:
    """The kernels on the GPU."""
    forms = {"kernel": delta_rule.kernel, "chunkwise": delta_rule.chunkwise, **FLA, DENSE: dense}
    for way in PASSES:
        yield from race("delta rule, GPU", forms, make, t, n, way)
