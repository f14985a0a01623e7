"""The peers, each as its authors publish it, with the same weights or tensors as ours: what the benchmarks share."""

import functools
import importlib.util
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor

from labkit import assets

DENSE = "scaled_dot_product_attention"


@functools.cache
def fla(asset: str) -> ModuleType:
    """One of fla-core's files in plain torch, such as "fla_delta_rule"."""
    spec = importlib.util.spec_from_file_location(asset, assets.path(asset))
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def llama() -> Any:
    """transformers' Llama with the weights of labkit.lm.load()."""
    transformers.utils.logging.disable_progress_bar()
    gguf = assets.path("smollm2")
    return transformers.AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32, local_files_only=True
    ).eval()


def dense(q: Tensor, k: Tensor, v: Tensor, *_: Tensor) -> Tensor:
    """torch's causal softmax attention."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


def qkv(t: int, h: int = 4, d: int = 64, device: str = "cpu", dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Random q, k, v (1 h t d), always the same."""
    x = torch.randn(3, 1, h, t, d, generator=torch.Generator().manual_seed(0))
    return list(x.to(device, dtype))
