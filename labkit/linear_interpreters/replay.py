"""A network run once as it is, noting what its non-linear units decide, and then on other inputs, so decided.

Every call on something made from the input passes by here, be it a module's, a function's (`F.relu`) or a method's, in
place or not, in the order in which the network makes it: a module that is used twice decides twice. A call that is
neither known to be linear nor known how to freeze is refused by its name.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from . import forms
from .forms import Frozen, Unit

Smooth = Literal["gate", "tangent"]

# What each call is. A sum of tensors: those that are not made from the input are constants.
SUMS = {name: 2 for name in "add radd iadd sub rsub isub".split()} | {"cat": 1, "concat": 1, "stack": 1, "setitem": 3}
PRODUCTS = "mul rmul imul multiply matmul rmatmul mm bmm mv einsum tensordot".split()
QUOTIENTS = "div itruediv truediv true_divide".split()
WITH_BIAS = "linear conv1d conv2d conv3d conv_transpose1d conv_transpose2d conv_transpose3d".split()
LINEAR = """
neg mean sum clone contiguous flatten unflatten view view_as reshape permute transpose swapaxes movedim squeeze
unsqueeze expand expand_as repeat tile getitem chunk split tensor_split unbind narrow select index_select flip roll rot90
unfold fold to float double type_as pixel_shuffle pixel_unshuffle channel_shuffle interpolate upsample
avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d
""".split()
DROPOUTS = "dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout".split()
POOLS = """
max_pool1d max_pool2d max_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d
""".split()
SMOOTH = "silu gelu sigmoid tanh softplus elu selu celu mish hardswish hardsigmoid logsigmoid softsign".split()
ABOUT = """
size dim numel stride ndimension element_size is_contiguous is_floating_point is_complex len get_device
shape dtype device ndim is_cuda is_cpu is_meta layout itemsize requires_grad
""".split()
TURNS = ("T", "mT")


class Refused(TypeError):
    """A network that has no linear interpreter here; the message names the call and says why."""


class Followed(Tensor):
    """Made from the input. What torch makes of one is of this class too."""


class Step(NamedTuple):
    """A unit that was met: its name, the shape of its input without the batch, and what it has become."""

    name: str
    shape: torch.Size
    frozen: Frozen


# ------------------------------------------------------------------ the two runs
class Follow(TorchFunctionMode):
    """While it is on, calls on what is made from the input are sorted, and units are given to `unit`."""

    linear_only = False  # whether constants are left away

    def unit(self, name: str, func: Callable, z: Tensor, rest: tuple, kwargs: dict) -> Tensor:
        raise NotImplementedError

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        leaves = tree_leaves((args, kwargs))
        followed = sum(isinstance(x, Followed) for x in leaves)
        if not followed:
            return func(*args, **kwargs)
        name = name_of(func)
        if name in ABOUT:
            return func(*args, **kwargs)
        if torch.is_grad_enabled() != self.gradients:
            raise Refused(
                f"{name}: the network switches gradients on or off on its way (torch.no_grad, or an autograd.Function "
                "with a backward of its own): what is inside cannot be followed backwards"
            )
        if name in LINEAR or name in TURNS:
            return func(*args, **kwargs)
        if name in SUMS:
            return func(*(without_constants(args, SUMS[name]) if self.linear_only else args), **kwargs)
        if name in PRODUCTS or name in QUOTIENTS:
            if followed > 1:
                raise Refused(
                    f"{name}: both of its tensors are made from the input, and a product of two is not linear"
                )
            if name in QUOTIENTS and not isinstance(args[0], Followed):
                raise Refused(f"{name}: it divides by what is made from the input, which is not linear")
            return func(*args, **kwargs)
        if name in WITH_BIAS:
            if followed > 1 or not isinstance(args[0], Followed):
                raise Refused(f"{name}: its weight or bias is made from the input, and a product of two is not linear")
            return (
                func(*without_bias(args), **{**kwargs, "bias": None} if "bias" in kwargs else kwargs)
                if (self.linear_only)
                else func(*args, **kwargs)
            )
        raise NotImplementedError(name)

    def __enter__(self):
        self.gradients = torch.is_grad_enabled()
        return super().__enter__()
