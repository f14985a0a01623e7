"""Flow attention: linear against torch's own attention, chunkwise against the published formula; cost a token."""

import functools
import multiprocessing
import resource
import statistics

import torch
import torch.nn.functional as F

from labkit import flow_attention
from labkit.flow_attention import causal
from labkit.rounds import report, rounds

H, D = 4, 64
SOFTMAX = "scaled_dot_product_attention"


def inputs(t: int, h: int = H, train: bool = False) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return [x.requires_grad_(train) for x in torch.randn(3, 1, h, t, D, generator=g)]


def materialising(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """The causal formula as it is published: a matrix of d × d for every token."""
    n, Q, K = torch.arange(1, q.shape[2] + 1).to(q), q.sigmoid(), k.sigmoid()
    per_sink, per_source = (n / (x * y.cumsum(2)).sum(-1) for x, y in ((Q, K), (K, Q)))
    sink = (Q * (K * per_source[..., None]).cumsum(2)).sum(-1) / n
    source = ((K * (Q * per_sink[..., None]).cumsum(2)).sum(-1) / n).clamp(-1, 1).exp()
    c = n * source / source.cumsum(-1)
    memory = torch.einsum("bhtd,bhte->bhtde", K, c[..., None] * v).cumsum(2)
    return torch.sigmoid(sink)[..., None] * torch.einsum("bhtd,bhtde->bhte", Q * (per_sink / n)[..., None], memory)


def trained(form, x):
    """Forward and backward."""
    out = form(*x)
    (out[0] if isinstance(out, tuple) else out).sum().backward()


def peak(name: str, t: int, train: bool) -> int:
    """The most memory, in bytes, that one pass over t tokens of one head adds to a fresh process."""
    form = {"materialising": materialising, "chunkwise": causal.chunkwise}[name]
    small, x = inputs(64, 1, train), inputs(t, 1, train)
    trained(form, small) if train else form(*small)
    began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    trained(form, x) if train else form(*x)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - began) * 1024


def memory() -> None:
    """Comes first: a new process's peak is never below what its parent had when it began."""
    context = multiprocessing.get_context("spawn")
    for train in (False, True):
        found = {}
        for name in ("materialising", "chunkwise"):
            with context.Pool(1, maxtasksperchild=1) as pool:
                found[name] = pool.apply(peak, (name, 4096, train))
        a, b = found["materialising"], found["chunkwise"]
        what = "forward and backward" if train else "forward"
        print(f"{what}, one head, t = 4096: the published formula adds {a / 2**20:.0f} MiB at its peak, "
              f"chunkwise {b / 2**20:.0f} MiB: {a / b:.0f} ×")  # fmt: skip


def main() -> None:
    memory()
    x, y = inputs(4096), inputs(4096, train=True)
    took = rounds({"chunkwise": lambda: causal.chunkwise(*x), "published": lambda: materialising(*x)}, 3)
    report("causal, forward, t = 4096", took, "chunkwise")
    took = rounds(
        {"chunkwise": lambda: trained(causal.chunkwise, y), "published": lambda: trained(materialising, y)}, 2
    )
    report("causal, forward and backward, t = 4096", took, "chunkwise")

    for t in (256, 512, 1024, 2048, 4096, 8192):
        x, y = inputs(t), inputs(t, train=True)
        took = rounds(
            {"linear": lambda x=x: flow_attention.linear(*x), SOFTMAX: lambda x=x: F.scaled_dot_product_attention(*x)},
            11,
        )
        report(f"bidirectional, forward, t = {t}", took, "linear")
        took = rounds(
            {
                "linear": lambda y=y: trained(flow_attention.linear, y),
                SOFTMAX: lambda y=y: trained(F.scaled_dot_product_attention, y),
            },
            5,
        )
        report(f"bidirectional, forward and backward, t = {t}", took, "linear")

    lengths, total = [1024, 2048, 4096, 8192, 16384, 32768], 32768
    for form in (flow_attention.linear, causal.chunkwise):
        for train in (False, True):
            run = trained if train else lambda form, x: form(*x)

            def several(x, run=run, form=form):
                """The same number of tokens for each length: in one text, or in many that are shorter."""
                for _ in range(total // x[0].shape[2]):
                    run(form, x)

            took = rounds({str(t): functools.partial(several, inputs(t, train=train)) for t in lengths}, 5)
            micro = {t: 1e6 * statistics.median(took[str(t)]) / total for t in lengths}
            said = ", ".join(f"{t // 1024}k {m:.2f}" for t, m in micro.items())
            what = f"{form.__name__}, {'forward and backward' if train else 'forward'}"
            print(f"{what}, µs a token: {said}; most / least {max(micro.values()) / min(micro.values()):.2f}")


if __name__ == "__main__":
    main()
