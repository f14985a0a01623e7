"""labkit: the mechanisms inside sequence models and MLPs, as short functions, real kernels and lessons.

`from labkit import attention_sinks` gives a mechanism room; `labkit.lm` and the other rooms load when first used.
"""

import importlib
import sys
from typing import Any

# jsonschema would build 35 grammars from it at import, two seconds in every kernel, for a format nobody here uses
sys.modules.setdefault("rfc3987_syntax", None)  # type: ignore[arg-type]


def __getattr__(name: str) -> Any:
    """Import a room on first use, so that `import labkit; labkit.lm.load()` works and costs nothing before."""
    if name.startswith("_"):
        raise AttributeError(name)
    try:
        return importlib.import_module(f"{__name__}.{name}")
    except ModuleNotFoundError as error:
        if error.name == f"{__name__}.{name}":
            raise AttributeError(f"labkit has no room called {name!r}") from None
        raise
