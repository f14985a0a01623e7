"""Triton kernels, one file a mechanism; this file decides where they run.

`WHERE` is "compiled" on a machine with a GPU, "interpreted" without one, and "nowhere" where Triton does not exist
(macOS, Windows). Triton reads TRITON_INTERPRET while it is imported, so import `kernels` before `triton`.
A kernel file loads when it is first used: `kernels.attention_sinks.sink_attention(...)`.
"""

import contextlib
import importlib
import importlib.util
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
import torch

_ASKED = os.environ.setdefault("TRITON_INTERPRET", "0" if torch.cuda.is_available() else "1")
_INTERPRET = _ASKED.lower() in ("1", "true", "on", "yes", "y")
WHERE = "nowhere" if importlib.util.find_spec("triton") is None else "interpreted" if _INTERPRET else "compiled"

_language: list[tuple[Any, dict[str, Any]]] = []


@dataclass(frozen=True)
class Case:
    """A launch, `kernel[grid](*args, **options)`, to be compiled and counted: what the kernel lab needs to know.

    The tensors may be on the "meta" device: only their types, sizes, strides and alignment matter.
    """

    name: str
    kernel: Any
    args: tuple[Any, ...]
    options: Mapping[str, Any]  # the tl.constexpr arguments, num_warps, num_stages
    grid: tuple[int, ...] = ()  # programs along each axis: needed to count what a launch does, not to compile it


def need() -> tuple[ModuleType, ModuleType]:
    """(triton, triton.language), imported in the mode decided above; or one sentence on why kernels cannot run."""
    if WHERE == "nowhere":
        raise ImportError("Triton is not available on this platform: use the banded form")
    import triton
    import triton.language as tl

    found = "compiled" if isinstance(tl.zeros, triton.JITFunction) else "interpreted"
    if found != WHERE:
        raise ImportError(
            f"triton was imported before kernels, which then run {found} and on this machine can only run {WHERE}: "
            "restart Python (in a notebook: its kernel) and import labkit or kernels before triton"
        )
    if not _language:
        parts = (tl, tl.core, tl.math, tl.tensor, tl.dtype, tl.core.tensor_descriptor_base)
        _language.extend((part, dict(vars(part))) for part in parts)
    return triton, tl


def pristine_language() -> list[tuple[Any, dict[str, Any]]]:
    """(module or class, its names) of Triton's language before the first launch: interpreted launches change it."""
    need()
    return _language


def refuse(**tensors: torch.Tensor) -> None:
    """Refuse, by name, tensors on which a kernel would be wrong or could not run here."""
    for name, x in tensors.items():
        if WHERE == "interpreted" and x.dtype == torch.bfloat16:
            raise TypeError(
                f"{name}: bfloat16 is silently wrong in Triton's interpreter (1 + 1 = 1.7e38), "
                f"which runs the kernels on this machine: pass {name}.half() or {name}.float()"
            )
        if WHERE == "compiled" and x.dtype == torch.float64:
            raise TypeError(f"{name}: float64 kernels run only in the interpreter: pass {name}.float() or use banded")
        if WHERE == "compiled" and not x.is_cuda:
            raise ValueError(
                f"{name}: kernels run on the GPU here and {name} is on {x.device}: move it, "
                "or set TRITON_INTERPRET=1 before Python starts"
            )


@contextlib.contextmanager
def launch(x: torch.Tensor) -> Iterator[None]:
    """Around a launch on x's device. Interpreted, a masked lane may compute -inf - -inf: numpy need not warn of it."""
    with np.errstate(all="ignore") if WHERE == "interpreted" else torch.cuda.device(x.device):
        yield


def __getattr__(name: str) -> Any:
    """Load a kernel file on first use, so that `import kernels` works where Triton does not exist."""
    if not name.startswith("_") and importlib.util.find_spec(f"{__name__}.{name}"):
        return importlib.import_module(f"{__name__}.{name}")
    raise AttributeError(f"kernels has no {name!r}")
