"""The course engine: exercises that say what went wrong by name, claims that are kept, progress that is not lost.

It knows nothing of any mechanism: the exercises of a room are in labkit/<room>/exercises.py, and found there by name.
In a notebook: `exercise`, `Todo`, `check`, `hint`, `solve`, `claim`, `predict`, `reveal`, `progress`. A check has two
halves, so that grading can put a process between them: `run` executes and compares nothing, `judge` only compares.
An exercise that asks for a Triton kernel is `launched`.
"""

from .attempts import check, exercise, hint, hint_text, solve, solve_text
from .guesses import predict, reveal
from .judging import TOLERANCE, Verdict, judge
from .launching import launched
from .ledger import Claim, claim, claims, claims_table
from .registry import Call, Exercise, Mistake, call, exercises, find, rooms
from .running import Outcome, Todo, run
from .table import progress, progress_text

__all__ = [
    "TOLERANCE",
    "Call",
    "Claim",
    "Exercise",
    "Mistake",
    "Outcome",
    "Todo",
    "Verdict",
    "call",
    "check",
    "claim",
    "claims",
    "claims_table",
    "exercise",
    "exercises",
    "find",
    "hint",
    "hint_text",
    "judge",
    "launched",
    "predict",
    "progress",
    "progress_text",
    "reveal",
    "rooms",
    "run",
    "solve",
    "solve_text",
]
