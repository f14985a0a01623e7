"""The map of the course and its claims, read from the lessons themselves: adding a lesson adds its lines."""

import re
from pathlib import Path

from IPython.display import Markdown

from labkit import course

LESSONS = Path(__file__).resolve().parents[2] / "notebooks"


def course_map() -> Markdown:
    """A table of all lessons: title, what each shows, minutes, what one needs; each lesson's first cell says these."""
    rows = [f"| [{name}]({name}.ipynb) | {' | '.join(said)} |" for name, *said in about()]
    return Markdown("\n".join(["| lesson | | what it shows | minutes | you need |", "|---|---|---|---|---|", *rows]))


def claims_table() -> Markdown:
    """Every claim of a paper beside what a lesson measured, from the lessons' outputs: docs/claims.md as well."""
    return Markdown(course.claims_table(course.claims(sorted(LESSONS.glob("[0-9]*.ipynb")))))


def about() -> list[tuple[str, str, str, str, str]]:
    """(file, title, one-sentence claim, minutes, prerequisites) of every lesson, in order."""
    found = []
    for lesson in sorted(LESSONS.glob("[0-9]*.py")):
        first = lesson.read_text(encoding="utf8").split("# %% [markdown]")[1].split("# %%")[0]
        text = " ".join(line.removeprefix("#").strip() for line in first.splitlines())
        title = re.search(r"^# # (.+)$", first, re.MULTILINE)
        shows, minutes = re.search(r"\*\*(.+?)\*\*", text), re.search(r"[Aa]bout (\d+) minutes", text)
        needs = re.search(r"You need: ([^.(]+)", text)
        if not (title and shows and minutes and needs):
            wanted = '"# Title", a sentence in **bold**, "About N minutes" and "You need: …"'
            raise ValueError(f"{lesson.name}: its first cell needs {wanted}")
        found.append((lesson.stem, title[1], shows[1], minutes[1], needs[1].strip()))
    return found
