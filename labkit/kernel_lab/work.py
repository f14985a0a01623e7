"""What a launch does, counted while the interpreter does it: operations, and bytes read and written.

Counted are floating-point operations, a lane each, masked or not, because the hardware computes masked lanes too:
2 M N K of every tl.dot, by how it multiplies; and, apart from these, one for every add, subtract, multiply, divide,
minimum, maximum, exp, log, square root and the like, two for a fused multiply-add, n − 1 for a sum or maximum of n
numbers, n for a running one.
Comparisons, selections, conversions and whole numbers are not counted. Of memory every lane that is not masked off is
counted with its element's size; bfloat16, which the interpreter cannot compute, runs as float16, which is as wide.

A large launch is counted from some of its programs, evenly spread over the grid.
"""

import contextlib
import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from triton.runtime import interpreter

import kernels
from kernels import Case
from labkit.kernel_lab.watch import Touch, extent, watching

BUDGET = 1000  # loads, stores and products that are interpreted for one count: about a second
MOST = 64  # programs that are
UNARY = "fabs cos exp exp2 floor ceil log log2 precise_sqrt sqrt sin erf rsqrt"
BINARY = "fadd fmul fdiv frem fsub precise_divf minimumf minnumf maximumf maxnumf"
ELEMENTWISE = {f"create_{name}": 1 for name in f"{UNARY} {BINARY}".split()} | {"create_clampf": 2, "create_fma": 2}
REDUCTIONS = ((interpreter.ReduceOps, ("sum", "min_max")), (interpreter.ScanOps, ("cumsum", "cumprod")))


@dataclass(frozen=True)
class Program:
    """What one program does, or the mean or the largest of several."""

    matrix: dict[str, float]  # FLOPs of tl.dot by how it multiplies: "half", "tf32", "tf32x3", "float32", "float64"
    other: float  # FLOPs that are no matrix product
    loaded: float  # bytes
    stored: float  # bytes
    atomic: float  # bytes read and written again in one step

    @property
    def flops(self) -> float:
        return sum(self.matrix.values()) + self.other

    @property
    def moved(self) -> float:
        """Bytes; an atomic one goes both ways."""
        return self.loaded + self.stored + 2 * self.atomic


@dataclass(frozen=True)
class Work:
    """What a launch does: the mean and the largest numbers of its programs, and the memory that they share."""

    name: str
    programs: int
    counted: int  # of the programs
    mean: Program
    largest: Program  # number by number
    distinct: float  # bytes: every element read, once, and every element written, once

    @property
    def flops(self) -> float:
        """Of the whole launch."""
        return self.programs * self.mean.flops

    @property
    def matrix(self) -> dict[str, float]:
        """FLOPs of the whole launch in tl.dot, by how it multiplies."""
        return {kind: self.programs * flops for kind, flops in self.mean.matrix.items()}

    @property
    def other(self) -> float:
        """FLOPs of the whole launch outside tl.dot."""
        return self.programs * self.mean.other

    @property
    def moved(self) -> float:
        """Bytes that all programs ask for together: the traffic to memory if nothing is kept in a cache."""
        return self.programs * self.mean.moved


