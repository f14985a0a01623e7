"""The transformer itself: one forward pass, which records, edits and caches without a second copy of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from jaxtyping import Float, Int
from tokenizers import Tokenizer
from torch import Tensor

from .tap import Edit, Tap


@dataclass(frozen=True)
class Config:
    """Sizes of the model, as its file states them."""

    n_layers: int
    n_heads: int
    n_kv_heads: int
    d_model: int
    d_mlp: int
    context: int
    rope_base: float
    norm_eps: float

    @property
    def d_head(self) -> int:
        return self.d_model // self.n_heads


@dataclass(frozen=True)
class Layer:
    """The weights of one block; every W is (out in)."""

    attn_norm: Tensor
    W_Q: Tensor
    W_K: Tensor
    W_V: Tensor
    W_O: Tensor
    mlp_norm: Tensor
    W_gate: Tensor
    W_up: Tensor
    W_down: Tensor


class Attend(Protocol):
    """Who sees whom: a memory that is handed each block's un-rotated q, k and v and returns what every head mixed."""

    def begin(self, lm: "LanguageModel", batch: int, t: int) -> int:
        """Told once per forward pass; returns the largest rotary position that this pass will use."""
        ...

    def __call__(self, i: int, q: Tensor, k: Tensor, v: Tensor, tap: Tap) -> Tensor: ...


@dataclass(frozen=True)
class Run:
    """What one forward pass gave: the logits (b t vocab), and each recorded value under its name."""

    logits: Tensor
    values: dict[str, Tensor]

    def __getitem__(self, name: str) -> Tensor:
        if name not in self.values:
            raise KeyError(f"{name!r} was not recorded; pass record={name!r} to lm.run")
        return self.values[name]


class LanguageModel:
    """A Llama-style decoder: RMSNorm, rotary positions, grouped-query attention, SwiGLU, tied embeddings.

    Made by `labkit.lm.load()`. Read `run`: it is the whole forward pass.
    """

    def __init__(self, config: Config, tokenizer: Tokenizer, W_E: Tensor, layers: list[Layer], final_norm: Tensor):
        self.config, self.tokenizer = config, tokenizer
        self.W_E, self.layers, self.final_norm = W_E, layers, final_norm
        half = torch.arange(0, config.d_head, 2, dtype=torch.float64) / config.d_head
        self.angular_speed = config.rope_base**-half  # (d_head/2,) radians per position, fast to slow

    def weights(self) -> list[Tensor]:
        """Every weight tensor of the model, once."""
        return [self.W_E, *(W for layer in self.layers for W in vars(layer).values()), self.final_norm]

    # ------------------------------------------------------------------ text
    def encode(self, text: str) -> Int[Tensor, " t"]:
        """The text's token ids. The model has no begin-of-text token: the first token of the text comes first."""
        if not isinstance(text, str) or not text:
            raise ValueError(f"text: expected a string with at least one character, got {text!r}")
        return torch.tensor(self.tokenizer.encode(text).ids)

    def decode(self, ids: Int[Tensor, " t"]) -> str:
        """The text that these token ids (t,) stand for."""
        return self.tokenizer.decode(torch.as_tensor(ids).reshape(-1).tolist(), skip_special_tokens=False)

    def tokens(self, ids: Int[Tensor, " t"]) -> list[str]:
        """Each token on its own, as text: labels for a figure."""
        return [self.decode(i) for i in torch.as_tensor(ids).reshape(-1)]

    # --------------------------------------------------------------- forward
    def __call__(self, ids: Int[Tensor, "b t"], *, cache: Attend | None = None) -> Float[Tensor, "b t vocab"]:
        """Logits of every next token. See `run`."""
        return self.run(ids, cache=cache).logits

    @torch.no_grad()
    def run(
        self,
        ids: Int[Tensor, "b t"],
        *,
        record: str | tuple[str, ...] = (),
        edit: Mapping[str, Edit] | None = None,
        cache: Attend | None = None,
        logits_at: slice | Tensor = slice(None),
    ) -> Run:
        """One forward pass that records and edits by name.

        ids: (b t) integers. record: names or globs ("12.pattern", "*.mlp_out"; `labkit.lm.names` lists them).
        edit: name or glob -> a tensor of the same shape, or a function of the value that returns one.
        cache: what earlier tokens left behind (`Cache()`); it takes in these tokens too. None: these tokens are all.
        logits_at: the positions whose logits are wanted; the unembedding is a fifth of the work.
        """
        self._check(ids)
        tap = Tap(self.config.n_layers, record, edit)
        cache = WholeText() if cache is None else cache
        reach = cache.begin(self, *ids.shape)
        if reach >= self.config.context:
            raise ValueError(
                f"ids: token {reach + 1} is past the model's context of {self.config.context} tokens: "
                "shorten the text, or stream it through a cache that evicts"
            )
        eps, d = self.config.norm_eps, self.config.d_model

        x = tap("embedding", F.embedding(ids, self.W_E))
        for i, W in enumerate(self.layers):
            x = tap(f"{i}.residual", x)
            h = F.rms_norm(x, (d,), W.attn_norm, eps)
            q = tap(f"{i}.query", self._heads(h, W.W_Q))
            k = tap(f"{i}.key", self._heads(h, W.W_K))
            v = tap(f"{i}.value", self._heads(h, W.W_V))
            mixed = tap(f"{i}.mixed", cache(i, q, k, v, tap))
            x = x + tap(f"{i}.attn_out", self._out(i, mixed, W.W_O, tap))
            h = F.rms_norm(x, (d,), W.mlp_norm, eps)
            hidden = tap(f"{i}.mlp_hidden", F.silu(F.linear(h, W.W_gate)) * F.linear(h, W.W_up))
            x = x + tap(f"{i}.mlp_out", F.linear(hidden, W.W_down))
        x = tap("final", x)
        return Run(self.unembed(x[:, logits_at]), tap.values)

    def unembed(self, x: Float[Tensor, "b t d"]) -> Float[Tensor, "b t vocab"]:
        """From the residual stream to logits: the final norm, then the embedding matrix again (it is tied)."""
        return F.linear(F.rms_norm(x, (self.config.d_model,), self.final_norm, self.config.norm_eps), self.W_E)

    def _heads(self, h: Tensor, W: Tensor) -> Tensor:
        return rearrange(F.linear(h, W), "b t (h d) -> b h t d", d=self.config.d_head)

    def _out(self, i: int, mixed: Tensor, W_O: Tensor, tap: Tap) -> Tensor:
        """Every head writes through its own slice of W_O; only a tap needs to see them one by one."""
        if tap.wants(f"{i}.head_out"):
            by_head = rearrange(W_O, "e (h d) -> h d e", d=self.config.d_head)
            return tap(f"{i}.head_out", einsum(mixed, by_head, "b h t d, h d e -> b h t e")).sum(1)
        return F.linear(rearrange(mixed, "b h t d -> b t (h d)"), W_O)

    def _check(self, ids: Tensor) -> None:
        if (
            not isinstance(ids, Tensor)
            or ids.dtype not in (torch.int64, torch.int32)
            or ids.ndim != 2
            or not ids.numel()
        ):
            got = f"{tuple(ids.shape)} {ids.dtype}" if isinstance(ids, Tensor) else type(ids).__name__
            raise ValueError(
                f"ids: expected integers of shape (b t) with t >= 1, got {got}; lm.encode(text)[None] makes one"
            )
        if ids.min() < 0 or ids.max() >= len(self.W_E):
            raise ValueError(f"ids: expected 0 <= id < {len(self.W_E)}, got {int(ids.min())} to {int(ids.max())}")

    def rotation(self, positions: Int[Tensor, " t"]) -> "Rotation":
        """The turn that each position (t,) stands for, ready for `rotate`."""
        angle = positions.to(torch.float64)[:, None] * self.angular_speed
        return Rotation(angle.cos().to(self.W_E.dtype), angle.sin().to(self.W_E.dtype))


