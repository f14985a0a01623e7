"""`labkit doctor`: what a lesson needs on this machine, what of it is missing, and the command that brings it.

Nothing but the standard library is imported here, and what may be broken is tried in a process of its own: it answers
where torch or JupyterLab is missing (`python -m labkit.doctor`, in the repository, where even typer is).
"""

from __future__ import annotations  # an older Python must come as far as being told that it is one

import importlib.util
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from . import pins
from .launch import ROOT, environment, work_folder

GIB = 1 << 30
MEMORY = 5 * GIB // 2  # the most that JupyterLab may take with one lesson open
CONVERTED = 0.7e9  # bytes: SmolLM2 in float32, made once from its file
PATIENCE = 60  # seconds for a program that should answer in three
TOOLS = ("ptxas", "ptxas-blackwell", "nvdisasm", "cuobjdump")  # come in Triton's wheel
PIP = [sys.executable, "-m", "pip", "install"]
INSTALL = shlex.join([*PIP, "-e", str(ROOT)])
TORCH = """
import json, torch, kernels
assert (torch.ones(64, 64) @ torch.ones(64, 64) == 64).all(), "torch multiplies wrong"
if kernels.WHERE != "nowhere": kernels.need()
print(json.dumps([torch.__version__, torch.get_num_threads(), torch.cuda.is_available(), kernels.WHERE]))
"""


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. `get` is the command, or the step, that brings what is missing."""

    about: str
    state: Literal["ok", "missing", "worth knowing"]
    says: str
    get: str = ""


def examine() -> list[Finding]:
    """Look at everything that a learner needs, in about three seconds; changes nothing and needs no network."""
    python = _python()
    if python.state == "missing":
        return [python]  # what else is missing follows from it
    looks: list[Callable[[], Iterator[Finding]]] = [
        _packages, _torch, _assembler, _assets, _cache, _work, _machine, _jupyter, _loopback, _tests,
    ]  # fmt: skip
    return [python, *(finding for look in looks for finding in look())]


def healthy(findings: list[Finding]) -> bool:
    """Whether nothing is missing that a learner needs."""
    return all(finding.state != "missing" for finding in findings)


def text(findings: list[Finding]) -> str:
    """One line for each finding, a second one with what to do about it, and a last one with the sum of it."""
    lines = []
    for finding in findings:
        mark = {"ok": "ok", "missing": "MISSING", "worth knowing": "note"}[finding.state]
        lines.append(f"{mark:8}{finding.about}: {finding.says}")
        if finding.get:
            lines.append(f"{'':8}→ {finding.get}")
    missing = [finding.about for finding in findings if finding.state == "missing"]
    lines.append(f"missing: {', '.join(missing)}" if missing else "nothing is missing: `labkit lab` opens the lessons")
    return "\n".join(lines)


def _python() -> Finding:
    low, high = pins.pythons()
    here = ".".join(map(str, sys.version_info[:3]))
    if low <= sys.version_info[1] < high and sys.version_info[0] == 3:
        return Finding("Python", "ok", f"{here}, {sys.executable}")
    says = f"{here} is not one of 3.{low} to 3.{high - 1}"
    return Finding("Python", "missing", says, f"install one, then: make lab PYTHON=/path/to/python3.{high - 1}")


def _packages() -> Iterator[Finding]:
    asked = pins.asked_for()
    wrong = [
        f"{name} {wanted} ({f'{here} is here' if here else 'absent'})"
        for name, wanted in asked.items()
        if (here := pins.version(name)) != wanted
    ]
    if wrong:
        yield Finding("packages", "missing", ", ".join(wrong), INSTALL)
    else:
        yield Finding("packages", "ok", f"all {len(asked)} in their pinned versions")
    if pins.version("labkit") is None:
        yield Finding("labkit", "worth knowing", "not installed, so there is no `labkit` command", INSTALL)


def _torch() -> Iterator[Finding]:
    if pins.version("torch") is None:
        return  # said above
    said, wrong = _ask([sys.executable, "-c", TORCH])
    if wrong:
        yield Finding("torch", "missing", f"it does not run: {wrong}", _again("torch"))
        return
    version, threads, gpu, where = json.loads(said.splitlines()[-1])
    yield Finding("torch", "ok", f"{version}, {threads} threads, {'a GPU' if gpu else 'no GPU, and none is needed'}")
    if where == "nowhere":
        yield Finding(
            "kernels", "worth knowing", "Triton does not exist for this system: lessons go on without kernels"
        )
    else:
        how = {"interpreted": "in Triton's interpreter, on the CPU", "compiled": "compiled, on the GPU"}
        yield Finding("kernels", "ok", f"run {how[where]}")


def _assembler() -> Iterator[Finding]:
    if (triton := importlib.util.find_spec("triton")) is None or triton.origin is None:
        return
    folder = Path(triton.origin).parent / "backends" / "nvidia" / "bin"
    absent = [tool for tool in TOOLS if not os.access(folder / tool, os.X_OK)]
    if absent:
        yield Finding("compile reports", "missing", f"Triton is without {', '.join(absent)}", _again("triton"))
    else:
        yield Finding("compile reports", "ok", f"{', '.join(TOOLS)} are here")


def _assets() -> Iterator[Finding]:
    try:
        from . import assets

        absent = [name for name in assets.names() if not assets.is_cached(name)]
    except ImportError as error:
        yield Finding("models and data", "missing", f"cannot be looked at without {error.name}", INSTALL)
        return
    except RuntimeError as error:  # AssetError: its sentence says what to do
        yield Finding("models and data", "missing", str(error))
        return
    size = sum(assets.entry(name).size for name in absent or assets.names()) / 1e6
    if absent:
        labkit = shlex.join([sys.executable, "-m", "labkit", "assets"])
        get = f"{labkit} fetch {' '.join(absent)}, or, without a network, {labkit} unpack FILE"
        yield Finding("models and data", "missing", f"{', '.join(absent)}: {size:.1f} MB", get)
    else:
        says = f"{len(assets.names())} in {assets.cache_dir()}, {size:.1f} MB; `labkit assets verify` reads them all"
        yield Finding("models and data", "ok", says)


def _cache() -> Iterator[Finding]:
    try:
        from . import assets
    except ImportError:
        return  # said above
    elsewhere = "set the environment variable LABKIT_CACHE to a folder that you can write to, with room"
    yield from _folder("cache folder", assets.cache_dir(), CONVERTED, elsewhere)


def _work() -> Iterator[Finding]:
    work = work_folder()
    elsewhere = "set the environment variable LABKIT_WORK to a folder that you can write to, with room"
    yield from _folder("work folder", work, 0.1e9, elsewhere)
    try:
        progress = json.loads((work / "progress.json").read_text(encoding="utf8"))
        solved = list(progress["exercises"].values()).count("pass")
        yield Finding("progress", "ok", f"{solved} exercises solved")
    except FileNotFoundError:
        yield Finding("progress", "ok", "none yet")
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        says = f"{work / 'progress.json'} cannot be read ({error}): the next lesson keeps it aside and starts anew"
        yield Finding("progress", "worth knowing", says)


def _folder(about: str, folder: Path, needed: float, elsewhere: str) -> Iterator[Finding]:
    there = next(parent for parent in (folder, *folder.parents) if parent.exists())
    try:
        with tempfile.TemporaryFile(dir=there) as file:
            file.write(b"labkit")
        free = shutil.disk_usage(there).free
    except OSError as error:
        yield Finding(about, "missing", f"{folder} cannot be written to ({error.strerror})", elsewhere)
        return
    says = f"{folder}, {free / 1e9:.1f} GB free"
    if free < needed:
        yield Finding(about, "missing", f"{says}, {needed / 1e9:.1f} GB are needed", elsewhere)
    else:
        yield Finding(about, "ok", says)


def _machine() -> Iterator[Finding]:
    cores = os.cpu_count() or 1
    slow = "lessons are made for two or more, and will be slow"
    yield Finding("cores", "ok", str(cores)) if cores > 1 else Finding("cores", "worth knowing", f"{cores}: {slow}")
    free = _free_memory()
    if free is None:
        yield Finding("memory", "worth knowing", "this system does not say how much is free; a lesson may take 2.5 GiB")
    elif free < MEMORY:
        says = f"{free / GIB:.1f} GiB free, a lesson may take {MEMORY / GIB:.1f} GiB"
        yield Finding("memory", "worth knowing", says, "close other programs, and one lesson before you open another")
    else:
        yield Finding("memory", "ok", f"{free / GIB:.1f} GiB free")


def _free_memory() -> int | None:
    try:
        found = re.search(r"^MemAvailable: +(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None


def _jupyter() -> Iterator[Finding]:
    if pins.version("jupyterlab") is None or pins.version("ipykernel") is None:
        return  # said above
    with tempfile.TemporaryDirectory(prefix="labkit-") as runtime:
        env = os.environ | environment(work_folder(), runtime)
        said, wrong = _ask([sys.executable, "-m", "jupyter", "kernelspec", "list", "--json"], env)
    if wrong:
        yield Finding("JupyterLab", "missing", f"it does not run: {wrong}", INSTALL)
        return
    yield Finding("JupyterLab", "ok", str(pins.version("jupyterlab")))
    spec = json.loads(said)["kernelspecs"].get("python3")
    program = spec["spec"]["argv"][0] if spec else ""
    if re.fullmatch(r"python(3(\.\d+)?)?", program) or (program and _same(program, sys.executable)):
        yield Finding("notebook kernel", "ok", "`python3` is this Python")
    else:
        says = f"`python3` is {program or 'not known'}, not this Python ({spec['resource_dir'] if spec else 'no spec'})"
        yield Finding("notebook kernel", "missing", says, f"{sys.executable} -m ipykernel install --sys-prefix")


def _same(a: str, b: str) -> bool:
    return os.path.abspath(a) == os.path.abspath(b)  # not resolved: every environment's python links to one file


def _loopback() -> Iterator[Finding]:
    try:
        with socket.create_server(("127.0.0.1", 0)) as server:
            socket.create_connection(server.getsockname(), timeout=5).close()
        yield Finding("connections to 127.0.0.1", "ok", "the browser can reach JupyterLab")
    except OSError as error:
        get = "look at the firewall's rules for programs on this machine"
        yield Finding("connections to 127.0.0.1", "missing", f"refused ({error.strerror or error})", get)


def _tests() -> Iterator[Finding]:
    """Only who changes the lab needs these."""
    asked = pins.asked_for("test")
    absent = [name for name, wanted in asked.items() if pins.version(name) != wanted]
    if absent:
        says = f"`make test` and `make build` want {len(absent)} more packages; lessons do not"
        yield Finding("packages for tests", "worth knowing", says, "make test")
        return
    yield Finding("packages for tests", "ok", f"all {len(asked)} in their pinned versions")
    from . import browser

    if found := browser.chromium():
        yield Finding("Chromium for tests", "ok", found)
    else:
        get = f"apt-get install chromium, or {sys.executable} -m playwright install chromium"
        yield Finding("Chromium for tests", "worth knowing", "none: browser tests are skipped; lessons need none", get)


def _again(name: str) -> str:
    return shlex.join([*PIP, "--force-reinstall", "--no-deps", f"{name}=={pins.asked_for()[name]}"])


def _ask(command: list[str], env: dict[str, str] | None = None) -> tuple[str, str]:
    """What a program prints, and in one line what went wrong."""
    try:
        done = subprocess.run(command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE)
    except (OSError, subprocess.TimeoutExpired) as error:
        return "", str(error)
    last = (done.stderr.strip() or "it said nothing").splitlines()[-1]
    return done.stdout, "" if done.returncode == 0 else f"exit status {done.returncode}, {last}"


if __name__ == "__main__":
    found = examine()
    print(text(found))
    sys.exit(not healthy(found))
