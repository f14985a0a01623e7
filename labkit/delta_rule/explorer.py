"""Step through writes to two memories: how many keys, how alike they are, how strongly they are written."""

from labkit.explorer import Explorer, slider

from .figures import MOST_KEYS, WRITES, memories_figure


def explore(written: int = 9, n_keys: int = 6) -> Explorer:
    """Handwritten digits are written under keys, round after round; both memories, their read-outs, and the errors."""
    controls = dict(
        written=slider("writes", written, 1, WRITES),
        n_keys=slider("keys", n_keys, 1, MOST_KEYS),
        similarity=slider("similarity", 0.0, 0.0, 0.95, 0.05),
        beta=slider("β", 1.0, 0.0, 2.0, 0.1),
        fade=slider("fade", 0.9, 0.5, 1.0, 0.05),
    )
    return Explorer(memories_figure, controls)
