"""`labkit build`: notebooks/NAME.py (what people edit) → notebooks/NAME.ipynb (what people open), run, with pictures.

The text outputs come from a plain run of the cells; the pictures come from the same notebook run in a real JupyterLab,
because a live figure outside JupyterLab (on the web, before its first run) is an empty box.
"""

import ast
import base64
import hashlib
import inspect
import io
import os
import tempfile
import textwrap
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from jupytext.combine import combine_inputs_with_outputs
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError
from nbformat import NotebookNode

from labkit.launch import LESSONS, ROOT

LEDGER = ROOT / "docs" / "claims.md"
CELL_SECONDS = 120
LARGEST = 300_000  # bytes of a committed notebook: what a reader on a slow line waits for
COLOURS = 64  # in a picture's palette: a third of the bytes, and text stays sharp
LIVE = ("application/vnd.jupyter.widget-view+json", "application/vnd.plotly.v1+json")


def build(names: list[str]) -> None:
    """Build these lessons (by name, with or without a folder or suffix), or all of them."""
    lessons = [find(name) for name in names] or sources()
    notebooks = {lesson: execute(fresh(lesson), name=lesson.stem) for lesson in lessons}
    add_pictures(notebooks)
    for lesson, notebook in notebooks.items():
        text = nbformat.writes(notebook) + "\n"
        if len(text.encode()) > LARGEST:
            raise ValueError(
                f"{lesson.stem}: the notebook would be {len(text.encode()):,} bytes, more than {LARGEST:,}"
            )
        lesson.with_suffix(".ipynb").write_text(text, encoding="utf8")
        print(f"{lesson.stem}.ipynb: {len(notebook.cells)} cells, {len(text.encode()) // 1000} KB")
    LEDGER.write_text(ledger(), encoding="utf8")


def ledger() -> str:
    """docs/claims.md: the claims in the outputs of all built lessons."""
    from labkit import course

    found = course.claims(sorted(LESSONS.glob("[0-9]*.ipynb")))
    held = sum(claim.holds for claim in found)
    return (
        "# What the papers claim, and what was measured here\n\n"
        "Written by `labkit build` from the outputs of the executed lessons; `labkit claims` prints the same table. "
        f"Of {len(found)} claims {held} hold on the models that run here; the others stay, with the reason.\n\n"
        f"{course.claims_table(found)}\n"
    )


def sources() -> list[Path]:
    """Every lesson: a notebooks/*.py whose name starts with its number."""
    return sorted(LESSONS.glob("[0-9]*.py"))


def find(name: str) -> Path:
    """The source of the lesson `name`."""
    path = LESSONS / f"{Path(name).stem}.py"
    if path not in sources():
        raise LookupError(f"no lesson {name!r}: there are {', '.join(p.stem for p in sources()) or 'none yet'}")
    return path


def fresh(lesson: Path) -> NotebookNode:
    """The lesson's cells as a notebook without outputs; cells that were there before keep their ids."""
    notebook = jupytext.read(lesson)
    built = lesson.with_suffix(".ipynb")
    if built.exists():
        notebook = combine_inputs_with_outputs(notebook, nbformat.read(built, 4), fmt="py:percent")
    if "kernelspec" not in notebook.metadata:
        raise ValueError(f"{lesson.name}: its header names no kernelspec, and JupyterLab would ask which kernel to use")
    for cell in notebook.cells:
        kept = {key: cell.metadata[key] for key in ("tags", "jupyter") if key in cell.metadata}
        cell.metadata = nbformat.from_dict(kept)
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    kernelspec = notebook.metadata.kernelspec
    notebook.metadata = nbformat.from_dict(
        {"kernelspec": kernelspec, "labkit": {"source_sha256": source_sha256(lesson)}},
    )
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def source_sha256(lesson: Path) -> str:
    """The hash of a source's text, the same whatever a checkout does to line ends."""
    return hashlib.sha256(lesson.read_text(encoding="utf8").encode()).hexdigest()


