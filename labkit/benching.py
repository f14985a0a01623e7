"""`labkit bench`: every script of bench/ in a process of its own; one table, and bench/latest.json.

A script is bench/NAME.py with a generator `main() -> Iterator[Row]`; bench/peers.py is what scripts share.
"""

import datetime
import importlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from labkit.launch import ROOT

BENCH = ROOT / "bench"
PACKAGES = ("torch", "triton", "numpy", "einops", "transformers", "transformer-lens", "plotly", "nbclient")
ENVIRONMENT = {
    "TQDM_DISABLE": "1",  # peers draw no bars between rows,
    "HF_HUB_OFFLINE": "1",  # and ask no server
    "OMP_WAIT_POLICY": "PASSIVE",  # idle threads sleep, as in `labkit lab`
}


def bench(names: Sequence[str] = (), folder: Path = BENCH) -> None:
    """Run these benchmarks (all by default), print their table and write folder/latest.json.

    One that fails costs only itself: the others still run, and at the end a RuntimeError names it.
    """
    there = scripts(folder)
    if unknown := [name for name in names if name not in there]:
        raise LookupError(f"no benchmark {', '.join(unknown)}: there are {', '.join(there)}")
    began = time.monotonic()
    rows: list[dict[str, Any]] = []
    seconds, failed = {}, []
    for number, name in enumerate(names := list(names) or there, 1):
        print(f"== {name} ({number} of {len(names)})", flush=True)
        start = time.monotonic()
        found, status = run(name, folder)
        seconds[name] = round(time.monotonic() - start, 1)
        rows += found
        if status:
            failed.append(name)
        print(f"== {name} {'failed' if status else 'took'} {'after ' * bool(status)}{seconds[name]:.0f} s", flush=True)
    report = {**circumstances(), "seconds": seconds, "failed": failed, "rows": rows}
    write(report, folder / "latest.json")
    print(f"\n{table(rows)}\n\n{heading(report)}\n{time.monotonic() - began:.0f} s in all; {folder / 'latest.json'}")
    if failed:
        raise RuntimeError(f"{', '.join(failed)} failed: the reason stands above, and the rest is in the table")


def scripts(folder: Path = BENCH) -> list[str]:
    """The names of the benchmarks."""
    return sorted(path.stem for path in folder.glob("*.py") if path.stem != "peers")


def run(name: str, folder: Path = BENCH) -> tuple[list[dict[str, Any]], int]:
    """(the rows of one benchmark, those before a failure included; its exit status, 0 where all went well)."""
    with tempfile.TemporaryDirectory(prefix="labkit-") as temporary:
        file = Path(temporary, "rows")
        command = [sys.executable, "-m", "labkit.benching", str(folder / name), str(file)]
        status = subprocess.run(command, env=os.environ | ENVIRONMENT).returncode
        lines = file.read_text(encoding="utf8").splitlines(keepends=True) if file.exists() else []
    return [{"bench": name, **json.loads(line)} for line in lines if line.endswith("\n")], status


def measure(script: Path, to: Path) -> None:
    """Run one script in this process: every row is printed and appended to a file as a line of JSON."""
    sys.path.insert(0, str(script.parent.parent))
    main = importlib.import_module(f"{script.parent.name}.{script.name}").main
    with open(to, "a", encoding="utf8") as file:
        for row in main():
            print(row, flush=True)
            print(json.dumps(row._asdict(), allow_nan=False), file=file, flush=True)


def circumstances() -> dict[str, Any]:
    """When, on what, and with which versions: what a number means nothing without."""
    import torch

    import kernels
    from labkit import assets

    commit, changes = git("rev-parse", "HEAD"), git("status", "--porcelain")
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": commit or "unknown",
        "uncommitted_changes": bool(changes),
        "machine": {
            "cpu": cpu(),
            "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
            "threads": torch.get_num_threads(),
            "memory_gib": memory_gib(),
            "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
            "system": platform.platform(),
        },
        "versions": {
            "python": platform.python_version(),
            **{package: version(package) for package in PACKAGES},
            "fla-core": assets.entry("fla_delta_rule").version,
        },
        "kernels": kernels.WHERE,
    }


def cpu() -> str:
    """The processor's name, as the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine() or "unknown"


def memory_gib() -> float | None:
    """The machine's memory, or None where the system does not tell it."""
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1)
    except (AttributeError, ValueError, OSError):
        return None


def version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def git(*arguments: str) -> str:
    """What git says of the repository; nothing where there is no git or no repository."""
    try:
        said = subprocess.run(["git", "-C", str(ROOT), *arguments], capture_output=True, text=True)
    except OSError:
        return ""
    return said.stdout.strip() if said.returncode == 0 else ""


def write(report: dict[str, Any], to: Path) -> None:
    """The whole file or none of it."""
    half = to.with_suffix(".part")
    half.write_text(json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False) + "\n", encoding="utf8")
    os.replace(half, to)


def heading(report: dict[str, Any]) -> str:
    """Under which circumstances the table came about."""
    machine, versions = report["machine"], report["versions"]
    memory = f"{machine['memory_gib']} GiB" if machine["memory_gib"] else "memory unknown"
    changed = ", with uncommitted changes" if report["uncommitted_changes"] else ""
    timed = "timed" if report["kernels"] == "compiled" else "not timed: there is no GPU"
    return (
        f"{report['date']}, commit {report['commit'][:10]}{changed}\n"
        f"{machine['cpu']}, {machine['cores']} cores, {machine['threads']} threads, {memory}, GPU: {machine['gpu']}\n"
        f"{', '.join(f'{name} {number}' for name, number in versions.items())}\n"
        f"kernels: {report['kernels']}, {timed}"
    )


def table(rows: Sequence[dict[str, Any]]) -> str:
    """All rows in aligned columns."""
    head = ("bench", "what", "ours / peer", "median", "low", "high", "rounds", "unit")
    cells = [head]
    for row in rows:
        numbers = [f"{row[key]:.3g}" for key in ("median", "low", "high")]
        who = f"{row['ours']} / {row['peer']}" if row["peer"] else row["ours"]
        cells.append((row["bench"], row["what"], who, *numbers, str(row["rounds"]), row["unit"]))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    right = {"median", "low", "high", "rounds"}
    return "\n".join(
        "  ".join(
            text.rjust(width) if name in right else text.ljust(width)
            for text, width, name in zip(line, widths, head, strict=True)
        ).rstrip()
        for line in cells
    )


if __name__ == "__main__":
    measure(Path(sys.argv[1]), Path(sys.argv[2]))
