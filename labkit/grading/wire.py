"""Plain data (labkit/course/plain.py) as bytes and back: JSON, then the tensors' raw memory. Nothing that can run.

eight bytes: the length of the JSON | the JSON, in which {"tensor": [dtype, shape]} stands for a tensor | their bytes
"""

import json
import math
from typing import Any

import torch
from torch import Tensor

from labkit.course.plain import Other

LONGEST_INT = 4096  # bits
DTYPES = {str(dtype).removeprefix("torch."): dtype for dtype in vars(torch).values() if isinstance(dtype, torch.dtype)}


class Garbled(ValueError):
    """Bytes that are not what `encode` makes."""


def encode(value: Any) -> bytes:
    """Plain data as bytes; whole numbers of more than 4,096 bits become an `Other`."""
    blocks: list[bytes] = []
    text = json.dumps(_written(value, blocks)).encode()
    return b"".join([len(text).to_bytes(8, "big"), text, *blocks])


def decode(data: bytes) -> Any:
    """What `encode` was given; raises Garbled for anything else, whoever wrote it."""
    try:
        end = 8 + int.from_bytes(data[:8], "big")
        memory = bytearray(data[end:])
        value, used = _read(json.loads(data[8:end]), memory, 0)
    except (ValueError, TypeError, KeyError, IndexError, RecursionError, RuntimeError, OverflowError) as error:
        raise Garbled(f"not an answer ({type(error).__name__})") from None
    if used != len(memory):
        raise Garbled("not an answer (bytes are left over)")
    return value


def _written(value: Any, blocks: list[bytes]) -> Any:
    if isinstance(value, Tensor):
        blocks.append(value.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        return {"tensor": [str(value.dtype).removeprefix("torch."), list(value.shape)]}
    if isinstance(value, Other):
        return {"other": value.name[:80]}
    if isinstance(value, list):
        return [_written(item, blocks) for item in value]
    if isinstance(value, tuple):
        return {"tuple": [_written(item, blocks) for item in value]}
    if isinstance(value, dict):
        return {"dict": [[_written(key, blocks), _written(item, blocks)] for key, item in value.items()]}
    if isinstance(value, complex):
        return {"complex": [value.real, value.imag]}
    if type(value) is int and value.bit_length() > LONGEST_INT:
        return {"other": f"int of {value.bit_length()} bits"}
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{type(value).__name__} is not plain data")


def _read(value: Any, memory: bytearray, at: int) -> tuple[Any, int]:
    if isinstance(value, list):
        items = []
        for item in value:
            read, at = _read(item, memory, at)
            items.append(read)
        return items, at
    if not isinstance(value, dict):
        return value, at
    ((kind, inside),) = value.items()
    if kind == "tensor":
        return _tensor(inside, memory, at)
    if kind == "other":
        return Other(str(inside)), at
    if kind == "complex":
        return complex(*inside), at
    items, at = _read(inside, memory, at)
    if kind == "tuple":
        return tuple(items), at
    if kind == "dict":
        return dict(items), at
    raise KeyError(kind)


def _tensor(described: list, memory: bytearray, at: int) -> tuple[Tensor, int]:
    name, shape = described
    dtype = DTYPES[name]
    if not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError(shape)
    size = math.prod(shape) * dtype.itemsize
    if at + size > len(memory):
        raise ValueError("too short")
    if size == 0:
        return torch.empty(shape, dtype=dtype), at
    flat = torch.frombuffer(memory, dtype=torch.uint8, count=size, offset=at).clone()  # at an address that suits dtype
    return flat.view(dtype).reshape(shape), at + size
