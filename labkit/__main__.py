"""The command line: `labkit …`, or `python -m labkit …`. Nothing heavy is imported before a command needs it."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

app = typer.Typer(add_completion=False, no_args_is_help=True, help="A teaching lab for the mechanisms inside models.")
assets_app = typer.Typer(no_args_is_help=True, help="The models and data that the lessons stand on.")
app.add_typer(assets_app, name="assets")


def plainly(command: Callable[..., Any]) -> Callable[..., Any]:
    """A command whose failure is one sentence and exit status 1, not a traceback."""

    @functools.wraps(command)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            command(*args, **kwargs)
        except typer.Exit:  # a RuntimeError too
            raise
        except (LookupError, ValueError, RuntimeError, OSError) as error:
            message = error.args[0] if isinstance(error, KeyError) and error.args else error
            typer.echo(f"labkit: {message}", err=True)
            raise typer.Exit(1) from None

    return wrapped


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
@plainly
def lab(context: typer.Context) -> None:
    """Open JupyterLab on your copies of the lessons; options such as --port 8899 and --no-browser go to JupyterLab."""
    from labkit import launch

    launch.lab(context.args)


@app.command()
@plainly
def build(
    notebooks: Annotated[list[str] | None, typer.Argument(help="such as 10_attention_sinks; all by default")] = None,
) -> None:
    """Build notebooks/*.ipynb from their .py: run them, and put a picture beside every live figure."""
    from labkit import build

    build.build(notebooks or [])


@app.command()
@plainly
def hint(
    exercise: str, level: Annotated[int, typer.Option(min=1, max=3, help="1 question, 2 formula, 3 pseudocode")] = 1
) -> None:
    """A hint for an exercise, such as attention_sinks.window_mask."""
    from labkit import course

    typer.echo(course.hint_text(exercise, level))


@app.command()
@plainly
def solve(exercise: str) -> None:
    """The solution of an exercise."""
    from labkit import course

    typer.echo(course.solve_text(exercise))


@app.command()
@plainly
def grade(
    paths: Annotated[list[Path], typer.Argument(help="notebooks, or folders with notebooks in them")],
    json: Annotated[Path | None, typer.Option(help="write everything to this file as JSON; - for the screen")] = None,
    csv: Annotated[Path | None, typer.Option(help="the same as CSV, a line for each exercise")] = None,
    seed: Annotated[int | None, typer.Option(help="of the hidden probes; another one each time by default")] = None,
) -> None:
    """Grade learners' notebooks. Exit status: 0 all solved, 1 not all, 2 a notebook could not be graded."""
    from labkit import grading

    found = grading.notebooks(paths)
    graded = grading.grade_with_a_bar(found, seed=seed)
    screen = grading.report(graded)
    for file, text in ((json, grading.as_json), (csv, grading.as_csv)):
        if file == Path("-"):
            screen = text(graded)
        elif file is not None:
            grading.save(file, text(graded))
    typer.echo(screen)
    raise typer.Exit(grading.status(graded))


@app.command()
@plainly
def audit(rooms: Annotated[list[str] | None, typer.Argument(help="such as delta_rule; all by default")] = None) -> None:
    """Try on every exercise what learners do: is each answer told what it is? Exit status 1 where one is not."""
    from rich.progress import track

    from labkit.course import audit

    found = list(track(audit.audits(rooms or []), "auditing", total=None, transient=True))
    typer.echo(audit.audit_table(found))
    if not all(one.good for one in found):
        raise typer.Exit(1)


@app.command()
@plainly
def claims() -> None:
    """What the papers claim and what the lessons measured, in one table."""
    from labkit import course, launch

    typer.echo(course.claims_table(course.claims(sorted(launch.LESSONS.glob("*.ipynb")))))


@app.command()
@plainly
def progress() -> None:
    """Which exercises you have solved."""
    from labkit import course

    typer.echo(course.progress_text())


@app.command()
@plainly
def kernels(
    rooms: Annotated[list[str] | None, typer.Argument(help="such as delta_rule; all by default")] = None,
    target: Annotated[list[str] | None, typer.Option(help="sm_80, sm_90, sm_100 or gfx942; may be repeated")] = None,
    only: Annotated[str, typer.Option(help='only kernels with this in their name, such as "bfloat16 d=64"')] = "",
) -> None:
    """Compile the kernels for GPUs that are not here: registers, spills, occupancy, and where each lands on a roof."""
    from labkit.kernel_lab.listing import DEFAULT, listing
    from labkit.kernel_lab.listing import rooms as all_rooms

    for room in rooms or all_rooms():
        for line in listing(room, target or DEFAULT, only):
            typer.echo(line)


@app.command()
@plainly
def bench(names: Annotated[list[str] | None, typer.Argument(help="such as delta_rule; all by default")] = None) -> None:
    """Run the benchmarks in bench/, each in its own process: one table, and bench/latest.json."""
    from labkit import benching

    benching.bench(names or [])


@app.command()
@plainly
def doctor() -> None:
    """What this machine lacks for the lab, and how to get it. Exit status 1 where a learner cannot go on without it."""
    from labkit import doctor

    findings = doctor.examine()
    typer.echo(doctor.text(findings))
    if not doctor.healthy(findings):
        raise typer.Exit(1)


@assets_app.command("list")
@plainly
def list_assets() -> None:
    """What there is: name, size, licence, where it comes from."""
    from labkit import assets

    for name in assets.names():
        asset = assets.entry(name)
        typer.echo(f"{name:20} {asset.size / 1e6:8.1f} MB  {asset.licence:24} {asset.package} {asset.version}")


@assets_app.command("fetch")
@plainly
def fetch_assets(names: Annotated[list[str] | None, typer.Argument()] = None) -> None:
    """Fetch what is not here yet (all by default) and check its sha256."""
    from labkit import assets

    assets.fetch(names or assets.names())


@assets_app.command("verify")
@plainly
def verify_assets() -> None:
    """Check the sha256 of everything that was fetched."""
    from labkit import assets

    states = assets.verify()
    for name, state in states.items():
        typer.echo(f"{name:20} {state}")
    if damaged := [name for name, state in states.items() if state == "damaged"]:
        raise RuntimeError(f"{', '.join(damaged)}: not what was fetched; run labkit assets fetch {' '.join(damaged)}")


@assets_app.command("pack")
@plainly
def pack_assets(archive: Path, names: Annotated[list[str] | None, typer.Argument()] = None) -> None:
    """Put the verified assets (all by default) into one file, to be carried to a machine without a network."""
    from labkit import assets_pack

    assets_pack.pack(archive, names or None)


@assets_app.command("unpack")
@plainly
def unpack_assets(archive: Path) -> None:
    """Put the assets of such a file into this machine's cache, each of them verified."""
    from labkit import assets_pack

    assets_pack.unpack(archive)


if __name__ == "__main__":
    app()
