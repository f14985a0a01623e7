"""What both networks refuse to be given."""

from torch import Tensor


def expect_rgb(x: Tensor, hint: str = "") -> None:
    """Raise ValueError unless `x` is floats (b 3 h w); the hint says what was probably meant."""
    if x.ndim != 4 or x.shape[1] != 3 or not x.is_floating_point():
        raise ValueError(f"x: expected floats (b 3 h w), got {x.dtype} {tuple(x.shape)}{hint and f': {hint}'}")
