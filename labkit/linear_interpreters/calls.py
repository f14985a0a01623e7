"""What each call of torch is to a linear interpreter: affine, a unit that can be frozen, or refused by its name."""

from collections.abc import Callable
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._pytree import tree_leaves

from . import forms
from .forms import Frozen, Unit

Smooth = Literal["gate", "tangent"]

# gives what does not depend on the numbers
ABOUT = {
    "size", "dim", "numel", "stride", "ndimension", "element_size", "is_contiguous", "is_floating_point",
    "is_complex", "len", "get_device", "shape", "dtype", "device", "ndim", "is_cuda", "is_cpu", "is_meta",
    "layout", "itemsize", "requires_grad", "zeros_like", "ones_like", "full_like", "new_zeros", "new_ones",
    "new_full", "new_tensor",
}  # fmt: skip
LINEAR = {
    "neg", "mean", "sum", "clone", "contiguous", "flatten", "unflatten", "view", "view_as", "reshape", "permute",
    "transpose", "swapaxes", "movedim", "T", "mT", "squeeze", "unsqueeze", "expand", "expand_as", "repeat",
    "tile", "getitem", "chunk", "split", "tensor_split", "unbind", "narrow", "select", "index_select", "flip",
    "roll", "rot90", "unfold", "fold", "to", "float", "double", "type_as", "pixel_shuffle", "pixel_unshuffle",
    "channel_shuffle", "interpolate", "upsample", "avg_pool1d", "avg_pool2d", "avg_pool3d", "adaptive_avg_pool1d",
    "adaptive_avg_pool2d", "adaptive_avg_pool3d",
}  # fmt: skip
SUMS = {"add", "radd", "iadd", "sub", "rsub", "isub"}
LISTS = {"cat", "concat", "stack"}
LAYERS = {"linear", *(f"conv{turned}{n}d" for turned in ("", "_transpose") for n in (1, 2, 3))}  # (x, weight, bias, …)
QUOTIENTS = {"div", "itruediv", "truediv", "true_divide"}
PRODUCTS = {"mul", "rmul", "imul", "multiply", "matmul", "rmatmul", "mm", "bmm", "mv", "einsum"} | QUOTIENTS | LAYERS
DROPOUTS = {"dropout", "dropout1d", "dropout2d", "dropout3d", "alpha_dropout", "feature_alpha_dropout"}
AFFINE = {*LINEAR, *SUMS, *LISTS, *PRODUCTS, "setitem", "pad"}
POOLS = {f"{kind}max_pool{n}d" for kind in ("", "adaptive_") for n in (1, 2, 3)}
SMOOTH = {
    "silu", "gelu", "sigmoid", "tanh", "softplus", "elu", "selu", "celu", "mish", "hardswish", "hardsigmoid",
    "logsigmoid", "softsign", "softmax",
}  # fmt: skip
NORMS = {"batch_norm", "instance_norm"}


class Refused(ValueError):  # a TypeError would be swallowed by Python's operators
    """A network that has no linear interpreter here; the message names the call and says why."""


class Followed(Tensor):
    """Made from the input. What torch makes of one is of this class too."""


def name_of(func: Callable) -> str:
    """relu for `F.relu`, `torch.relu_` and `Tensor.relu`; add for `x + y`; shape for `x.shape`."""
    name = func.__name__
    name = (func.__self__.__name__ if name == "__get__" else name).strip("_")  # type: ignore[attr-defined]
    if name in NORMS and func is not getattr(F, name):
        raise Refused(f"{name}: only torch.nn.functional.{name} is known here; torch.{name} has another signature")
    return name


def count(x: Any) -> int:
    """How many tensors in it are made from the input."""
    return sum(isinstance(leaf, Followed) for leaf in tree_leaves(x))


def is_constant(name: str, args: tuple) -> bool:
    """Whether a call gives the same whatever the numbers of the input: its shape, or ones that are as large."""
    return name in ABOUT or (name in LINEAR and not count(args[:1]))


def writes(name: str, func: Callable, args: tuple, kwargs: dict) -> bool:
    """Whether a call writes into its first argument."""
    own = func.__name__
    in_place = (own.endswith("_") and not own.startswith("__")) or own.startswith("__i") or name == "setitem"
    asked = name not in (*POOLS, *NORMS, *AFFINE) and any(x is True for x in args)  # F.relu(x, True)
    return in_place or asked or kwargs.get("inplace", False)


# ------------------------------------------------------------------ affine calls
def is_affine(name: str, func: Callable, args: tuple, kwargs: dict) -> bool:
    """Whether it is an affine function of what is made from the input. Refuses what only looks so."""
    if not args:
        raise Refused(f"{name}: its arguments all have keywords, and here the first has to come without one")
    if "out" in kwargs or (writes(name, func, args, kwargs) and not isinstance(args[0], Followed)):
        raise Refused(f"{name}: it writes what is made from the input into another tensor, which cannot be followed")
    if name in PRODUCTS and count((args, kwargs)) > 1:
        raise Refused(f"{name}: two of its tensors are made from the input, and a product of two is not linear")
    if name in QUOTIENTS and not count(args[0]):
        raise Refused(f"{name}: it divides by what is made from the input, which is not linear")
    if name in LAYERS and not count(args[0]):
        raise Refused(f"{name}: its weight is made from the input, so that it is no layer of its own")
    if name in ("batch_norm", *DROPOUTS):
        if (_batch_norm_trains if name == "batch_norm" else _dropout_trains)(*args, **kwargs):
            raise Refused(f"{name}: the network is in training mode, where this is not affine: call net.eval() first")
        return True
    return name in AFFINE