def execute(notebook: NotebookNode, name: str) -> NotebookNode:
    """Run every cell as a new learner would, in notebooks/ with an empty work folder; changes and returns it."""
    with tempfile.TemporaryDirectory(prefix="labkit-") as work:
        client = NotebookClient(
            notebook,
            timeout=CELL_SECONDS,
            kernel_name="python3",
            store_widget_state=False,
            record_timing=False,
            resources={"metadata": {"path": str(LESSONS)}},
        )
        try:
            client.execute(env=os.environ | {"LABKIT_WORK": work})
        except (CellExecutionError, CellTimeoutError) as error:
            raise RuntimeError(f"{name}: {error}") from None
    notebook.metadata.pop("widgets", None)
    notebook.metadata.language_info.pop("version", None)
    return notebook


def add_pictures(notebooks: dict[Path, NotebookNode]) -> None:
    """Put a picture in place of every live figure; its text summary stays as it is, for it is what tests compare."""
    live = {lesson: notebook for lesson, notebook in notebooks.items() if any(map(_live, notebook.cells))}
    if not live:
        return
    from labkit import browser

    with tempfile.TemporaryDirectory(prefix="labkit-") as work:
        for lesson in live:
            nbformat.write(fresh(lesson), Path(work, f"{lesson.stem}.ipynb"))
        with browser.server(Path(work)) as address, browser.browser() as chromium:
            for lesson, notebook in live.items():
                # tall: a figure must fit in the window to be on the picture whole
                page = chromium.new_page(viewport={"width": browser.WIDTH, "height": 2400})
                browser.open_notebook(page, address, f"{lesson.stem}.ipynb")
                browser.run_all(page)
                for index, cell in enumerate(notebook.cells):
                    for figure, output in enumerate(_live(cell)):
                        for mime in LIVE:
                            output.data.pop(mime, None)
                        output.data["image/png"] = base64.b64encode(_picture(page, index, figure)).decode()
                page.close()


def _live(cell: NotebookNode) -> list[NotebookNode]:
    return [output for output in cell.get("outputs", []) if any(mime in output.get("data", {}) for mime in LIVE)]


def _picture(page: Any, cell: int, figure: int) -> bytes:
    from PIL import Image

    from labkit import browser

    page.evaluate("index => window.jupyterapp.shell.currentWidget.content.scrollToItem(index, 'start')", cell)
    outputs = ".jp-OutputArea-output:has(.jupyter-widgets), .jp-OutputArea-output.js-plotly-plot"
    output = page.locator(f".jp-Notebook .jp-Cell >> nth={cell}").locator(outputs).nth(figure)
    output.scroll_into_view_if_needed(timeout=30_000)
    browser.settled(page)
    shot = output.locator(".jupyter-widgets, .svg-container").first.screenshot()
    small = io.BytesIO()
    picture = Image.open(io.BytesIO(shot)).convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE)
    picture.save(small, "png", optimize=True)
    return small.getvalue()


def solved(notebook: NotebookNode) -> NotebookNode:
    """A copy in which the reference stands in place of the learner's function, in every cell tagged "exercise"."""
    notebook = nbformat.from_dict(notebook)
    for cell in notebook.cells:
        if "exercise" in cell.metadata.get("tags", []):
            cell.source = _with_reference(cell.source)
    return notebook


def _with_reference(source: str) -> str:
    from labkit import course

    stubs = [node for node in ast.parse(source).body if isinstance(node, ast.FunctionDef) and node.decorator_list]
    if len(stubs) != 1 or not isinstance(decorator := stubs[0].decorator_list[0], ast.Call):
        raise ValueError(f"an exercise cell holds one function under @exercise(…), not this:\n{source}")
    reference = course.find(ast.literal_eval(decorator.args[0])).reference
    lines = source.splitlines()
    body = textwrap.dedent(inspect.getsource(reference)).rstrip().splitlines()
    return "\n".join(lines[: stubs[0].lineno - 1] + body + lines[stubs[0].end_lineno :])
