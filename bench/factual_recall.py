"""The logit lens block by block against all logits at once: memory and time, over 31 layers × 6 positions."""

import functools
import multiprocessing
import resource
from collections.abc import Callable

import torch
import torch.nn.functional as F

from kernels.factual_recall import Lens, logit_lens_torch
from labkit.rounds import report, rounds

LAYERS, POSITIONS, D, VOCAB, EPS = 31, 6, 576, 49152, 1e-5
Given = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]


def all_logits(x: torch.Tensor, gain: torch.Tensor, W: torch.Tensor, ids: torch.Tensor, *, eps: float) -> Lens:
    """The same statistics, from all n × vocab logits."""
    s = F.linear(F.rms_norm(x, gain.shape, gain, eps), W)
    chosen = s.gather(1, ids)
    with torch.no_grad():
        rank = torch.stack([(s > own[:, None]).sum(1) for own in chosen.unbind(1)], 1)
        top_logit, top = s.max(1)
    return Lens(s.logsumexp(1), chosen, rank, top, top_logit)


FORMS: dict[str, Callable[..., Lens]] = {"all logits": all_logits, "block by block": logit_lens_torch}


def inputs(n: int, train: bool) -> Given:
    g = torch.Generator().manual_seed(0)
    x, gain, W = torch.randn(n, D, generator=g), torch.rand(D, generator=g), torch.randn(VOCAB, D, generator=g)
    return x.requires_grad_(train), gain, W, torch.randint(VOCAB, (n, 2), generator=g)


def run(name: str, given: Given, train: bool) -> Lens:
    """Forward, and backward to the residuals where they are trained."""
    out = FORMS[name](*given, eps=EPS)
    if train:
        torch.autograd.grad((out.logits - out.lse[:, None]).sum(), given[0])
    return out


def peak(name: str, n: int, train: bool) -> int:
    """The most memory, in bytes, that one pass over n residuals adds to a fresh process."""
    x, gain, W, ids = inputs(n, train)
    run(name, (x[:1], gain, W[:64], ids[:1] % 64), train)
    began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    run(name, (x, gain, W, ids), train)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - began) * 1024


def memory(n: int, train: bool) -> dict[str, int]:
    """Bytes of each form. Comes first: a new process's peak is never below what its parent had when it began."""
    found, context = {}, multiprocessing.get_context("spawn")
    for name in FORMS:
        with context.Pool(1, maxtasksperchild=1) as pool:
            found[name] = pool.apply(peak, (name, n, train))
    return found


def main() -> None:
    several = [(n, train) for n in (LAYERS * POSITIONS, 4 * LAYERS * POSITIONS) for train in (False, True)]
    for n, train in several:
        a, b = memory(n, train).values()
        what = "forward and backward" if train else "forward"
        print(f"{what}, {n} residuals: all logits add {a / 2**20:.0f} MiB at the peak, "
              f"block by block {b / 2**20:.1f} MiB: {a / b:.0f} ×")  # fmt: skip
    for n, train in several:
        given = inputs(n, train)
        took = rounds({name: functools.partial(run, name, given, train) for name in FORMS}, 7)
        what = "forward and backward" if train else "forward"
        report(f"{what}, {n} residuals", took, "block by block")


if __name__ == "__main__":
    main()
