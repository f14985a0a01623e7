"""What can be done to a component while the last token runs; each is an edit, and a run takes several in turn.

    prompts.logits(swap_heads(prompts, ["L23H4"], donors), zero("M29"))

A component is named "L23H4" (block 23, head 4) or "M29" (the MLP of block 29).
"""

import re
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor

from labkit.lm import LanguageModel

from .batch import Edits, Prompts, combine, together


def scale(factors: Mapping[str, float]) -> Edits:
    """Multiply what these components write: {"L29H0": 0, "M29": 1.25}."""
    return together(*(_scaled(component, factor) for component, factor in factors.items()))


def zero(*components: str) -> Edits:
    """Take away what these components write."""
    return scale(dict.fromkeys(components, 0.0))


def swap(prompts: Prompts, components: Sequence[str], donors: Int[Tensor, " b"]) -> Edits:
    """Each prompt's components write what they write in the prompt `donors` (b) names, a row of the same prompts.

    Activation patching, at the last position only.
    """
    if not isinstance(donors, Tensor) or donors.shape != (len(prompts),) or donors.is_floating_point():
        got = f"{tuple(donors.shape)} {donors.dtype}" if isinstance(donors, Tensor) else repr(donors)
        raise ValueError(f"donors: expected integers (b) = ({len(prompts)},), a row for each prompt, got {got}")
    if donors.min() < 0 or donors.max() >= len(prompts):
        raise ValueError(f"donors: expected rows 0 to {len(prompts) - 1}, got {donors.tolist()}")
    sites = [site(component) for component in _several(components)]
    clean = prompts.run(record=tuple({name for name, _ in sites})).values
    for name, head in sites:
        _check_head(head, clean[name])
    return together(*({name: _given(clean[name][donors], head)} for name, head in sites))


def swap_heads(prompts: Prompts, heads: Sequence[str], donors: Int[Tensor, " b"]) -> Edits:
    """`swap`, for heads."""
    for head in _several(heads):
        if site(head)[1] is None:
            raise ValueError(f"heads: {head!r} is an MLP; recall.swap takes both")
    return swap(prompts, heads, donors)


def knock_out_attention(
    prompts: Prompts, from_: str | Tensor = "last", to: str | Tensor = "topic", layers: Iterable[int] = ()
) -> Edits:
    """In these blocks, tokens `from_` no longer see tokens `to`; what they still see takes over the attention.

    from_, to: "last", "topic" or a mask (b s); a token always sees itself. From tokens before the last, ask
    prompts.logits_everywhere: they must be computed anew.
    """
    layers = list(layers)
    if not layers:
        raise ValueError("layers: expected at least one block, such as range(20, 25)")
    seeing, seen, last = (prompts.positions(where) for where in (from_, to, "last"))
    itself = torch.eye(seen.shape[1], dtype=torch.bool)
    everywhere = seeing[:, :, None] & seen[:, None] & ~itself  # (b s s)
    at_last = (prompts.slots(seen & ~last) & (seeing & last).any(1, keepdim=True))[:, None]  # (b 1 s)
    only_last = not (seeing & ~last).any()

    def hide(scores: Tensor) -> Tensor:  # (b h t s)
        alone = scores.shape[-2] == 1
        if alone and not only_last:
            raise ValueError("from_: tokens before the last are not run again here: ask prompts.logits_everywhere")
        return scores.masked_fill((at_last if alone else everywhere)[:, None], -torch.inf)

    return {f"{layer}.scores": hide for layer in layers}


def nll(lm: LanguageModel, ids: Int[Tensor, " t"], *edits: Edits) -> float:
    """Mean loss of a text's next tokens in nats, with these edits at every position: what an intervention costs."""
    if ids.ndim != 1 or len(ids) < 2:
        raise ValueError(f"ids: expected a text (t) of at least two tokens, got {tuple(ids.shape)}")
    logits = lm.run(ids[None, :-1], edit=combine(lm.config.n_layers, *edits)).logits[0]
    return F.cross_entropy(logits, ids[1:]).item()


# ------------------------------------------------------------------ names
def site(component: str) -> tuple[str, int | None]:
    """Where a component can be edited: "L23H4" -> ("23.head_out", 4), "M29" -> ("29.mlp_out", None)."""
    if isinstance(component, str):
        if found := re.fullmatch(r"L(\d+)H(\d+)", component):
            return f"{int(found[1])}.head_out", int(found[2])
        if found := re.fullmatch(r"M(\d+)", component):
            return f"{int(found[1])}.mlp_out", None
    raise ValueError(f'component: expected "L23H4" (a head) or "M29" (an MLP), got {component!r}')


def _several(components: Sequence[str]) -> Sequence[str]:
    if isinstance(components, str) or not components:
        raise ValueError(f'components: expected a list such as ["L23H4"], got {components!r}')
    return components


def _scaled(component: str, factor: float) -> Edits:
    name, head = site(component)
    return {name: (lambda x: x * factor) if head is None else _of_head(head, lambda x: x * factor)}


def _given(value: Tensor, head: int | None) -> Callable[[Tensor], Tensor]:
    """value: (b d), or (b h d) of which one head is taken."""

    def give(x: Tensor) -> Tensor:
        if x.shape[-2] != 1:
            raise ValueError("swap: it is made for the last position: ask prompts.logits, not logits_everywhere")
        return (value if head is None else value[:, head])[:, None]

    return give if head is None else _of_head(head, give)


def _of_head(head: int, change: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """A change of one head's (b t d) within all heads' (b h t d)."""

    def edit(x: Tensor) -> Tensor:
        _check_head(head, x)
        x = x.clone()
        x[:, head] = change(x[:, head])
        return x

    return edit


def _check_head(head: int | None, x: Tensor) -> None:
    """x: (b h …)"""
    if head is not None and head >= x.shape[1]:
        raise ValueError(f"component: the model has heads 0 to {x.shape[1] - 1} in a block, got {head}")
