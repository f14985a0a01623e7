"""A learner's notebook as text: the function written for each exercise, with what it needs of the other cells.

Nothing is run here. A function is graded with the imports, functions, classes and assignments that it refers to,
wherever in the notebook they stand; scratch work beside it, and whatever other cells do, is left out.
"""

import ast
import builtins
import copy
import dis
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType

LARGEST = 512 << 20  # bytes of a notebook
GIVEN = {"exercise", "Todo"}  # names that the grader gives
ONLY_IPYTHON = re.compile(r"(?m)^[%!?].*$|^.*\?$")
IN_TEXT = re.compile(r"""(?m)^\s*@exercise\(\s*["']([\w.]+)["']""")


class Unreadable(ValueError):
    """A file that is no notebook; the message is one sentence."""


@dataclass(frozen=True)
class Attempt:
    """What a learner wrote for one exercise: `source` to run, or the `problem` that keeps it from being run."""

    id: str
    source: str = ""
    problem: str = ""


@dataclass(frozen=True)
class Cell:
    """A code cell; where Python cannot read it, `problem` says why and there are no statements."""

    text: str
    statements: list[ast.stmt]
    problem: str = ""


def attempts(path: Path) -> dict[str, Attempt]:
    """Every exercise that the notebook has a cell for, by id; of several cells for one, the last. Raises Unreadable."""
    cells = [_parsed(source) for source in sources(path)]
    found: dict[str, Attempt] = {}
    for place, cell in enumerate(cells):
        if cell.problem:
            found |= {id: Attempt(id, problem=cell.problem) for id in IN_TEXT.findall(cell.text)}
        for node in cell.statements:
            if isinstance(node, ast.FunctionDef) and (id := _exercise(node)):
                found[id] = Attempt(id, _with_what_it_needs(node, place, cells))
    return found


def sources(path: Path) -> list[str]:
    """The code cells. Raises Unreadable."""
    try:
        if (size := path.stat().st_size) > LARGEST:
            raise Unreadable(f"{size / 2**20:,.0f} MB are too many for a notebook: clear its outputs and save it again")
        cells = json.loads(path.read_bytes())["cells"]
        return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    except OSError as error:
        raise Unreadable(f"the file cannot be read ({error.strerror})") from None
    except Unreadable:
        raise
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise Unreadable(f"this is not a notebook that Jupyter can open ({type(error).__name__})") from None


def _parsed(source: str) -> Cell:
    problem = ""
    for text in (source, ONLY_IPYTHON.sub("", source)):
        try:
            return Cell(text, ast.parse(text).body)
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            place = f" in line {error.lineno} of the cell" if isinstance(error, SyntaxError) else ""
            problem = f"{type(error).__name__}: {getattr(error, 'msg', error)}{place}"
    return Cell(source, [], problem)


def _exercise(node: ast.FunctionDef) -> str | None:
    """The id in @exercise("…")."""
    for decorator in node.decorator_list:
        match decorator:
            case ast.Call(func=ast.Name(id="exercise"), args=[ast.Constant(value=str() as id)]):
                return id
    return None


def _with_what_it_needs(node: ast.FunctionDef, place: int, cells: list[Cell]) -> str:
    """The function, after all the statements that bind a name it uses, in the notebook's order."""
    binders: dict[str, list[tuple[int, int]]] = {}  # where a name is bound: (cell, statement)
    for i, cell in enumerate(cells):
        for j, statement in enumerate(cell.statements):
            for name in _bound(statement):
                binders.setdefault(name, []).append((i, j))
    needed: set[tuple[int, int]] = set()
    names, wanted = ["*", *_used(node)], {node.name}  # "*": whatever it brings may be used
    while names:
        if (name := names.pop()) in wanted | GIVEN:
            continue
        wanted.add(name)
        if name in binders:  # as it is when the check runs: the last one up to this cell, else one further down
            i, j = max([spot for spot in binders[name] if spot[0] <= place], default=binders[name][-1])
            if (i, j) not in needed:
                needed.add((i, j))
                names += _used(cells[i].statements[j])
    parts = [_written(cells[i].statements[j], cells[i], wanted) for i, j in sorted(needed)]
    return "\n\n".join([*parts, _written(node, cells[place], wanted)]) + "\n"


def _bound(statement: ast.stmt) -> Iterator[str]:
    match statement:
        case ast.ImportFrom(module="labkit.course", names=[ast.alias(name="*")]):
            yield from ()  # what it gives is given
        case ast.Import(names=names) | ast.ImportFrom(names=names):
            yield from map(_name, names)
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
            yield name
        case ast.Assign(targets=targets):
            yield from (n.id for target in targets for n in ast.walk(target) if isinstance(n, ast.Name))
        case ast.AnnAssign(target=ast.Name(id=name)):
            yield name


def _name(alias: ast.alias) -> str:
    return alias.asname or alias.name.split(".")[0]


def _used(statement: ast.stmt) -> Iterator[str]:
    """The global names that a statement reads, and those that functions in it read when they are called."""
    codes = [compile(ast.Module([statement], []), "<cell>", "exec")]
    while codes:
        code = codes.pop()
        codes += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
        for step in dis.get_instructions(code):
            if step.opname in ("LOAD_GLOBAL", "LOAD_NAME") and not hasattr(builtins, step.argval):
                yield step.argval


def _written(statement: ast.stmt, cell: Cell, wanted: set[str]) -> str:
    """The statement as the learner wrote it; of an import only what is wanted, so that it cannot fail over the rest."""
    if isinstance(statement, ast.Import | ast.ImportFrom):
        fewer = copy.copy(statement)
        fewer.names = [alias for alias in statement.names if _name(alias) in wanted - GIVEN]
        return ast.unparse(fewer)
    first = min([statement.lineno, *(d.lineno for d in getattr(statement, "decorator_list", []))])
    lines = cell.text.splitlines()[first - 1 : statement.end_lineno]
    try:
        alone = len(ast.parse("\n".join(lines)).body) == 1
    except SyntaxError:
        alone = False
    return "\n".join(lines) if alone else ast.unparse(statement)  # "a = 1; b = 2" on one line
