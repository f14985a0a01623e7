"""The house rules: which room may lean on which, versions in one place, and commands that exist."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
import yaml

from labkit.launch import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf8"))["project"]
ROOMS = {path.name for path in (ROOT / "labkit").iterdir() if (path / "__init__.py").exists()}
MECHANISMS = {room for room in ROOMS if (ROOT / "labkit" / room / "forms.py").exists()}
COPYABLE = {
    "torch",
    "einops",
    "jaxtyping",
    "kernels",
    "math",
    "typing",
    "collections",
    "functools",
    "itertools",
    "warnings",
}
LIBRARY = sorted([*ROOT.glob("labkit/**/*.py"), *ROOT.glob("kernels/**/*.py")])


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports anywhere in it, in full: `from . import x` in labkit/a/b.py is labkit.a.x."""
    package = path.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(path.read_text(encoding="utf8"))):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield module
            yield from (f"{module}.{name.name}" for name in node.names)


def room_of(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if parts[0] == "labkit" and len(parts) > 1 else None


def files_of_the_project() -> list[Path]:
    generated = {".git", ".venv", "work", "build", "dist", "node_modules"}
    found = []
    for folder, folders, files in os.walk(ROOT):
        folders[:] = [
            f for f in folders if f not in generated and not f.endswith(("_cache", "__", ".egg-info", "_checkpoints"))
        ]
        found += [Path(folder, file) for file in files if not file.endswith((".png", ".pyc", ".safetensors"))]
    return [path for path in found if ".hypothesis" not in path.parts]


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_one_way(path: Path):
    relative = path.relative_to(ROOT)
    if relative.parts[0] == "kernels":
        assert not [module for module in imports(path) if module.split(".")[0] == "labkit"]
        return
    own = relative.parts[1].removesuffix(".py")
    others = {room for module in imports(path) if (room := room_of(module)) in MECHANISMS} - {own}
    if own in MECHANISMS:
        first_line = (ast.get_docstring(ast.parse((ROOT / "labkit" / own / "__init__.py").read_text())) or "").split(
            "\n"
        )[0]
        others = {room for room in others if room not in first_line}  # where the paper itself builds on that one
    assert not others, f"{relative} leans on the mechanism room {', '.join(sorted(others))}"


@pytest.mark.parametrize("room", sorted(MECHANISMS))
def test_an_engineer_can_copy_the_forms(room: str):
    foreign = {module.split(".")[0] for module in imports(ROOT / "labkit" / room / "forms.py")} - COPYABLE
    assert not foreign


def test_no_file_is_too_long_to_hold_in_the_head():
    long = {
        str(path.relative_to(ROOT)): n
        for path in LIBRARY
        if (n := len(path.read_text(encoding="utf8").splitlines())) > 300
    }
    assert not long


def test_everything_imported_is_asked_for_by_name():
    """Nothing works only because another package happens to bring it along."""
    asked_for = {_name(requirement) for requirement in PROJECT["dependencies"]}
    only_tools = {_name(requirement) for requirement in PROJECT["optional-dependencies"]["test"]}
    owners = packages_distributions()
    for path in LIBRARY:
        for module in (
            {module.split(".")[0] for module in imports(path)}
            - set(sys.stdlib_module_names)
            - {"labkit", "kernels", ""}
        ):
            names = {_name(owner) for owner in owners.get(module, [module])}
            allowed = asked_for | (only_tools if path.name in ("build.py", "browser.py") else set())
            assert names & allowed, f"{path.relative_to(ROOT)} imports {module}, which pyproject.toml does not ask for"


def test_every_version_is_pinned_and_only_in_pyproject():
    for requirement in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["test"]]:
        assert re.match(r"[\w.-]+==\d[\w.]*(;|$)", requirement), requirement
    for path in ("environment.yml", "Makefile", ".ci/run", "README.md"):
        assert not re.search(r"\w==\d", (ROOT / path).read_text(encoding="utf8")), path


