"""Say something to the learner: as plain text that tests compare, and as HTML that sits well in JupyterLab's themes."""

import html
import re
import sys
from dataclasses import dataclass
from typing import Any, Literal

Tone = Literal["good", "bad", "open", "note"]

# A symbol and a word carry the meaning; colour only helps. Blue, orange and grey are told apart by everybody.
SYMBOLS: dict[Tone, str] = {"good": "✓", "bad": "✗", "open": "○", "note": "·"}
COLOURS: dict[Tone, str] = {
    "good": "var(--jp-info-color1, #0072b2)",
    "bad": "var(--jp-warn-color1, #d55e00)",
    "open": "var(--jp-border-color0, #999999)",
    "note": "var(--jp-border-color0, #999999)",
}


@dataclass(frozen=True)
class Message:
    """A title with lines under it. Nothing in it is trusted: it may hold the learner's or a model's text."""

    tone: Tone
    title: str
    lines: tuple[str, ...] = ()

    def text(self) -> str:
        """The title after its symbol, the lines indented under it."""
        return "\n  ".join([f"{SYMBOLS[self.tone]} {self.title}", *self.lines])

    def html(self) -> str:
        """The same with a coloured border at the left."""
        body = "".join(f'<div style="white-space: pre-wrap">{marked(line)}</div>' for line in self.lines)
        return (
            f'<div style="border-left: 4px solid {COLOURS[self.tone]}; padding: 4px 12px; margin: 4px 0; '
            f'color: var(--jp-ui-font-color1, inherit); max-width: 760px">'
            f"<strong>{SYMBOLS[self.tone]} {marked(self.title)}</strong>{body}</div>"
        )


def marked(text: str) -> str:
    """Text as HTML: escaped, `code` between backquotes."""
    return re.sub(r"`([^`]+)`", r"<code>\1</code>", html.escape(text))


def say(tone: Tone, title: str, *lines: str) -> None:
    """Show a message."""
    message = Message(tone, title, lines)
    show(message.text(), message.html())


def show(text: str, as_html: str, extra: dict[str, Any] | None = None) -> None:
    """Display in a notebook; print where there is none."""
    ipython = sys.modules.get("IPython")
    if ipython is None or ipython.get_ipython() is None:
        print(text)
        return
    ipython.display.display({"text/plain": text, "text/html": as_html, **(extra or {})}, raw=True)


def grid(rows: list[list[str]]) -> str:
    """Rows as text in aligned columns; the first row is the head."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def html_grid(rows: list[list[str]]) -> str:
    """The same as an HTML table."""
    head, *body = [[html.escape(cell) for cell in row] for row in rows]
    lines = ["".join(f"<td>{cell}</td>" for cell in row) for row in body]
    return (
        f"<table><thead><tr>{''.join(f'<th>{cell}</th>' for cell in head)}</tr></thead>"
        f"<tbody>{''.join(f'<tr>{line}</tr>' for line in lines)}</tbody></table>"
    )


def rounded(number: float) -> str:
    """A number to three significant digits, written out: 0.0213, 47.6, 1,230."""
    return format(float(f"{number:.3g}"), ",.10g")
