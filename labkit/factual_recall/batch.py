"""Many prompts at once, each token computed as seldom as can be, and the last one again and again.

An edit at the last position changes nothing before it: attention looks back only. So the keys and values of all earlier
tokens are computed once, those of the prefix that the prompts share even once for all of them, and an edit in block i
costs one token's work a prompt, from block i on. Nothing is approximated.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from fnmatch import fnmatchcase
from re import escape, finditer

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from labkit.lm import Cache, LanguageModel, Run, names
from labkit.lm.model import Rotation, rotate, softmax_attention
from labkit.lm.tap import Edit, Tap

from .forms import Components, collected

Edits = Mapping[str, Edit]  # as lm.run takes them: a name or glob -> a function of the value, or a tensor


class Prompts:
    """b prompts of any lengths, of which the last token is run as often as you like.

    prompts = Prompts(lm, ["The capital of France is", "The capital of Burkina Faso is"], topics=["France", "Burkina"])
    prompts.logits()                                     (b vocab): what comes next
    prompts.logits(zero("L23H4"), scale({"M29": 2}))     the same with edits at the last position, applied in turn
    prompts.run(record="*.pattern")["23.pattern"]        (b h s): any value of `labkit.lm.names`, at the last position

    The columns of scores and patterns are slots: the text's positions in order, but the last token is always in the
    last one, and a shorter prompt leaves slots before it unseen (pattern 0).
    """

    def __init__(self, lm: LanguageModel, texts: Sequence[str], topics: Sequence[str] | None = None) -> None:
        if isinstance(texts, str) or not texts:
            raise ValueError(f"texts: expected a list of at least one prompt, got {texts!r}")
        if topics is not None and (isinstance(topics, str) or len(topics) != len(texts)):
            raise ValueError(f"topics: expected one for each of the {len(texts)} prompts, got {topics!r}")
        self.lm, self.texts, self.topics = lm, list(texts), topics
        rows = [lm.encode(text) for text in texts]
        self.ids: Int[Tensor, "b s"] = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)  # padded on the right
        self.lengths: Int[Tensor, " b"] = torch.tensor([len(row) for row in rows])
        self.prefix = shared(rows)  # tokens that all prompts begin with, short of the last of any
        self.keys, self.values = self._remember()
        at_last = lm.rotation(self.lengths - 1)
        self._rotation = Rotation(at_last.cos[:, None, None], at_last.sin[:, None, None])
        self._clean: dict[str, Tensor] = {}

    def __len__(self) -> int:
        return len(self.texts)

    # ------------------------------------------------------------------ what was computed once
    def _remember(self) -> tuple[list[Tensor], list[Tensor]]:
        """Each block's rotated keys and values (b kv s-1 d_head) of all tokens but the last; the prefix is a view."""
        lm, b, p = self.lm, len(self), self.prefix
        last_of_none, cache = slice(0, 0), Cache()
        if p:
            lm.run(self.ids[:1, :p], cache=cache, logits_at=last_of_none)
            cache.keys = [k.expand(b, -1, -1, -1) for k in cache.keys]
            cache.values = [v.expand(b, -1, -1, -1) for v in cache.values]
        if self.ids.shape[1] - 1 > p:  # a shorter row's last token and padding come along, and are never looked at
            lm.run(self.ids[:, p:-1], cache=cache, logits_at=last_of_none)
        if not cache.keys:  # every prompt is one token
            c = lm.config
            nothing = [lm.W_E.new_zeros(b, c.n_kv_heads, 0, c.d_head)] * c.n_layers
            return nothing, nothing
        return cache.keys, cache.values

    def _until(self, layer: int) -> Float[Tensor, "b d"]:
        """The clean residual stream at the last position, as it enters this block (n_layers: as it leaves the last)."""
        n = self.lm.config.n_layers
        if not self._clean:
            self._clean = self._last(0, {}, ("final", *(f"{i}.residual" for i in range(n))))
        return self._clean["final" if layer == n else f"{layer}.residual"]

    # ------------------------------------------------------------------ the last token, again
    def run(self, *edits: Edits, record: str | tuple[str, ...] = ()) -> Run:
        """The last token's pass with these edits: logits (b vocab), and what was recorded, without the axis t.

        Edits see the values as in lm.run, with t = 1: head_out (b h 1 d), mlp_out (b 1 d), scores (b h 1 s).
        """
        n = self.lm.config.n_layers
        edit = combine(n, *edits)
        wanted = spread((record,) if isinstance(record, str) else record, n)
        start = min((block_of(name, n) for name in [*edit, *wanted]), default=n)
        values = self._last(start, edit, (*wanted, "final"))
        return Run(self.lm.unembed(values["final"][:, None])[:, 0], values)

    def logits(self, *edits: Edits) -> Float[Tensor, "b vocab"]:
        """Logits of what comes next, with these edits at the last position."""
        return self.run(*edits).logits

    def components(self, *edits: Edits) -> Components:
        """What the embedding, every head and every MLP write into the residual stream at the last position."""
        run = self.run(*edits, record=("embedding", "*.head_out", "*.mlp_out", "final"))
        return collected(self.lm, run.values)

    def _last(self, start: int, edit: Edits, record: tuple[str, ...]) -> dict[str, Tensor]:
        """The blocks from `start` on are a model of their own, which is fed the clean residual as its embedding."""
        lm = self.lm
        if start:
            config = replace(lm.config, n_layers=lm.config.n_layers - start)
            lm = LanguageModel(config, lm.tokenizer, lm.W_E, lm.layers[start:], lm.final_norm)
            entering = self._until(start)[:, None]
            edit = {"embedding": lambda _: entering, **{renumbered(k, -start): e for k, e in edit.items()}}
        run = lm.run(
            self.ids.gather(1, self.lengths[:, None] - 1),
            record=tuple(renumbered(name, -start) for name in record),
            edit=edit,
            cache=LastToken(self, start),
            logits_at=slice(0, 0),
        )
        return {renumbered(name, start): value.squeeze(-2) for name, value in run.values.items()}

    # ------------------------------------------------------------------ all tokens, as a plain forward pass
    def logits_everywhere(self, *edits: Edits) -> Float[Tensor, "b vocab"]:
        """The same with the edits at every position of the text: a plain pass over all tokens, nothing reused."""
        run = self.lm.run(
            self.ids, record="final", edit=combine(self.lm.config.n_layers, *edits), logits_at=slice(0, 0)
        )
        last = run["final"][torch.arange(len(self)), self.lengths - 1]
        return self.lm.unembed(last[:, None])[:, 0]

    # ------------------------------------------------------------------ who stands where
    def positions(self, where: str | Tensor) -> Bool[Tensor, "b s"]:
        """A mask over the text's positions: "last", "topic" (every occurrence), or a mask of your own."""
        place = torch.arange(self.ids.shape[1])
        if isinstance(where, Tensor):
            if where.dtype != torch.bool or where.shape != self.ids.shape:
                raise ValueError(
                    f"positions: expected a mask (b s) = {tuple(self.ids.shape)} of bool, "
                    f"got {tuple(where.shape)} {where.dtype}"
                )
            return where & (place < self.lengths[:, None])
        if where == "last":
            return place == self.lengths[:, None] - 1
        if where != "topic":
            raise ValueError(f'positions: expected "last", "topic" or a mask (b s), got {where!r}')
        if self.topics is None:
            raise ValueError("positions: these prompts were made without topics: Prompts(lm, texts, topics=[...])")
        return torch.stack([self._topic(text, topic) for text, topic in zip(self.texts, self.topics, strict=True)])

    def _topic(self, text: str, topic: str) -> Bool[Tensor, " s"]:
        """The tokens that hold any letter of the topic, wherever it stands as a word."""
        found = [m.span() for m in finditer(rf"(?<!\w){escape(topic)}(?!\w)", text)] if topic.strip() else []
        if not found:
            raise ValueError(f"topics: {topic!r} does not stand in {text!r}")
        tokens = self.lm.tokenizer.encode(text).offsets
        inside = [any(a < end and start < b for start, end in found) for a, b in tokens]
        return torch.tensor(inside + [False] * (self.ids.shape[1] - len(inside)))

    def slots(self, positions: Bool[Tensor, "b s"]) -> Bool[Tensor, "b s"]:
        """The same mask over the columns of the last token's scores."""
        place = torch.arange(self.ids.shape[1])
        earlier = positions & (place < self.lengths[:, None] - 1)
        earlier[:, -1] = (positions & self.positions("last")).any(1)
        return earlier


