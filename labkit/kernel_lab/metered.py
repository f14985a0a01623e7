"""Kernel exercises that are scored: besides the result, what a kernel reads and writes beyond the least is judged.

    Exercise(…, reference=kernel, through=metered(launch, least))

The elements of a load or store are those of its lanes that are not masked off; one that several lanes ask for in the
same load counts once, and an atomic reads and writes. Compiled kernels cannot be watched: there only the result counts.
"""

import inspect
import textwrap
from collections import Counter
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

import kernels
from labkit.course import Exercise, find, launched
from labkit.course.judging import shown
from labkit.course.running import Outcome, outcome

if TYPE_CHECKING:  # watching needs Triton
    from labkit.kernel_lab.tiles import Access

READ, WRITTEN = "elements read beyond the least", "elements written beyond the least"
SPACE = 4096  # elements on either side of a tensor


def metered(launch: Callable[..., dict[str, Tensor]], least: Callable[..., tuple[int, int]]) -> Callable:
    """A `through` that adds to the results of launch(kernel, x, …) how many elements too many were read and written.

    `launch` gets a probe's arguments, its tensors lying apart, and returns the results by name; `least` gets the same
    arguments without the kernel and returns the elements that must be loaded and stored. Fewer is as good as the least.
    Where kernels run compiled, nothing is counted and both numbers are 0.
    """

    def counting(kernel: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        inside = [apart(value) if isinstance(value, Tensor) else value for value in args]
        if kernels.WHERE == "interpreted":
            from labkit.kernel_lab.tiles import trace

            with trace() as log:
                result = launch(kernel, *inside, **kwargs)
            loads, stores = (sum(counts.values()) for counts in touched(log))
            read, written = least(*args, **kwargs)
            beyond = {READ: max(0, loads - read), WRITTEN: max(0, stores - written)}
        else:
            result, beyond = launch(kernel, *inside, **kwargs), {READ: 0, WRITTEN: 0}
        for value, used in zip(args, inside, strict=True):
            if isinstance(value, Tensor):
                value.copy_(used)  # a kernel that writes into its input is seen
        return {**{name: x.clone() for name, x in result.items()}, **beyond}

    return launched(counting)


def apart(x: Tensor) -> Tensor:
    """A contiguous copy with memory around it that belongs to no tensor, so that what leaves x is always noticed."""
    memory = x.new_full((x.numel() + 2 * SPACE,), torch.nan if x.is_floating_point() else 0)
    return memory[SPACE : SPACE + x.numel()].view(x.shape).copy_(x)


def unwritten(like: Tensor, *shape: int) -> Tensor:
    """Room for a result, lying apart and full of NaN, so that what a kernel leaves unwritten is noticed."""
    return apart(like.new_full(shape, torch.nan))


def touched(log: Iterable["Access"]) -> tuple[Counter[str], Counter[str]]:
    """The elements that a trace loads and stores, by the name of the tensor."""
    loads: Counter[str] = Counter()
    stores: Counter[str] = Counter()
    for access in log:
        number = len(np.unique(access.elements))
        if access.kind != "store":
            loads[access.name] += number
        if access.kind != "load":
            stores[access.name] += number
    return loads, stores


def score(id: str, fn: Callable) -> None:
    """Print what a learner's kernel moves on the last probe, tensor by tensor, beside what the reference moves."""
    print(score_text(id, fn))


def score_text(id: str, fn: Callable) -> str:
    """The table that `score` prints. `fn` is what the exercise's decorator made; unwritten, it is the reference's."""
    asked = find(id)
    if kernels.WHERE != "interpreted":
        where = "does not exist" if kernels.WHERE == "nowhere" else "runs compiled"
        return f"{id}: only interpreted kernels are scored, and here Triton {where}"
    done, moved = watched(asked, getattr(fn, "__wrapped__", fn))
    _, least = watched(asked, asked.reference)
    if done.status == "error":
        return f"{id}: no score, the kernel stops with {done.message}"
    who = "your kernel"
    if done.status == "todo":
        who, moved = "not written yet, this is the reference", least
    rows = [(name, *moved.get(name, (0, 0, 0)), *least.get(name, (0, 0, 0))) for name in {**least, **moved}]
    rows.append(("all", *(sum(column) for column in list(zip(*rows, strict=True))[1:])))
    lines = [["tensor", "loads", "least", "stores", "least", "bytes", "least"]]
    lines += [[name, *(f"{n:,}" for n in (a, x, b, y, c, z))] for name, a, b, c, x, y, z in rows]
    wide = [max(map(len, column)) for column in zip(*lines, strict=True)]
    table = [
        f"{line[0]:<{wide[0]}}" + "".join(f"  {n:>{w}}" for n, w in zip(line[1:], wide[1:], strict=True))
        for line in lines
    ]
    return "\n".join([*textwrap.wrap(f"{shown(asked, asked.probes(0)[-1])}: {who}", 92), *table])


def watched(asked: Exercise, fn: Callable) -> tuple[Outcome, dict[str, tuple[int, int, int]]]:
    """What became of a kernel on the last probe, and (elements loaded, elements stored, bytes) of each tensor it used.

    A tensor goes by the reference's name for it, whatever the learner calls it.
    """
    from labkit.kernel_lab.tiles import trace

    fn = getattr(fn, "fn", fn)
    with trace() as log:
        done = outcome(asked.answer(fn), asked.probes(0)[-1])
    names = dict(zip(inspect.signature(fn).parameters, inspect.signature(asked.reference).parameters, strict=False))
    width = {access.name: access.bytes // len(access.elements) for access in log}
    loads, stores = touched(log)
    return done, {
        names[name]: (loads[name], stores[name], (loads[name] + stores[name]) * width[name])
        for name in names
        if name in width
    }
