"""The first lesson's room: a one-minute taste of the real model, and a first exercise.

The taste is the logit lens (nostalgebraist 2020, "interpreting GPT: the logit lens").
"""

from typing import Any

from .lens import lens

__all__ = ["lens"]


def __getattr__(name: str) -> Any:
    """What shows something loads plotly or IPython, so it loads only when asked for."""
    if name == "explore":
        from .explorer import explore

        return explore
    if name in ("course_map", "claims_table"):
        from . import lessons

        return getattr(lessons, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
