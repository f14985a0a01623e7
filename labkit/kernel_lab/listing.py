"""Every kernel of the house as text: its machine code on GPUs that are not here, its work, and where that lands."""

import importlib
import pkgutil
from collections.abc import Iterator, Sequence
from typing import Any

import torch

import kernels
from kernels import Case
from labkit.kernel_lab.ahead import TARGETS
from labkit.kernel_lab.report import Report, compile_report
from labkit.kernel_lab.roofline import GPUS, land
from labkit.kernel_lab.work import Work, work

DEFAULT = tuple(gpu.target for gpu in GPUS.values())
CODE = ["target", "registers", "spilled", "occ.", "limited-by", "shared", "MMAs", "instructions"]
LANDS = ["MFLOP", "matrix", "MB-once", "MB-all", "FLOP/B", "GPU", "ridge", "bound", "µs", "roof"]
NOTE = (
    "On paper: counted in the interpreter, data sheets' peaks, nothing timed. ~: from some of the programs.\n"
    "MB-once: each element once; MB-all: what the programs ask for together. FLOP/B, bound and µs, the least time,\n"
    "go by MB-once; roof: the share of the peak that memory allows."
)


def rooms() -> dict[str, tuple[Case, ...]]:
    """{name: CASES} of every file or folder in kernels/ that has CASES."""
    found = {module.name: kernels_of(module.name) for module in pkgutil.iter_modules(kernels.__path__)}
    return {name: cases for name, cases in found.items() if cases}


def kernels_of(room: str) -> tuple[Case, ...]:
    kernels.need()
    return getattr(importlib.import_module(f"kernels.{room}"), "CASES", ())


def listing(room: str, targets: Sequence[str] = DEFAULT, only: str = "") -> Iterator[str]:
    """The two tables of a room, a line at a time as it is compiled or counted, at most 120 columns wide.

    only: no other cases than those with this in their names, such as "bfloat16 d=64". Raises ValueError for a room, a
    target or a name that there is not, before anything is compiled.
    """
    cases = chosen(room, targets, only)
    width = max(len(case.name) for case in cases)
    yield f"{room}: machine code"
    yield line("kernel", CODE, width, "<>>><>>>")
    for case in cases:
        for target in targets:
            yield line(case.name, code(compile_report(case, target)), width, "<>>><>>>")
    if kernels.WHERE != "interpreted":
        yield "work is counted in the interpreter: set TRITON_INTERPRET=1 before Python starts"
        return
    yield ""
    yield f"{room}: work of a launch, and the roofline"
    yield line("kernel", LANDS, width, ">>>>><><>>")
    counts: dict[Any, Work] = {}
    for case in cases:
        key = shapes(case)
        if key not in counts:
            counts[key] = work(case)
        for gpu, about in GPUS.items():
            if about.target in targets:
                yield line(case.name, lands(counts[key], gpu), width, ">>>>><><>>")
    yield NOTE


def chosen(room: str, targets: Sequence[str], only: str) -> list[Case]:
    """The cases that are asked for."""
    if room not in (names := rooms()):
        raise ValueError(f"room: expected one of {', '.join(names)}, got {room!r}")
    for target in targets:
        if target not in TARGETS:
            raise ValueError(f"target: expected one of {', '.join(TARGETS)}, got {target!r}")
    cases = [case for case in names[room] if only in case.name]
    if not cases:
        raise ValueError(f"only: no case of {room} has {only!r} in its name, such as {names[room][0].name!r}")
    return cases


def shapes(case: Case) -> tuple:
    """What a count depends on: cases that differ only in float16 for bfloat16 share it."""
    sizes = [(tuple(x.shape), x.element_size()) if isinstance(x, torch.Tensor) else x for x in case.args]
    return case.kernel.__name__, case.grid, tuple(sizes), tuple(sorted((k, str(v)) for k, v in case.options.items()))


def code(report: Report) -> list[str]:
    spilled = f"{report.spills + report.spill_loads:,} B" if report.spills + report.spill_loads else "0"
    return [
        report.target, f"{report.registers}", spilled, f"{report.occupancy:.0%}", report.limit, f"{report.shared:,}",
        f"{report.tensor_core}", f"{report.instructions:,}",
    ]  # fmt: skip


def lands(counted: Work, gpu: str) -> list[str]:
    found = land(counted, gpu)
    part = sum(counted.matrix.values()) / counted.flops if counted.flops else 0.0
    about = "~" if counted.counted < counted.programs else ""
    return [
        f"{about}{counted.flops / 1e6:,.0f}", f"{part:.0%}", f"{counted.distinct / 1e6:,.2f}",
        f"{counted.moved / 1e6:,.1f}", f"{found.intensity:.1f}", gpu, f"{found.ridge:.0f}", found.bound,
        f"{found.seconds * 1e6:.3g}", f"{found.attainable / found.peak:.0%}",
    ]  # fmt: skip


WIDTHS = {
    "target": 7,
    "registers": 9,
    "spilled": 9,
    "occ.": 4,
    "µs": 6,
    "limited-by": 13,
    "GPU": 6,
    "bound": 7,
    "MFLOP": 7,
    "MB-all": 7,
}


def line(name: str, cells: Sequence[str], width: int, sides: str) -> str:
    """A row: numbers to the right, words to the left, each column as wide as its head or as WIDTHS says."""
    heads = CODE if len(cells) == len(CODE) else LANDS
    shown = [
        f"{cell:{side}{WIDTHS.get(head, len(head))}}" for cell, head, side in zip(cells, heads, sides, strict=True)
    ]
    return f"{name:<{width}}  {'  '.join(shown)}".rstrip()
