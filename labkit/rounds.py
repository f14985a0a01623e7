"""Measuring side by side: every round times all contestants in turn, so that a busy machine slows all of them alike.

What is measured is a `Row`. A benchmark is a generator of rows: bench/NAME.py's `main`, run by `labkit bench NAME`.
"""

import functools
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from labkit.peak import peak

Form = Callable[..., Any]


class Row(NamedTuple):
    """One measurement: the median over the rounds, the least and the most, and of what."""

    what: str
    ours: str
    peer: str  # empty where nothing is compared
    median: float
    low: float
    high: float
    rounds: int
    unit: str  # "of the time" and "of the memory" are ratios, ours / peer: below 1, ours takes less

    def __str__(self) -> str:
        spread = f" ({self.low:.3g} to {self.high:.3g})" if self.rounds > 1 else ""
        return f"{self.what:68} {self.ours}{self.peer and f' / {self.peer}'}: {self.median:.3g} {self.unit}{spread}"


def row(what: str, ours: str, values: Sequence[float], unit: str, peer: str = "") -> Row:
    """The row of one value a round."""
    return Row(what, ours, peer, statistics.median(values), min(values), max(values), len(values), unit)


def rounds(contestants: Mapping[str, Callable[[], object]], n: int = 5) -> dict[str, list[float]]:
    """Seconds of each contestant in each of n rounds, after one round that does not count."""
    took: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(n + 1):
        for name, run in contestants.items():
            began = time.perf_counter()
            run()
            if torch.cuda.is_initialized():
                torch.cuda.synchronize()  # a GPU has only been told what to do
            if number:
                took[name].append(time.perf_counter() - began)
    return took


def ratios(what: str, took: Mapping[str, Sequence[float]], ours: str) -> Iterator[Row]:
    """A row for each peer: our time divided by the peer's in the same round."""
    for peer in took:
        if peer != ours:
            values = [a / b for a, b in zip(took[ours], took[peer], strict=True)]
            yield row(what, ours, values, "of the time", peer)


# ------------------------------------------------------------------ forms: functions of the tensors x
def forward(form: Form, x: Sequence[Tensor]) -> None:
    form(*x)


def trained(form: Form, x: Sequence[Tensor]) -> None:
    """Forward and backward."""
    out = form(*x)
    (out[0] if isinstance(out, tuple) else out).sum().backward()


PASSES: dict[str, Callable[[Form, Sequence[Tensor]], None]] = {"forward": forward, "forward and backward": trained}


def inputs(make: Callable[[int], Sequence[Tensor]], t: int, way: str) -> list[Tensor]:
    """make(t), as leaves of their own that take a gradient where the pass goes backward too."""
    return [x.detach().requires_grad_(PASSES[way] is trained) for x in make(t)]


def race(
    what: str, forms: Mapping[str, Form], make: Callable[[int], Sequence[Tensor]], t: int, n: int, way: str = "forward"
) -> Iterator[Row]:
    """The first of the forms against the others, on the same t tokens, in n rounds."""
    x = inputs(make, t, way)
    took = rounds({name: functools.partial(PASSES[way], form, x) for name, form in forms.items()}, n)
    yield from ratios(f"{what}, {way}, t = {t}", took, next(iter(forms)))


def memory(
    what: str, forms: Mapping[str, Form], make: Callable[[int], Sequence[Tensor]], t: int, way: str = "forward"
) -> Iterator[Row]:
    """What one pass adds at its peak: the first of the forms in MiB, then as a ratio to each of the others.

    Every form runs in a fresh process, so forms and `make` are functions of a module.
    """
    held = {name: peak(functools.partial(PASSES[way], form), functools.partial(inputs, make, way=way), 64, t)
            for name, form in forms.items()}  # fmt: skip
    ours, *peers = held
    what = f"{what}, {way}, t = {t}, peak memory"
    yield row(what, ours, [held[ours] / 2**20], "MiB")
    for peer in peers:
        yield row(what, ours, [held[ours] / held[peer]], "of the memory", peer)


def growth(
    what: str,
    ours: str,
    form: Form,
    make: Callable[[int], Sequence[Tensor]],
    lengths: Sequence[int],
    n: int,
    way: str = "forward",
) -> Iterator[Row]:
    """How time grows with t: the exponent p of time ~ t^p, and microseconds a token, cheapest and dearest length.

    Every length gets the same number of tokens in all: in one text, or in many that are shorter.
    """
    total = max(lengths)

    def texts(x: Sequence[Tensor], number: int) -> None:
        for _ in range(number):
            PASSES[way](form, x)

    took = rounds({str(t): functools.partial(texts, inputs(make, t, way), total // t) for t in lengths}, n)
    seconds = [[took[str(t)][i] * t / total for t in lengths] for i in range(n)]  # of one text of t tokens
    span = f"{what}, {way}, t = {min(lengths)} to {total}"
    yield row(span, ours, [exponent(lengths, of_round) for of_round in seconds], "= p of time ~ t^p")
    yield row(span, ours, [1e6 * statistics.median(took[str(t)]) / total for t in lengths], "µs a token over lengths")


def exponent(lengths: Sequence[int], seconds: Sequence[float]) -> float:
    """The slope of log seconds on log t, by least squares: 1 is linear in t, 2 quadratic."""
    return float(np.polyfit(np.log(lengths), np.log(seconds), 1)[0])