def _batch_norm_trains(x, mean, var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5) -> bool:
    return training


def _dropout_trains(x, p=0.5, training=True, inplace=False) -> bool:
    return training


def linear_part(name: str, func: Callable) -> Callable:
    """An affine call without what it adds that is not made from the input."""
    if name in LAYERS:
        return lambda x, weight, bias=None, *args, **kwargs: func(x, weight, None, *args, **kwargs)
    if name in SUMS:
        return lambda *terms, **kwargs: func(
            *map(zero, terms), **kwargs | {k: zero(kwargs[k]) for k in kwargs if k == "other"}
        )
    if name in LISTS:
        return lambda tensors, *args, **kwargs: func([zero(x) for x in tensors], *args, **kwargs)
    if name == "batch_norm":
        return _batch_norm_scale
    if name == "setitem":
        return lambda x, at, value: func(x, at, zero(value))
    if name == "pad":
        return lambda x, pad, mode="constant", value=None: func(x, pad, mode)
    return func


def _batch_norm_scale(x, mean, var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5) -> Tensor:
    return F.batch_norm(x, torch.zeros_like(mean), var, weight, None, eps=eps)


def zero(x: Any) -> Any:
    """What is not made from the input, as zero."""
    if isinstance(x, Followed):
        return x
    return torch.zeros_like(x) if isinstance(x, Tensor) else 0


# ------------------------------------------------------------------ units
def freeze(name: str, func: Callable, args: tuple, kwargs: dict, smooth: Smooth | None, piecewise: Unit) -> Frozen:
    """The unit as it is at its input, the first of args. Raises Refused for a call that is no unit known here."""
    z, *rest = args
    if not isinstance(z, Followed) or count((rest, kwargs)):
        raise Refused(f"{name}: another tensor than its first is made from the input, and no such unit is known here")
    z = z.detach().as_subclass(Tensor)
    if name in POOLS:
        return forms.max_pool(z, getattr(F, name)(z, *rest, **{**kwargs, "return_indices": True})[1])
    if name == "instance_norm":
        return _instance_norm(z, *rest, **kwargs)
    # `inplace`, the only truth value that an elementwise unit takes, says nothing of what it is
    rest = [x for x in rest if not isinstance(x, bool)]
    kwargs = {k: x for k, x in kwargs.items() if k not in ("inplace", "_stacklevel")}
    if name in CORNERS:
        return piecewise(z, *CORNERS[name](*rest, **kwargs))
    if name not in SMOOTH:
        raise Refused(
            f"{name}: it is called on what is made from the input, and is neither linear nor a unit known here; "
            "labkit.linear_interpreters.calls lists those that are"
        )
    if smooth is None:
        raise Refused(
            f"{name}: it is smooth, and where to put a line is a choice: pass smooth='gate' or smooth='tangent'"
        )
    if name == "softmax":
        return (forms.softmax_gate if smooth == "gate" else forms.softmax_tangent)(z, *_softmax_dim(*rest, **kwargs))
    plain = getattr(torch, name, None) or getattr(F, name)
    return (forms.gate if smooth == "gate" else forms.tangent)(lambda u: plain(u, *rest, **kwargs), z)


# (below, low, high) of `forms.piecewise` from the arguments of the call
CORNERS: dict[str, Callable[..., tuple]] = {
    "relu": lambda: (0.0, 0.0),
    "relu6": lambda: (0.0, 0.0, 6.0),
    "leaky_relu": lambda negative_slope=0.01: (negative_slope, 0.0),
    "prelu": lambda weight: (weight.detach(), 0.0),
    "hardtanh": lambda min_val=-1.0, max_val=1.0: (0.0, min_val, max_val),
    "clamp": lambda min=None, max=None: (0.0, _number(min, -torch.inf), _number(max, torch.inf)),
    "abs": lambda: (-1.0, 0.0),
}


def _number(x: Any, otherwise: float) -> float:
    if isinstance(x, Tensor):
        raise Refused("clamp: only clamping between numbers is known here")
    return otherwise if x is None else x


def _instance_norm(
    z, running_mean=None, running_var=None, weight=None, bias=None, use_input_stats=True, momentum=0.1, eps=1e-5
) -> Frozen:
    if not use_input_stats:
        raise Refused(
            "instance_norm: with running statistics it is a batch norm; use torch.nn.BatchNorm2d in eval mode"
        )
    return forms.instance_norm(z, _value(weight), _value(bias), eps)


def _value(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.detach()


def _softmax_dim(dim: int | None = None, dtype: Any = None) -> tuple[int]:
    if dim is None or dtype is not None:
        raise Refused("softmax: say dim, and no dtype")
    return (dim,)