def work(case: Case, budget: int = BUDGET) -> Work:
    """Count a launch of small made-up numbers in tensors of the case's shapes; whole numbers in tensors are 0.

    All programs run if they are at most 64 and make at most `budget` accesses and products. Else, if the first, the
    middle and the last do the same, all are taken to do so; if not, `mean` is over 4 to 64 (one, where one is beyond
    the budget) spread evenly. Then `distinct` is every tensor that these touch, whole, but at most what is moved: too
    much for a launch that leaves out part of a tensor.
    Raises ValueError for a case without a grid, RuntimeError where kernels run compiled.
    """
    if not case.grid:
        raise ValueError(f"case: {case.name} has no grid: Case(..., grid=(…)) says how many programs are launched")
    programs, args = math.prod(case.grid), tuple(real(x) for x in case.args)
    count = Count()
    with counting(count), running(case, args) as run:
        did = {n: run_one(run, count, n) for n in sorted({0, programs // 2, programs - 1})}
        steps = max(1, sum(count.steps.values()) // len(did))
        size = min(programs, MOST, max(budget // steps, 4 if steps <= budget else 1))
        chosen = [int((i + 0.5) * programs / size) for i in range(size)]
        if size < programs and len({str(program) for program in did.values()}) == 1:
            chosen = list(did)
        did |= {n: run_one(run, count, n) for n in chosen if n not in did}
    mean, largest = combined([did[n] for n in chosen], np.mean), combined(list(did.values()), max)
    distinct = count.distinct() if len(did) == programs else min(count.whole(), programs * mean.moved)
    return Work(case.name, programs, len(did), mean, largest, distinct)


class Count:
    """What the programs did so far; `steps`, program -> accesses and products, is what counting costs."""

    def __init__(self) -> None:
        self.steps: dict[int, int] = defaultdict(int)
        self.touched: dict[tuple[str, bool], tuple[torch.Tensor, np.ndarray]] = {}
        self.start(0)

    def start(self, number: int) -> None:
        self.number, self.other = number, 0.0
        self.matrix: dict[str, float] = defaultdict(float)
        self.bytes = {"load": 0, "store": 0, "atomic": 0}

    def see(self, touch: Touch) -> None:
        self.steps[self.number] += 1
        for name, x in touch.launch.tensors.items():
            start, end = extent(x)
            inside = (touch.addresses >= start) & (touch.addresses < end)
            if not inside.any():
                continue
            self.bytes[touch.kind] += int(inside.sum()) * x.element_size()
            at = (touch.addresses[inside] - np.uint64(start)).astype(np.int64) // x.element_size()
            for stored in {"load": (False,), "store": (True,), "atomic": (False, True)}[touch.kind]:
                place = self.touched.setdefault((name, stored), (x, np.zeros((end - start) // x.element_size(), bool)))
                place[1][at] = True

    def distinct(self) -> int:
        return sum(int(seen.sum()) * x.element_size() for x, seen in self.touched.values())

    def whole(self) -> int:
        return sum(x.numel() * x.element_size() for x, _ in self.touched.values())


def run_one(run: Callable[[int], None], count: Count, number: int) -> Program:
    """Run one program and count it."""
    count.start(number)
    run(number)
    return Program(dict(count.matrix), count.other, *map(float, count.bytes.values()))


def combined(programs: Sequence[Program], how: Callable[[list[float]], Any]) -> Program:
    """Their mean or their largest, number by number."""
    kinds = dict.fromkeys(kind for program in programs for kind in program.matrix)
    rest = ("other", "loaded", "stored", "atomic")
    return Program(
        {kind: float(how([program.matrix.get(kind, 0.0) for program in programs])) for kind in kinds},
        *(float(how([getattr(program, name) for program in programs])) for name in rest),
    )


def real(x: Any) -> Any:
    """A tensor of the same shape and strides that holds small numbers; anything else as it is."""
    if not isinstance(x, torch.Tensor):
        return x
    dtype = torch.float16 if x.dtype == torch.bfloat16 else x.dtype
    return torch.empty_strided(x.shape, x.stride(), dtype=dtype).fill_(0.01 if dtype.is_floating_point else 0)


@contextlib.contextmanager
def running(case: Case, args: tuple[Any, ...]) -> Iterator[Callable[[int], None]]:
    """A function that interprets the program of a number, as triton's GridExecutor does it for all in turn."""
    grid = (*case.grid, 1, 1)[:3]
    executor = interpreter.GridExecutor(case.kernel.rewrite(), case.kernel.arg_names, grid)
    fixed = {name: value for name, value in case.options.items() if name in executor.arg_names}
    host, host_fixed = executor._init_args_hst(args, fixed)
    named = {**dict(zip(executor.arg_names, host, strict=False)), **host_fixed}
    scope = interpreter._patch_lang(executor.fn)
    inside = {n: x if n in executor.constexprs else interpreter._implicit_cvt(x) for n, x in named.items()}
    interpreter.interpreter_builder.set_grid_dim(*grid)

    def run(number: int) -> None:
        interpreter.interpreter_builder.set_grid_idx(*map(int, np.unravel_index(number, grid)))
        executor.fn(**inside)

    try:
        with kernels.launch(torch.empty(0)):
            yield run
    finally:
        scope.restore()


@contextlib.contextmanager
def counting(count: Count) -> Iterator[None]:
    """Within, accesses, products and arithmetic of interpreted programs go into the count."""
    builder, kept = interpreter.InterpreterBuilder, []

    def wrap(owner: Any, name: str, note: Callable[..., None]) -> None:
        original = getattr(owner, name)
        kept.append((owner, name, original))

        def wrapped(self: Any, *args: Any, **kwargs: Any) -> Any:
            result = original(self, *args, **kwargs)
            note(result, *args)
            return result

        setattr(owner, name, wrapped)

    def dot(result: Any, a: Any, b: Any, d: Any, precision: Any, *_: Any) -> None:
        count.steps[count.number] += 1
        count.matrix[kind_of(a.dtype.scalar, precision)] += 2.0 * result.data.size * a.data.shape[-1]

    def elementwise(each: int) -> Callable[..., None]:
        def note(result: Any, *_: Any) -> None:
            count.other += each * result.data.size

        return note

    def reduction(result: Any, x: Any, *_: Any) -> None:
        after = result[0] if isinstance(result, tuple | list) else result
        if x.dtype.scalar.is_floating():
            n, left = x.handle.data.size, after.handle.data.size
            count.other += n - (left if left < n else 0)

    try:
        with watching(count.see):
            wrap(builder, "create_dot", dot)
            for name, each in ELEMENTWISE.items():
                wrap(builder, name, elementwise(each))
            for owner, names in REDUCTIONS:
                for name in names:
                    wrap(owner, name, reduction)
            yield
    finally:
        for owner, name, original in reversed(kept):
            setattr(owner, name, original)


def kind_of(dtype: Any, precision: Any) -> str:
    """How a product of this type is multiplied on a GPU: "half", "tf32", "tf32x3", "float32" or "float64"."""
    if dtype.primitive_bitwidth <= 16:
        return "half"
    name = getattr(precision, "name", str(precision)).lower()
    return name if dtype.primitive_bitwidth == 32 and name.startswith("tf32") else f"float{dtype.primitive_bitwidth}"
