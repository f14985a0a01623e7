"""The ledger of claims: what a paper says beside what a lesson measured, kept in the notebook's own outputs."""

import dataclasses
import html
import json
import numbers
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .show import Message, rounded, show

MIME = "application/vnd.labkit.claim+json"


@dataclass(frozen=True)
class Claim:
    """One row: `says` is the paper's claim, `measured` this lab's number, `on` what it was measured on."""

    id: str
    paper: str
    says: str
    measured: str
    holds: bool
    on: str = ""
    why: str = ""
    notebook: str = ""

    def message(self) -> Message:
        """The claim as the notebook shows it."""
        verdict = "holds" if self.holds else "does not show here"
        measured = f"measured: {self.measured}" + (f" ({self.on})" if self.on else "")
        reason = f". {self.why}" if self.why else ""
        return Message(
            "good" if self.holds else "bad",
            f"{verdict}: {self.id}",
            (f"{self.paper} says: {self.says}", measured + reason),
        )


def claim(id: str, *, paper: str, says: str, measured: str | float, holds: bool, on: str = "", why: str = "") -> None:
    """Show a claim of a paper beside what was measured here, and enter both in the ledger.

    `measured` is a text that is rounded already, or a number, rounded here to three significant digits.
    """
    made = Claim(id, paper, says, _measured(id, measured), bool(holds), on, why)
    message = made.message()
    entry = {key: value for key, value in dataclasses.asdict(made).items() if key != "notebook"}
    show(message.text(), message.html(), {MIME: entry})


def claims(notebooks: Iterable[str | Path]) -> list[Claim]:
    """The claims in the outputs of executed notebooks, in order."""
    found = []
    for path in map(Path, notebooks):
        try:
            cells = json.loads(path.read_text(encoding="utf8"))["cells"]
            outputs = [output for cell in cells for output in cell.get("outputs", [])]
            entries = [output["data"][MIME] for output in outputs if MIME in output.get("data", {})]
            found += [Claim(**entry, notebook=path.stem) for entry in entries]
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path.name}: its claims cannot be read ({error!r}): build the notebook again") from None
    return found


def claims_table(found: Iterable[Claim]) -> str:
    """Claims as a Markdown table."""
    head = ["paper", "claim", "what it says", "what this lab measured", "on", "holds"]
    rows = [
        [c.paper, c.id, c.says, c.measured, c.on, "✓ holds" if c.holds else f"✗ does not show here. {c.why}".strip()]
        for c in found
    ]
    lines = [head, ["---"] * len(head), *([_cell(text) for text in row] for row in rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in lines)


def _cell(text: str) -> str:
    return html.escape(" ".join(text.split()), quote=False).replace("|", r"\|")


def _measured(id: str, measured: Any) -> str:
    if isinstance(measured, str):
        return measured
    if not isinstance(measured, numbers.Real) and not (hasattr(measured, "ndim") and measured.ndim == 0):
        raise ValueError(f"{id}: measured: expected a text or one number, got {type(measured).__name__}")
    return rounded(float(measured))