def test_conda_users_get_the_same_environment():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf8"))
    assert environment["dependencies"] == [f"python{PROJECT['requires-python']}", "pip", {"pip": ["-e ."]}]


def test_the_makefile_and_pyproject_allow_the_same_pythons():
    low, high = re.findall(r"\((\d), (\d+)\)", (ROOT / "Makefile").read_text(encoding="utf8"))
    assert PROJECT["requires-python"] == f">={'.'.join(low)},<{'.'.join(high)}"


def test_no_file_names_a_machine_or_a_registry():
    machine = re.compile(r"(?<![\w.~}>*)\]])/(?:root|home|Users|tmp|work|opt)/\w|[A-Z]:\\Users")
    registry = re.compile(r"py(?:pi|thonhosted)[.](?:org|python)|(?:registry[.]npmjs|anaconda)[.]\w+", re.IGNORECASE)
    found = []
    for path in files_of_the_project():
        if path.suffix == ".ipynb":  # test_notebooks.py reads them, without their pictures
            continue
        for number, line in enumerate(path.read_text(encoding="utf8").splitlines(), 1):
            if machine.search(line) or registry.search(line):
                found.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()}")
    assert not found


def test_importing_labkit_costs_nothing():
    code = "import sys, labkit, labkit.__main__; print(*{name.split('.')[0] for name in sys.modules})"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not set(loaded) & {
        "torch",
        "plotly",
        "numpy",
        "IPython",
        "jupyterlab",
        "ipywidgets",
        "nbformat",
        "playwright",
    }


def test_every_command_the_readme_names_exists():
    from typer.main import get_command

    from labkit.__main__ import app

    readme = (ROOT / "README.md").read_text(encoding="utf8")
    targets = re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(encoding="utf8"), re.MULTILINE)
    commands = get_command(app).commands  # type: ignore[attr-defined]
    code = "\n".join(re.findall(r"```.*?```|`[^`\n]+`", readme, re.DOTALL))
    assert set(re.findall(r"\bmake ([a-z]+)", code)) <= set(targets)
    assert set(re.findall(r"^[`$ ]*labkit ([a-z]+)", code, re.MULTILINE)) <= set(commands)


@pytest.mark.parametrize(
    "body", ["pytest.skip('no reason')", "pytest.xfail('some day')", "pytest.importorskip('nothing_like_it')"]
)
def test_in_ci_a_skipped_test_is_a_failed_test(body: str, tmp_path: Path):
    assert _run_pytest(f"import pytest\ndef test_it():\n    {body}\n", tmp_path, ci="true") == 1
    assert _run_pytest(f"import pytest\ndef test_it():\n    {body}\n", tmp_path, ci="") == 0


def test_in_ci_a_file_that_skips_itself_fails(tmp_path: Path):
    whole_file = "import pytest\npytest.skip('all of it', allow_module_level=True)\n"
    assert _run_pytest(whole_file, tmp_path, ci="true") not in (0, 5)


def test_in_ci_a_test_without_its_gpu_may_skip(tmp_path: Path):
    gpu = "import pytest\n@pytest.mark.gpu\ndef test_it():\n    pytest.skip('no GPU here')\n"
    assert _run_pytest(gpu, tmp_path, ci="true") == 0


def _run_pytest(test: str, folder: Path, ci: str) -> int:
    (folder / "conftest.py").write_text((ROOT / "tests" / "conftest.py").read_text(encoding="utf8"))
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = gpu: needs a GPU\n")
    (folder / "test_one.py").write_text(test)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder)]
    return subprocess.run(
        command, env=os.environ | {"CI": ci, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}, capture_output=True, cwd=folder
    ).returncode


def _name(requirement: str) -> str:
    return re.split(r"[=<>;\[ ]", requirement)[0].lower().replace("_", "-").replace(".", "-")
