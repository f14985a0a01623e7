"""Exercises that ask for a Triton kernel: what the learner writes is launched, and what goes wrong is an exception.

    Exercise(…, reference=kernel, through=launched(launch))

`launch(kernel, x, …)` gets a probe's arguments, the first of them a tensor: it makes room for the result, launches the
kernel, and returns the result.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import kernels

from .running import Todo

Function = Callable[..., Any]


def launched(launch: Function) -> Callable[[Function], Function]:
    """What makes of a kernel, written as a plain function, a function of tensors that launches it."""

    def through(fn: Function) -> Function:
        fn = getattr(fn, "fn", fn)  # it may be under @triton.jit already

        @functools.cache
        def kernel() -> Any:
            return _kernel(fn)

        @functools.wraps(fn)
        def answer(*args: Any, **kwargs: Any) -> Any:
            if kernels.WHERE == "interpreted":
                return _interpreted(launch, kernel(), *args, **kwargs)
            if "Todo" in fn.__code__.co_names:  # a compiler does not raise it
                raise Todo
            if kernels.WHERE == "nowhere":
                raise ImportError(f"{fn.__name__} is a Triton kernel, and Triton does not exist on this platform")
            return _compiled(launch, kernel(), *args, **kwargs)

        return answer

    return through


def _kernel(fn: Function) -> Any:
    triton, _ = kernels.need()
    kernel = triton.jit(fn)
    if kernels.WHERE == "interpreted":  # which would quote an annotation, "tl.constexpr", once more
        kernel.rewrite().__annotations__ = fn.__annotations__
    return kernel


def _interpreted(launch: Function, kernel: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Under guard, and with the learner's own exception in place of the interpreter's."""
    from triton.runtime.errors import InterpreterError

    from labkit.kernel_lab import guard

    with kernels.launch(x), guard():
        try:
            return launch(kernel, x, *args, **kwargs)
        except InterpreterError as error:
            cause: BaseException = error
            while isinstance(cause, InterpreterError) and cause.__cause__ is not None:
                cause = cause.__cause__
            raise cause from None


def _compiled(launch: Function, kernel: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
    """On the GPU, with float32 products as exact as the interpreter's; the result comes back to where x is."""
    triton, _ = kernels.need()
    moved = [_moved(value, "cuda") for value in (x, *args)]
    with kernels.launch(moved[0]), triton.knobs.language.scope():
        triton.knobs.language.fp32_default = "ieee"
        return _moved(launch(kernel, *moved, **kwargs), x.device)


def _moved(value: Any, device: torch.device | str) -> Any:
    if isinstance(value, tuple):
        return tuple(_moved(item, device) for item in value)
    return value.to(device) if isinstance(value, Tensor) else value
