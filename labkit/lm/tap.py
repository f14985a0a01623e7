"""Taps: every named intermediate of the forward pass can be read and replaced as it flows by."""

from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase

from torch import Tensor

Edit = Callable[[Tensor], Tensor] | Tensor

IN_A_BLOCK = (
    "residual",  # (b t d)    what enters the block
    "query",  # (b h t d_h)  before the rotation
    "key",  # (b kv t d_h)   before the rotation; kv = 3 key-value heads serve h = 9 query heads
    "value",  # (b kv t d_h)
    "scores",  # (b h t s)   scaled and masked, before the softmax
    "pattern",  # (b h t s)  after it: the attention weights
    "mixed",  # (b h t d_h)  pattern · value
    "head_out",  # (b h t d) what each head adds to the residual stream
    "attn_out",  # (b t d)   their sum
    "mlp_hidden",  # (b t d_mlp)
    "mlp_out",  # (b t d)
)


def names(n_layers: int) -> list[str]:
    """Every name that can be recorded or edited: "embedding", "0.residual" … "29.mlp_out", "final"."""
    return ["embedding", *(f"{i}.{name}" for i in range(n_layers) for name in IN_A_BLOCK), "final"]


class Tap:
    """Passes values through; on the way, replaces those named in `edit` and keeps those named in `record`."""

    def __init__(self, n_layers: int, record: str | tuple[str, ...], edit: Mapping[str, Edit] | None):
        known = names(n_layers)
        patterns = (record,) if isinstance(record, str) else tuple(record)
        self.edits = _spread(dict(edit or {}), known)
        self.recorded = set().union(*(_match(p, known, "record") for p in patterns))
        self.values: dict[str, Tensor] = {}

    def wants(self, *wanted: str) -> bool:
        """Whether anyone reads or edits one of these: what nobody wants need not be computed."""
        return any(name in self.recorded or name in self.edits for name in wanted)

    def __call__(self, name: str, value: Tensor) -> Tensor:
        if name in self.edits:
            edit = self.edits[name]
            new = edit(value) if callable(edit) else edit
            if not isinstance(new, Tensor) or new.shape != value.shape:
                got = tuple(new.shape) if isinstance(new, Tensor) else type(new).__name__
                raise ValueError(f"edit[{name!r}]: expected a tensor of shape {tuple(value.shape)}, got {got}")
            value = new.to(value.dtype)
        if name in self.recorded:
            self.values[name] = value
        return value


def _match(pattern: str, known: list[str], what: str) -> set[str]:
    found = {name for name in known if fnmatchcase(name, pattern)}
    if not found:
        raise ValueError(
            f"{what}: nothing is called {pattern!r}; names are 'embedding', 'final' and, for block i, "
            + ", ".join(f"'i.{name}'" for name in IN_A_BLOCK)
            + " ('*.pattern' takes every block)"
        )
    return found


def _spread(edits: dict[str, Edit], known: list[str]) -> dict[str, Edit]:
    return {name: edit for pattern, edit in edits.items() for name in _match(pattern, known, "edit")}
