"""Following what is made from a network's input: every call that touches it passes by here."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from .calls import Followed, Refused, count, is_affine, is_constant, linear_part, name_of


class Follow(TorchFunctionMode):
    """While it is on, every call on something made from the input is sorted: affine, or a unit and given to `unit`.

    Modules, functions and methods, in place or not, all pass by here in the order in which the network calls them, so
    that a module that is used twice is met twice.
    """

    def __init__(self, unit: Callable[[str, Callable, tuple, dict], Tensor], *, linear: bool = False):
        super().__init__()
        self.unit, self.linear, self.gradients = unit, linear, torch.is_grad_enabled()

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if not count((args, kwargs)):
            return func(*args, **kwargs)
        name = name_of(func)
        if is_constant(name, args):
            same = func(*args, **kwargs)
            return same.as_subclass(Tensor) if isinstance(same, Tensor) else same
        if torch.is_grad_enabled() != self.gradients:
            raise Refused(
                f"{name}: the network turns gradients on or off around it (torch.no_grad, or an autograd.Function "
                "with a backward of its own), so it cannot be followed backwards"
            )
        if not is_affine(name, func, args, kwargs):
            return self.unit(name, func, args, kwargs)
        y = (linear_part(name, func) if self.linear else func)(*args, **kwargs)
        if any(isinstance(x, Tensor) and not x.is_floating_point() for x in tree_leaves(y)):
            raise Refused(f"{name}: it rounds what is made from the input to whole numbers, which is not linear")
        return y


def follow(net: Callable[[Tensor], Tensor], x: Tensor, unit: Callable, *, linear: bool = False) -> Tensor:
    """net(x), with units run by `unit(name, func, args, kwargs)`; linear leaves out what affine calls add.

    Raises Refused for a call that is not known, and for a network that does not return one tensor (b …) made from x.
    """
    with Follow(unit, linear=linear):
        y = net(x.clone().as_subclass(Followed))
    if not isinstance(y, Followed) or y.ndim < 1 or len(y) != len(x):
        got = f"{tuple(y.shape)}" if isinstance(y, Tensor) else type(y).__name__
        raise Refused(
            f"the network returns {got}: expected one tensor ({len(x)} …) that torch calls made from its input "
            "(TorchScript and NumPy cannot be followed)"
        )
    return y.as_subclass(Tensor)
