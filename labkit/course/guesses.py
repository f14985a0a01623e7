"""Predict, then measure: the learner commits a number before seeing one, and is shown both."""

import math

from .show import rounded, say
from .store import record

_guesses: dict[str, float] = {}  # of this kernel: what a notebook shows depends on its own cells alone


def predict(id: str, question: str, guess: float | None = None) -> None:
    """Write down the learner's guess; None is no guess yet."""
    _guesses.pop(id, None)
    if guess is None:
        say("open", question, "no guess yet: put a number in place of None and run this cell")
        return
    if isinstance(guess, bool) or not isinstance(guess, int | float) or not math.isfinite(guess):
        raise ValueError(f"guess: expected a number, such as 10 or 0.5, got {guess!r}")
    _guesses[id] = float(guess)
    record("guesses", id, float(guess))
    say("note", question, f"your guess: {rounded(guess)}")


def reveal(id: str, measured: float) -> None:
    """Show what was measured beside the guess."""
    measured = float(measured)
    if id not in _guesses:
        say("note", f"{id}: measured {rounded(measured)}", "no guess was made")
        return
    guess = _guesses[id]
    say("note", f"{id}: measured {rounded(measured)}, you guessed {rounded(guess)}", _distance(guess, measured))


def _distance(guess: float, measured: float) -> str:
    if guess * measured <= 0:  # no ratio says anything about a zero or another sign
        return "right" if guess == measured else f"off by {rounded(abs(guess - measured))}"
    ratio = guess / measured
    if rounded(max(ratio, 1 / ratio)) == "1":
        return "right"
    return f"{rounded(ratio)} times too large" if ratio > 1 else f"{rounded(1 / ratio)} times too small"
