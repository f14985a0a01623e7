"""The delta rule: chunkwise against a peer, against torch's own products and attention; cost and memory a token."""

import functools
import importlib.util
import multiprocessing
import resource
import statistics
from types import ModuleType

import torch
import torch.nn.functional as F

from labkit import assets, delta_rule
from labkit.rounds import report, rounds

H, D, CHUNK = 4, 64, 64


def peer() -> ModuleType:
    """fla-core's delta rule in plain torch, from its own file."""
    spec = importlib.util.spec_from_file_location("fla_delta_rule", assets.path("fla_delta_rule"))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def inputs(t: int, train: bool = False) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 1, H, t, D, generator=g)
    return [x.requires_grad_(train) for x in (q, F.normalize(k, dim=-1), v, torch.rand(1, H, t, generator=g))]


def trained(form, x, **options):
    """Forward and backward."""
    out = form(*x, **options)
    (out[0] if isinstance(out, tuple) else out).sum().backward()


def products(t: int) -> int:
    """How many products of 64 × 64 matrices have a forward pass's FLOPs, 6 d² + 8 C d + C² / 3 a token and head."""
    return round(t * H * (6 * D * D + 8 * CHUNK * D + CHUNK * CHUNK / 3) / (2 * D**3))


def peak(t: int) -> int:
    """The most memory, in bytes, of a fresh process that trains on t tokens once."""
    trained(delta_rule.chunkwise, inputs(t, train=True))
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def memory() -> None:
    """Comes first: a new process's peak is never below what its parent had when it began."""
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        peaks = {t: pool.apply(peak, (t,)) for t in (8192, 16384, 32768)}
    a, b, c = peaks.values()
    print(f"training's peak memory, bytes a token and head: {(b - a) / 8192 / H:.0f} from 8k to 16k, "
          f"{(c - b) / 16384 / H:.0f} from 16k to 32k")  # fmt: skip


def main() -> None:
    memory()
    fla = peer().delta_rule_chunkwise
    x, y = inputs(2048), inputs(2048, train=True)
    for c in (32, 64):
        name = f"fla-core, chunk {c}"
        took = rounds({"chunkwise": lambda: delta_rule.chunkwise(*x), name: lambda c=c: fla(*x, chunk_size=c)}, 21)
        report("forward, t = 2048", took, "chunkwise")
        took = rounds(
            {"chunkwise": lambda: trained(delta_rule.chunkwise, y), name: lambda c=c: trained(fla, y, chunk_size=c)}, 9
        )
        report("forward and backward, t = 2048", took, "chunkwise")
    took = rounds(
        {"chunkwise": lambda: trained(delta_rule.chunkwise, y), "recurrent": lambda: trained(delta_rule.recurrent, y)},
        2,
    )
    report("forward and backward, t = 2048", took, "chunkwise")

    A = torch.randn(products(2048), D, D)
    took = rounds({"chunkwise": lambda: delta_rule.chunkwise(*x), "bmm of as many FLOPs": lambda: torch.bmm(A, A)}, 21)
    report("forward, t = 2048", took, "chunkwise")

    for t in (4096, 8192):
        x, y = inputs(t), inputs(t, train=True)
        softmax = "scaled_dot_product_attention"

        def attend(q, k, v, _):
            return F.scaled_dot_product_attention(q, k, v, is_causal=True)

        took = rounds({"chunkwise": lambda x=x: delta_rule.chunkwise(*x), softmax: lambda x=x: attend(*x)}, 5)
        report(f"forward, t = {t}", took, "chunkwise")
        took = rounds(
            {"chunkwise": lambda y=y: trained(delta_rule.chunkwise, y), softmax: lambda y=y: trained(attend, y)}, 3
        )
        report(f"forward and backward, t = {t}", took, "chunkwise")

    lengths = [1024, 2048, 4096, 8192, 16384, 32768]
    ways = {
        "forward": lambda x: delta_rule.chunkwise(*x),
        "forward and backward": lambda x: trained(delta_rule.chunkwise, x),
    }
    for what, run in ways.items():
        at = {t: inputs(t, train=what != "forward") for t in lengths}
        took = rounds({str(t): functools.partial(run, x) for t, x in at.items()}, 7)
        micro = {t: 1e6 * statistics.median(took[str(t)]) / t for t in lengths}
        said = ", ".join(f"{t // 1024}k {m:.1f}" for t, m in micro.items())
        print(f"{what}, µs a token: {said}; most / least {max(micro.values()) / min(micro.values()):.2f}")


if __name__ == "__main__":
    main()
