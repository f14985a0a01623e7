"""How far the learner is: over the course, and within a room."""

from .registry import exercises, rooms
from .show import grid, html_grid, show
from .store import read

WORDS = {"pass": "✓ pass", "todo": "○ todo", "not tried": "○ not tried"}  # all else is an attempt that is not right yet


def progress(room: str | None = None) -> None:
    """Show the exercises of a room and how they stand; without a room, how many are solved in each."""
    rows = _course() if room is None else _room(room)
    show(grid(rows), html_grid(rows))


def progress_text(room: str | None = None) -> str:
    """The exercises of a room and how they stand; without a room, the course's summary and then every room's."""
    if room is not None:
        return grid(_room(room))
    return "\n\n".join(grid(rows) for rows in [_course(), *map(_room, rooms())])


def _course() -> list[list[str]]:
    statuses = read()["exercises"]
    rows = [["room", "solved", "minutes"]]
    for room in rooms():
        asked = exercises(room)
        solved = [exercise for exercise in asked if statuses.get(exercise.id) == "pass"]
        rows.append([room, f"{len(solved)} of {len(asked)}", str(sum(exercise.minutes for exercise in asked))])
    return rows


def _room(room: str) -> list[list[str]]:
    statuses = read()["exercises"]
    rows = [["exercise", "status", "difficulty", "minutes"]]
    for exercise in exercises(room):
        status = str(statuses.get(exercise.id, "not tried"))
        word = WORDS.get(status, "✗ not right yet")
        rows.append([exercise.id, word, f"{exercise.difficulty} of 5", str(exercise.minutes)])
    return rows
