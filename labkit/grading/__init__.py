"""Grading that the learner cannot talk into anything: their code runs in a process of its own, ours compares.

`grade(paths)` reads notebooks (notebook.py), runs each function on probes that no learner has seen in a process that
can only compute (worker.py, jail.py), takes arrays back over a pipe (wire.py), and judges them here (grade.py).
"""

from .grade import Graded, Result, grade, notebooks
from .report import as_csv, as_json, grade_with_a_bar, report, save, status

__all__ = [
    "Graded",
    "Result",
    "as_csv",
    "as_json",
    "grade",
    "grade_with_a_bar",
    "notebooks",
    "report",
    "save",
    "status",
]
