"""Refuse bad input in one line that names the argument, its shape and what was wanted, before any work is done."""

import torch
from torch import Tensor


def check_qkv(q: Tensor, k: Tensor, v: Tensor) -> None:
    """q, k: (b h t d_k) and v: (b h t d_v), floating, of one dtype and on one device. Raises ValueError."""
    for name, x in (("q", q), ("k", k), ("v", v)):
        check_float(name, x, q)
        if x.ndim != 4:
            raise ValueError(f"{name}: expected a float tensor (b h t d), got {tuple(x.shape)} {x.dtype}")
    check_shape("k", k, tuple(q.shape), "(b h t d_k) = {} like q")
    check_shape("v", v, (*q.shape[:3], v.shape[3]), "(b h t d_v) with (b h t) = {} like q", shown=3)


def check_qk(q: Tensor, k: Tensor) -> None:
    """q: (b h L d_k) and k: (b h S d_k), floating, of one dtype and on one device. Raises ValueError."""
    for name, x in (("q", q), ("k", k)):
        check_float(name, x, q)
        if x.ndim != 4:
            raise ValueError(f"{name}: expected a float tensor (b h t d), got {tuple(x.shape)} {x.dtype}")
    S = k.shape[1] if k.shape[2] == q.shape[1] else k.shape[2]  # k may have its axes swapped, which is then said
    wanted = (*q.shape[:2], S, q.shape[3])
    check_shape("k", k, wanted, f"(b h S d_k) with b, h and d_k = {q.shape[0]}, {q.shape[1]} and {q.shape[3]} like q")


def check_q_kv(q: Tensor, k: Tensor, v: Tensor) -> None:
    """`check_qk`, and v: (b h S d_v). Raises ValueError."""
    check_qk(q, k)
    check_float("v", v, q)
    if v.ndim != 4:
        raise ValueError(f"v: expected a float tensor (b h t d), got {tuple(v.shape)} {v.dtype}")
    check_shape("v", v, (*k.shape[:3], v.shape[3]), "(b h S d_v) with (b h S) = {} like k", shown=3)


def check_per_token(name: str, x: Tensor, q: Tensor) -> None:
    """x: (b h t), one float for each token of q, of its dtype and on its device. Raises ValueError."""
    check_float(name, x, q, "(b h t)")
    check_shape(name, x, tuple(q.shape[:3]), "(b h t) = {}")


def check_state(state: Tensor | None, q: Tensor, v: Tensor) -> None:
    """state: (b h d_k d_v) or None, on q's device. Raises ValueError."""
    if state is None:
        return
    if not isinstance(state, Tensor) or not state.is_floating_point() or state.device != q.device:
        got = f"{state.dtype} on {state.device}" if isinstance(state, Tensor) else type(state).__name__
        raise ValueError(f"state: expected a float tensor on {q.device} like q, or None for zeros, got {got}")
    check_shape("state", state, (*q.shape[:2], q.shape[3], v.shape[3]), "(b h d_k d_v) = {}", turn=(2, 3))


def check_part(name: str, x: Tensor, wanted: tuple[int, ...], q: Tensor) -> None:
    """x: one part of a state, of the wanted shape, floating and on q's device. Raises ValueError."""
    if not isinstance(x, Tensor) or not x.is_floating_point() or x.device != q.device:
        got = f"{x.dtype} on {x.device}" if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"{name}: expected a float tensor on {q.device} like q, got {got}")
    check_shape(name, x, wanted, "{}")


def check_float(name: str, x: Tensor, q: Tensor, words: str = "(b h t d)") -> None:
    """x: a floating tensor of q's dtype, on q's device. Raises ValueError."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        got = f"{tuple(x.shape)} {x.dtype}" if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"{name}: expected a float tensor {words}, got {got}")
    if (x.dtype, x.device) != (q.dtype, q.device):
        raise ValueError(f"{name}: expected {q.dtype} on {q.device} like q, got {x.dtype} on {x.device}")


def check_shape(
    name: str,
    x: Tensor,
    wanted: tuple[int, ...],
    words: str,
    *,
    shown: int | None = None,
    turn: tuple[int, int] = (1, 2),
) -> None:
    """x of the wanted shape; when two of its axes are only swapped, the error says how to turn them back."""
    if tuple(x.shape) == wanted:
        return
    turned = x.ndim == len(wanted) and tuple(x.transpose(*turn).shape) == wanted
    hint = f": did you mean {name}.transpose({turn[0]}, {turn[1]})?" if turned else ""
    raise ValueError(f"{name}: expected {words.format(wanted[:shown])}, got {tuple(x.shape)}{hint}")


def widest(q: Tensor) -> torch.dtype:
    """The dtype to accumulate in: float32, or float64 where q has it."""
    return torch.promote_types(q.dtype, torch.float32)


def check_chunk(chunk: int) -> None:
    """A whole number of tokens, at least 1. Raises ValueError."""
    if not isinstance(chunk, int) or isinstance(chunk, bool) or chunk < 1:
        raise ValueError(f"chunk: expected an integer >= 1, got {chunk!r}")


def check_clamp(clamp: float) -> None:
    """A number above which something is cut off; inf for never. Raises ValueError."""
    if isinstance(clamp, bool) or not isinstance(clamp, (int, float)) or not clamp > -float("inf"):
        raise ValueError(f"clamp: expected a number (inf for none), got {clamp!r}")
