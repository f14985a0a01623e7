"""Linear interpreters: a convolutional network is an affine map around each image, whose rows and columns can be read.

Paper: Navarrete Michelini, Liu, Lu, Jiang 2019, "A Tour of Convolutional Networks Guided by Linear Interpreters"
(arXiv 1908.05168). `interpret(net, x)` gives an `Interpreter`: A(u) = F u + r. `forms` holds the units it freezes.
"""

from typing import Any

from . import forms
from .calls import Refused
from .interpreter import Interpreter, interpret

__all__ = ["Interpreter", "Refused", "forms", "interpret"]


def __getattr__(name: str) -> Any:
    """What draws loads plotly, so it loads only when asked for."""
    if name == "explore":
        from .explorer import explore

        return explore
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
