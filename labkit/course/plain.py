"""Turn whatever a function returned into plain data: what the judge reads cannot run code, and can cross a process.

Plain data are None, bool, int, float, complex, str, tensors that are just `torch.Tensor`, and lists and dicts of those.
Types are taken by `type`, never `isinstance`: an object may claim to be of any class, and to equal everything.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

SIMPLE = (type(None), bool, int, float, complex, str)
LONGEST = 80  # characters of a value that is shown


@dataclass(frozen=True)
class Other:
    """Something that is not data that an exercise can return; only the name of its type is kept."""

    name: str


def plain(value: Any) -> Any:
    """A snapshot of `value` as plain data: tuples and lists become lists, named tuples become dicts."""
    kind = type(value)
    if kind in SIMPLE:
        return value
    if issubclass(kind, Tensor):
        return _tensor(value)
    if issubclass(kind, np.generic):
        return plain(np.generic.item(value))
    if issubclass(kind, tuple):
        items = [plain(item) for item in tuple.__iter__(value)]
        fields = getattr(kind, "_fields", None)
        return items if fields is None else dict(zip(fields, items, strict=True))
    if issubclass(kind, list):
        return [plain(item) for item in list.__iter__(value)]
    if issubclass(kind, dict):
        return {key if type(key) in SIMPLE else repr(key): plain(item) for key, item in dict.items(value)}
    return Other(kind.__name__)


def _tensor(value: Tensor) -> Tensor | Other:
    try:
        with torch._C.DisableTorchFunctionSubclass():  # a subclass may answer its own comparisons
            if value.layout is not torch.strided:
                return Other(f"{value.layout} tensor")
            return Tensor.as_subclass(value, Tensor).detach().cpu().clone()
    except (RuntimeError, NotImplementedError, TypeError) as error:
        return Other(f"{type(value).__name__} that cannot be read ({error})".splitlines()[0])


def same(a: Any, b: Any) -> bool:
    """Whether two plain data are the same to the last bit, NaN being the same as NaN."""
    if type(a) is not type(b):
        return False
    if isinstance(a, Tensor):
        if a.shape != b.shape or a.dtype != b.dtype:
            return False
        return bool(torch.all((a == b) | ((a != a) & (b != b))))
    if isinstance(a, list):
        return len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return list(a) == list(b) and all(same(a[key], b[key]) for key in a)
    return bool(a == b or (a != a and b != b))


def describe(value: Any) -> str:
    """Plain data in a few words: a tensor's dtype and shape, a short value itself."""
    if isinstance(value, Tensor):
        return f"{dtype_name(value)} {tuple(value.shape)}"
    if isinstance(value, Other):
        return value.name
    if isinstance(value, list):
        text = f"[{', '.join(map(describe, value))}]"
        return text if len(text) <= LONGEST else f"{len(value)} items"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{key}: {describe(item)}' for key, item in value.items())}}}"
    if type(value) is int and value.bit_length() > 200:
        return f"an int of {value.bit_length()} bits"
    text = f"{value:.4g}" if type(value) in (float, complex) else repr(value)
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 3]}..."


def dtype_name(tensor: Tensor) -> str:
    """Such as float32."""
    return str(tensor.dtype).removeprefix("torch.")


def tensors(value: Any) -> Iterator[Tensor]:
    """Every tensor in plain data."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from tensors(item)
