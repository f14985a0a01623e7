"""How plain data differ from what was wanted: in kind, shape, dtype, finiteness or value."""

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from .plain import SIMPLE, Other, describe, dtype_name, tensors


@dataclass(frozen=True)
class Fault:
    """One property that does not hold, in one line, with what was got and wanted where that can be said."""

    property: str
    message: str
    got: str = ""
    wanted: str = ""


def faults(
    got: Any, wanted: Any, tolerance: Mapping[torch.dtype, float], scalar: torch.dtype, place: str = "the result"
) -> Iterator[Fault]:
    """Every way in which `got` differs from `wanted`. Numbers that are no tensors are as precise as `scalar`."""
    if got is None and wanted is not None:
        yield Fault("returned", f"{place} is None: is a `return` missing?", "None", describe(wanted))
    elif isinstance(wanted, Tensor) and isinstance(got, Tensor):
        yield from _tensor_faults(got, wanted, tolerance, place)
    elif type(wanted) in (float, complex) and type(got) in (int, float, complex):
        yield from _value_faults(_number(got), _number(wanted), tolerance[scalar], place)
    elif type(got) is not type(wanted):
        yield Fault("type", f"{place} is of another kind", _kind(got), _kind(wanted))
    elif isinstance(wanted, list):
        if len(got) != len(wanted):
            yield Fault("type", f"{place} has another length", _kind(got), _kind(wanted))
        simple = all(type(item) in SIMPLE for item in [*got, *wanted])  # then it is easier to read whole
        for i, (mine, theirs) in enumerate(zip(got, wanted, strict=False)):
            for fault in faults(mine, theirs, tolerance, scalar, f"item {i} of {place}"):
                yield replace(fault, got=describe(got), wanted=describe(wanted)) if simple else fault
    elif isinstance(wanted, dict):
        if set(got) != set(wanted):
            yield Fault("type", f"{place} has other keys", str(list(got)), str(list(wanted)))
        for key in wanted:
            if key in got:
                yield from faults(got[key], wanted[key], tolerance, scalar, f"{key!r} of {place}")
    elif got != wanted:
        yield Fault("values", f"{place} has another value", describe(got), describe(wanted))


def precision(arguments: Any) -> torch.dtype:
    """The coarsest floating dtype among the arguments: numbers computed from them are no better than that."""
    found = {t.dtype for t in tensors(arguments) if t.is_floating_point()}
    coarse = (torch.bfloat16, torch.float16, torch.float32)
    return next((dtype for dtype in coarse if dtype in found), torch.float64)


def _kind(value: Any) -> str:
    if isinstance(value, list):
        return f"{len(value)} item{'' if len(value) == 1 else 's'}, {describe(value)}"
    return describe(value) if value is None or isinstance(value, Other) else f"{_article(value)} {describe(value)}"


def _article(value: Any) -> str:
    return {Tensor: "a tensor", int: "an int", dict: "a dict"}.get(type(value), f"a {type(value).__name__}")


def _number(value: complex) -> Tensor:
    if type(value) is int and abs(value) > sys.float_info.max:
        value = torch.inf
    return torch.tensor(value, dtype=torch.complex128)


def _tensor_faults(got: Tensor, wanted: Tensor, tolerance: Mapping[torch.dtype, float], place: str) -> Iterator[Fault]:
    if got.dtype != wanted.dtype:
        yield Fault("dtype", f"{place} has the wrong dtype", dtype_name(got), dtype_name(wanted))
    if got.shape != wanted.shape:
        yield Fault("shape", f"{place} has the wrong shape", str(tuple(got.shape)), str(tuple(wanted.shape)))
    elif wanted.is_floating_point() or wanted.is_complex():
        wide = torch.complex128 if got.is_complex() or wanted.is_complex() else torch.float64
        yield from _value_faults(got.to(wide), wanted.to(wide), tolerance[wanted.dtype], place)
    else:
        yield from _worst((got != wanted).double(), got, wanted, place)


def _value_faults(got: Tensor, wanted: Tensor, tolerance: float, place: str) -> Iterator[Fault]:
    lost = wanted.isfinite() & ~got.isfinite()
    if lost.any():
        at = _index(lost.double())
        many = f"{int(lost.sum())} of {lost.numel()} entries of " if lost.ndim else ""
        yield Fault("finite", f"{many}{place} {_verb(int(lost.sum()))} not finite", _entry(got, at), _entry(wanted, at))
        return
    finite = wanted.isfinite()
    largest = wanted[finite].abs().max().item() if finite.any() else 0.0
    error = (got - wanted).abs() / (largest or 1.0)
    alike = ~finite & ((got == wanted) | (got.isnan() & wanted.isnan()))
    error = error.masked_fill(~finite, torch.inf).masked_fill(alike, 0.0)
    yield from _worst(error.masked_fill(error <= tolerance, 0.0), got, wanted, place)


def _worst(error: Tensor, got: Tensor, wanted: Tensor, place: str) -> Iterator[Fault]:
    """A fault that shows the entry with the largest error, if there is an error."""
    wrong = int((error > 0).sum())
    if wrong:
        at = _index(error)
        many = f"{wrong} of {error.numel()} entries of {place} differ" if error.ndim else f"{place} differs"
        mine, theirs = _entry(got, at), _entry(wanted, at)
        if mine == theirs:  # to the digits shown
            mine += f" (off by {(got[at] - wanted[at]).abs().item():.1e})"
        where = f"{many}, most at {list(at)}" if error.ndim and error.numel() > 1 else many
        yield Fault("values", where, mine, theirs)


def _index(error: Tensor) -> tuple[int, ...]:
    return tuple(int(i) for i in torch.unravel_index(error.argmax(), error.shape))


def _entry(tensor: Tensor, at: tuple[int, ...]) -> str:
    value = tensor[at].item()
    if isinstance(value, complex) and value.imag == 0:
        value = value.real
    return f"{value:.4g}" if isinstance(value, float | complex) else str(value)


def _verb(n: int) -> str:
    return "is" if n == 1 else "are"
