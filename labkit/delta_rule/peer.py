"""A kernel of the best-known peer, flash-linear-attention 0.6.0 (MIT), cut out of its own file to be compiled and read.

It is the backward pass of the WY representation, which the peer runs with two warps on Hopper because four gave wrong
gradients there (its issue 984). Nothing of it is copied into this repository, and it is never run here.
"""

import ast
import importlib.util
from pathlib import Path
from typing import Any

import torch

from kernels import Case, need
from labkit import assets

KERNEL = "prepare_wy_repr_bwd_kernel"
HEADER = """import triton
import triton.language as tl


@triton.jit
def safe_dot(a, b, allow_tf32: tl.constexpr = None):
    return tl.dot(a, b, allow_tf32=allow_tf32)


@triton.jit
"""


def peer_case(num_warps: int, d: int = 64, chunk: int = 64) -> Case:
    """A launch of the peer's kernel with bfloat16 heads of size d, for `kernel_lab.compile_report`."""
    h, t = 4, 4096
    x = torch.empty((1, t, h, d), dtype=torch.bfloat16, device="meta")
    A = torch.empty((1, t, h, chunk), dtype=torch.bfloat16, device="meta")
    beta = torch.empty((1, t, h), dtype=torch.bfloat16, device="meta")
    tensors = (x, x, beta, A, x, x, x, x, beta)  # k, v, beta, A, dw, du, dk, dv, dbeta
    options = dict(H=h, K=d, V=d, BT=chunk, BK=64, BV=64, IS_VARLEN=False, num_warps=num_warps, num_stages=2)
    return Case(f"{KERNEL}, {num_warps} warps", peer_kernel(), (*tensors, None, None, t), options)


def peer_kernel() -> Any:
    """The kernel, of which no launch was made."""
    need()
    file = assets.derived("fla_wy_fast", f"{KERNEL}-v1.py", cut_out)
    spec = importlib.util.spec_from_file_location(KERNEL, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, KERNEL)


def cut_out(out: Path) -> None:
    """Write the kernel's source without the imports of its file, which would load the whole package."""
    source = assets.path("fla_wy_fast").read_text(encoding="utf8")
    functions = {node.name: node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef)}
    text = ast.get_source_segment(source, functions[KERNEL])
    out.write_text(f"{HEADER}{text}\n", encoding="utf8")
