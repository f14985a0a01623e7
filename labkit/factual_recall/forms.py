"""Reading a residual stream: the logit lens, what each component wrote, and what that says about an answer.

The model's logits are W_U (g ⊙ x / rms(x)), where x is the residual stream, g the final norm's gain and W_U the
unembedding. With rms(x) frozen at what it was, the logits are linear in x, and x is a sum of components: so each
component has its own share of a logit, and the shares add up. An `lm` is anything with W_E (vocab d; tied: W_U = W_E),
final_norm (d), config.norm_eps, config.n_layers, config.n_heads, unembed, run and decode as labkit.lm has them.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from einops import einsum, rearrange
from jaxtyping import Float, Int
from torch import Tensor


def logit_lens(lm: Any, residual: Float[Tensor, "*n d"]) -> Float[Tensor, "*n vocab"]:
    """Logits as if the model stopped here: the final norm of this residual stream, then the unembedding."""
    check_width(lm, "residual", residual)
    return lm.unembed(residual)


def project(lm: Any, vector: Float[Tensor, "*n d"]) -> Float[Tensor, "*n vocab"]:
    """W_U (g ⊙ v): a vector's effect on every logit, but for the scale 1 / rms(x) of the stream that it is part of."""
    check_width(lm, "vector", vector)
    return (vector * lm.final_norm) @ lm.W_E.T


def lens_of(lm: Any, vector: Float[Tensor, " d"], k: int = 5) -> list[tuple[str, float]]:
    """The k tokens that this vector raises most, with `project`ed logits: what a head or an MLP says, in words."""
    if vector.ndim != 1:
        raise ValueError(f"vector: expected (d) = ({lm.W_E.shape[1]},), got {tuple(vector.shape)}")
    top = project(lm, vector).topk(k)
    return [(lm.decode(i), logit) for i, logit in zip(top.indices, top.values.tolist(), strict=True)]


def rank(logits: Float[Tensor, "*n vocab"], ids: Int[Tensor, "*n"]) -> Int[Tensor, "*n"]:
    """How many tokens have a higher logit than this one: 0 is the top."""
    if ids.shape != logits.shape[: logits.ndim - 1]:
        raise ValueError(f"ids: expected one for each row of logits {tuple(logits.shape)}, got {tuple(ids.shape)}")
    return (logits > logits.gather(-1, ids[..., None])).sum(-1)


# ------------------------------------------------------------------ components
class Components(NamedTuple):
    """A residual stream (b d) as the sum of what was written into it."""

    names: list[str]  # n: "embedding", "L0H0" … "L0H8", "M0", "L1H0" …
    vectors: Float[Tensor, "b n d"]
    scale: Float[Tensor, " b"]  # 1 / rms of the sum: what the final norm multiplies it by

    def of(self, name: str) -> Float[Tensor, "b d"]:
        """One component's vectors."""
        if name not in self.names:
            raise KeyError(f"no component is called {name!r}: they are embedding, L0H0 …, M0 …")
        return self.vectors[:, self.names.index(name)]


def components(lm: Any, ids: Int[Tensor, "b t"]) -> Components:
    """The embedding, every head and every MLP at the last position of these texts, which sum to the final residual."""
    run = lm.run(ids, record=("embedding", "*.head_out", "*.mlp_out", "final"), logits_at=slice(0, 0))
    return collected(lm, {name: value[..., -1, :] for name, value in run.values.items()})


def collected(lm: Any, at_last: Mapping[str, Tensor]) -> Components:
    """Components from recorded values at one position: embedding, mlp_out and final (b d), head_out (b h d)."""
    names, vectors = ["embedding"], [at_last["embedding"][:, None]]
    for i in range(lm.config.n_layers):
        names += [f"L{i}H{h}" for h in range(lm.config.n_heads)] + [f"M{i}"]
        vectors += [at_last[f"{i}.head_out"], at_last[f"{i}.mlp_out"][:, None]]
    scale = (at_last["final"].square().mean(-1) + lm.config.norm_eps).rsqrt()
    return Components(names, torch.cat(vectors, 1), scale)


# ------------------------------------------------------------------ direct logit attribution
def direction(lm: Any, ids: Int[Tensor, " b"], against: Int[Tensor, " m"] | None = None) -> Float[Tensor, "b d"]:
    """g ⊙ (W_U[answer] − mean of W_U over `against`, or over the whole vocabulary): where a stream must go to answer.

    Why the mean: a push that raises all tokens alike changes no probability. RMSNorm, unlike LayerNorm, lets it pass.
    """
    if ids.ndim != 1 or ids.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"ids: expected integers (b), one answer each, got {tuple(ids.shape)} {ids.dtype}")
    others = lm.W_E if against is None else lm.W_E[against]
    return lm.final_norm * (lm.W_E[ids] - others.mean(0))


def attribute(parts: Components, direction: Float[Tensor, "b d"] | Float[Tensor, " d"]) -> Float[Tensor, "b n"]:
    """Each component's share of the logit that `direction` stands for; they sum to that logit minus the mean."""
    b, _, d = parts.vectors.shape
    if direction.shape not in ((d,), (b, d)):
        raise ValueError(f"direction: expected (d) or (b d) = ({b}, {d}), got {tuple(direction.shape)}")
    return einsum(parts.vectors, direction.expand(b, d), parts.scale, "b n d, b d, b -> b n")


def by_block(lm: Any, shares: Float[Tensor, "b n"]) -> Float[Tensor, "b layers parts"]:
    """The shares of `attribute` as a table, a row a block: its heads, then its MLP (the embedding is left out)."""
    return rearrange(shares[:, 1:], "b (layers parts) -> b layers parts", layers=lm.config.n_layers)


def check_width(lm: Any, name: str, x: Tensor) -> None:
    """Refuse vectors that are not of the residual stream."""
    if not isinstance(x, Tensor) or x.ndim < 1 or x.shape[-1] != lm.W_E.shape[1]:
        got = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"{name}: expected (… d) with d = {lm.W_E.shape[1]}, got {got}")
