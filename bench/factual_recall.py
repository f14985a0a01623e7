"""The logit lens block by block against all logits at once: memory and time, over 31 layers × 6 positions."""

import functools
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

import kernels
from kernels.factual_recall import Lens, logit_lens, logit_lens_torch
from labkit.peak import peak
from labkit.rounds import Row, ratios, rounds, row

LAYERS, POSITIONS, D, VOCAB, EPS = 31, 6, 576, 49152, 1e-5
Given = tuple[Tensor, Tensor, Tensor, Tensor]


def all_logits(x: Tensor, gain: Tensor, W: Tensor, ids: Tensor, *, eps: float) -> Lens:
    """The same statistics, from all n × vocab logits."""
    s = F.linear(F.rms_norm(x, gain.shape, gain, eps), W)
    chosen = s.gather(1, ids)
    with torch.no_grad():
        rank = torch.stack([(s > own[:, None]).sum(1) for own in chosen.unbind(1)], 1)
        top_logit, top = s.max(1)
    return Lens(s.logsumexp(1), chosen, rank, top, top_logit)


FORMS: dict[str, Callable[..., Lens]] = {"block by block": logit_lens_torch, "all logits": all_logits}


def inputs(n: int, train: bool, device: str = "cpu", vocab: int = VOCAB) -> Given:
    g = torch.Generator().manual_seed(0)
    x, gain, W = torch.randn(n, D, generator=g), torch.rand(D, generator=g), torch.randn(vocab, D, generator=g)
    ids = torch.randint(vocab, (n, 2), generator=g)
    return x.to(device).requires_grad_(train), gain.to(device), W.to(device), ids.to(device)


def run(form: Callable[..., Lens], given: Given) -> None:
    """Forward, and backward to the residuals where they are trained."""
    out = form(*given, eps=EPS)
    if given[0].requires_grad:
        torch.autograd.grad((out.logits - out.lse[:, None]).sum(), given[0])


def main() -> Iterator[Row]:
    torch.testing.assert_close(all_logits(*inputs(6, False), eps=EPS), logit_lens_torch(*inputs(6, False), eps=EPS))
    for n in (LAYERS * POSITIONS, 4 * LAYERS * POSITIONS):
        for train in (False, True):
            what = f"logit lens, forward{' and backward' * train}, {n} residuals"
            make = functools.partial(inputs, train=train)
            held = {name: peak(functools.partial(run, form), make, 1, n) for name, form in FORMS.items()}
            ours, peer = FORMS
            yield row(f"{what}, peak memory", ours, [held[ours] / 2**20], "MiB")
            yield row(f"{what}, peak memory", ours, [held[ours] / held[peer]], "of the memory", peer)
            yield from timed(what, FORMS, make(n), 5)
    if kernels.WHERE == "compiled":
        yield from compiled("cuda", VOCAB, 20)


def timed(what: str, forms: dict[str, Callable[..., Lens]], given: Given, n: int) -> Iterator[Row]:
    """The first of the forms against the others."""
    took = rounds({name: functools.partial(run, form, given) for name, form in forms.items()}, n)
    yield from ratios(what, took, next(iter(forms)))


def compiled(device: str, vocab: int, n: int) -> Iterator[Row]:
    """The kernel on the GPU."""
    for train in (False, True):
        given = inputs(LAYERS * POSITIONS, train, device, vocab)
        yield from timed(f"logit lens, forward{' and backward' * train}, GPU", {"kernel": logit_lens} | FORMS, given, n)
