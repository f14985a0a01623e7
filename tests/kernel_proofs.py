"""What the proofs of kernels and forms share: hostile memory, float64 gradients, tolerances, what is made on the way."""

import contextlib
from collections.abc import Iterator

import pytest
import torch

import kernels

GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
EXACT = torch.float32 if kernels.WHERE == "compiled" else torch.float64  # what the kernels run in
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}


@contextlib.contextmanager
def hostile() -> Iterator[None]:
    """New memory holds NaN (or huge whole numbers), and an interpreted kernel that leaves its tensors is stopped."""
    from labkit.kernel_lab import guard

    empty = torch.empty

    def poisoned(*args, **kwargs):
        new = empty(*args, **kwargs)
        return new.fill_(torch.nan if new.is_floating_point() else torch.iinfo(new.dtype).max)

    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        patch.setattr(torch, "empty", poisoned)
        if kernels.WHERE == "interpreted":
            stack.enter_context(guard())
        yield


def gradients(loss, x):
    """Autograd's gradients; zeros where an empty text leaves nothing to differentiate."""
    return torch.autograd.grad(loss, x, allow_unused=True, materialize_grads=True)


def worst(got, wanted):
    """The largest difference."""
    assert got.shape == wanted.shape
    return float((got.detach().double() - wanted.detach()).abs().max()) if got.numel() else 0.0


class Watch(torch.utils._python_dispatch.TorchDispatchMode):
    """Counts the operations that run within, and notes the largest tensor that one of them makes."""

    def __init__(self):
        super().__init__()
        self.count, self.largest = 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        made = [x.numel() for x in (out if isinstance(out, (tuple, list)) else [out]) if isinstance(x, torch.Tensor)]
        self.count, self.largest = self.count + 1, max([self.largest, *made])
        return out


def recorded(patch: pytest.MonkeyPatch) -> dict[str, tuple]:
    """Launches are written down, kernel -> (arguments, options, grid) of its first one, instead of run."""
    triton, _ = kernels.need()
    launched: dict[str, tuple] = {}

    def at_grid(kernel, grid):
        return lambda *args, **options: launched.setdefault(kernel.fn.__name__, (args, options, grid))

    patch.setattr(triton.runtime.jit.KernelInterface, "__getitem__", at_grid)
    return launched


def assert_same_launch(launched: tuple, case: kernels.Case) -> None:
    """A case is what a launch launches: the same grid and options, the same numbers, and as many in memory."""
    args, options, grid = launched
    assert options == case.options
    assert grid == case.grid
    assert len(args) == len(case.args)
    for n, (ours, theirs) in enumerate(zip(args, case.args, strict=True)):
        assert about(ours) == about(theirs), f"argument {n} of {case.name}"


def about(x: object) -> tuple:
    """What a kernel is given: of a tensor its memory, so the shape matters only where there are gaps in it."""
    if not isinstance(x, torch.Tensor):
        return type(x), x
    return x.dtype, x.numel(), None if x.is_contiguous() else (x.shape, x.stride())
