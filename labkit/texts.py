"""Real text for the lessons: Shakespeare's plays and the King James Bible, as plain strings."""

import re
from functools import cache

from . import assets


@cache
def play(title: str) -> str:
    """One of Shakespeare's plays ("Hamlet", "Macbeth", …) without its markdown: speakers in capitals."""
    whole = "\n" + assets.path("shakespeare").read_text(encoding="utf8")
    parts = re.split(r"\n# (.+?)\s*\n", whole)
    plays = dict(zip(parts[1::2], parts[2::2], strict=True))
    if title not in plays:
        raise LookupError(f"no play is called {title!r}; there are {', '.join(sorted(plays))}")
    text = re.sub(r"^#+ *|[*_]", "", plays[title], flags=re.MULTILINE)
    return re.sub(r" +$", "", text, flags=re.MULTILINE).strip()


@cache
def bible() -> str:
    """The King James Bible (1611, text of 1769), from Genesis to Revelation."""
    module = assets.path("kjv").read_text(encoding="utf8")  # a Python module: read as text, never run
    return module.split('"""')[1].strip().replace("[", "").replace("]", "")