class LastToken:
    """An lm.Attend: the last token of each prompt sees what is remembered of the others, and itself."""

    def __init__(self, prompts: Prompts, start: int) -> None:
        self.prompts, self.start = prompts, start
        seen = prompts.slots(torch.ones_like(prompts.ids, dtype=torch.bool))
        self.seen = None if seen.all() else seen[:, None, None]

    def begin(self, lm: LanguageModel, batch: int, t: int) -> int:
        return int(self.prompts.lengths.max()) - 1

    def __call__(self, i: int, q: Tensor, k: Tensor, v: Tensor, tap: Tap) -> Tensor:
        p = self.prompts
        q, k = rotate(q, p._rotation), rotate(k, p._rotation)
        keys = torch.cat([p.keys[self.start + i], k], dim=2)
        values = torch.cat([p.values[self.start + i], v], dim=2)
        return softmax_attention(i, q, keys, values, self.seen, tap)


def shared(rows: Sequence[Int[Tensor, " t"]]) -> int:
    """How many tokens all rows begin with, leaving at least one of each."""
    n = min(len(row) for row in rows) - 1
    same = torch.stack([row[:n] for row in rows])
    return int((same == same[0]).all(0).cumprod(0).sum())


def together(*edits: Edits) -> dict[str, Edit]:
    """Several edits as one: where two change the same value, the later sees what the earlier made of it."""
    whole: dict[str, Edit] = {}
    for edit in edits:
        for name, change in edit.items():
            whole[name] = after(whole[name], change) if name in whole else change
    return whole


def combine(n_layers: int, *edits: Edits) -> dict[str, Edit]:
    """The same with globs spelled out, so that "*.mlp_out" and "3.mlp_out" meet."""
    return together(
        *({name: change for pattern, change in edit.items() for name in spread((pattern,), n_layers)} for edit in edits)
    )


def after(first: Edit, second: Edit) -> Edit:
    if not callable(second):
        return second
    return lambda x: second(first(x) if callable(first) else first)


def spread(patterns: tuple[str, ...], n_layers: int) -> list[str]:
    """Every name that one of these names or globs means, in the order of the forward pass."""
    known = names(n_layers)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in known):
            raise ValueError(f"nothing is called {pattern!r} in a model of {n_layers} layers: see labkit.lm.names")
    return [name for name in known if any(fnmatchcase(name, pattern) for pattern in patterns)]


def block_of(name: str, n_layers: int) -> int:
    """The first block that must run for this value: "23.head_out" 23, "embedding" 0, "final" n_layers."""
    if name in ("embedding", "final"):
        return 0 if name == "embedding" else n_layers
    return int(name.split(".")[0])


def renumbered(name: str, by: int) -> str:
    """ "23.head_out" by -20 is "3.head_out"; names without a number stay."""
    block, dot, what = name.partition(".")
    return f"{int(block) + by}.{what}" if dot else name