class Rotation(NamedTuple):
    """Cosine and sine (t d_head/2) of position · speed_j."""

    cos: Tensor
    sin: Tensor


def rotate(x: Float[Tensor, "b h t d"], by: Rotation) -> Float[Tensor, "b h t d"]:
    """Rotary positions (arXiv 2104.09864, eq. 15): the pair (x_j, x_{j+d/2}) turns by position · speed_j radians.

    So rotate(q, m) · rotate(k, n) depends on m and n only through m − n.
    """
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * by.cos - b * by.sin, b * by.cos + a * by.sin], dim=-1)


class WholeText:
    """The plain case: the tokens of this pass are the whole text, and each sees itself and those before it."""

    def begin(self, lm: LanguageModel, batch: int, t: int) -> int:
        self.rotation = lm.rotation(torch.arange(t))
        return t - 1

    def __call__(self, i: int, q: Tensor, k: Tensor, v: Tensor, tap: Tap) -> Tensor:
        return softmax_attention(i, rotate(q, self.rotation), rotate(k, self.rotation), v, None, tap)


def softmax_attention(
    i: int, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, tap: Tap, scale: float | None = None
) -> Tensor:
    """softmax(q kᵀ · scale + mask) v with grouped heads. mask: (t s) bool, or None for causal (the t newest of s).

    The t × s scores and weights exist only when a tap wants them.
    """
    t, s = q.shape[-2], k.shape[-2]
    if mask is None and t not in (1, s):
        mask = torch.ones(t, s, dtype=torch.bool).tril(s - t)
    if not tap.wants(f"{i}.scores", f"{i}.pattern"):
        return F.scaled_dot_product_attention(
            q, k, v, mask, is_causal=mask is None and t > 1, scale=scale, enable_gqa=True
        )
    if mask is None:
        mask = torch.ones(t, s, dtype=torch.bool).tril(s - t)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    k, v = (repeat_heads(x, q.shape[1]) for x in (k, v))
    scores = einsum(q, k, "b h t d, b h s d -> b h t s") * scale
    scores = tap(f"{i}.scores", scores.masked_fill(~mask, -torch.inf))
    pattern = tap(f"{i}.pattern", scores.softmax(-1))
    return einsum(pattern, v, "b h t s, b h s d -> b h t d")


def repeat_heads(x: Float[Tensor, "b kv s d"], n_heads: int) -> Float[Tensor, "b h s d"]:
    """Grouped-query attention: key-value head g serves query heads g·r … g·r + r − 1 (arXiv 2305.13245)."""
    return x.repeat_interleave(n_heads // x.shape[1], dim=1)
