"""The benchmarks: right arithmetic, rows that end up as data, and a failure that costs only itself."""

import contextlib
import datetime
import functools
import importlib
import inspect
import io
import json
import math
import subprocess
import time
from pathlib import Path

import pytest
import torch
import typer

from labkit import benching
from labkit.__main__ import plainly
from labkit.launch import ROOT
from labkit.peak import most_held, peak
from labkit.rounds import Row, exponent, growth, memory, race, ratios, rounds, row

GOOD = """
from labkit.rounds import Row
def main():
    yield Row("sum", "ours", "theirs", 0.5, 0.25, 0.75, 3, "of the time")
"""
BAD = GOOD + "    raise RuntimeError('the second half is broken')\n"


def several(folder: Path) -> Path:
    """Two benchmarks, of which the first fails half-way."""
    folder.mkdir()
    for name, text in {"a_bad": BAD, "b_good": GOOD, "peers": "no script"}.items():
        (folder / f"{name}.py").write_text(text)
    return folder


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[pytest.ExceptionInfo, Path, str]:
    """How `labkit bench` ended on them, where, and what it printed."""
    folder, printed = several(tmp_path_factory.mktemp("bench") / "scripts"), io.StringIO()
    with pytest.raises(typer.Exit) as ended, contextlib.redirect_stdout(printed):
        plainly(benching.bench)(folder=folder)
    return ended, folder, printed.getvalue()


def test_a_failing_benchmark_costs_only_itself_and_the_rest_is_kept_as_data(run):
    ended, folder, printed = run
    assert ended.value.exit_code == 1
    report = json.loads((folder / "latest.json").read_text(encoding="utf8"))
    assert [row["bench"] for row in report["rows"]] == ["a_bad", "b_good"]  # what came before the failure counts
    assert report["failed"] == ["a_bad"]
    assert report["rows"][1] == {
        "bench": "b_good", "what": "sum", "ours": "ours", "peer": "theirs",
        "median": 0.5, "low": 0.25, "high": 0.75, "rounds": 3, "unit": "of the time",
    }  # fmt: skip
    assert printed.index("== a_bad failed") < printed.index("== b_good (2 of 2)") < printed.index("bench   what")


def test_numbers_come_with_the_machine_the_versions_the_date_and_the_commit(run):
    _, folder, printed = run
    report = json.loads((folder / "latest.json").read_text(encoding="utf8"))
    assert {"cpu", "cores", "threads", "memory_gib", "gpu", "system"} == set(report["machine"])
    assert all(report["machine"].values())
    for package in ("python", "torch", "triton", "transformers", "fla-core", "transformer-lens"):
        assert report["versions"][package]
    assert datetime.datetime.fromisoformat(report["date"]).tzinfo is not None
    commit = subprocess.run(["git", "-C", ROOT, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
    assert report["commit"] == (commit or "unknown")
    assert report["kernels"] in ("compiled", "interpreted", "nowhere")
    assert not list(folder.glob("*.part"))
    for said in (
        report["versions"]["torch"],
        report["machine"]["cpu"],
        report["date"],
        f"kernels: {report['kernels']}",
    ):
        assert said in printed


def test_an_unknown_benchmark_is_refused_before_any_runs(tmp_path: Path, capfd):
    folder = several(tmp_path / "scripts")
    with pytest.raises(LookupError, match="no benchmark c: there are a_bad, b_good"):
        benching.bench(["b_good", "c"], folder)
    assert not capfd.readouterr().out and not (folder / "latest.json").exists()


def test_git_does_not_take_the_results_of_a_machine():
    inside = subprocess.run(["git", "-C", ROOT, "rev-parse"], capture_output=True).returncode == 0
    ignored = subprocess.run(["git", "-C", ROOT, "check-ignore", "-q", "bench/latest.json"]).returncode == 0
    assert ignored or not inside


def test_every_benchmark_can_be_imported_and_is_a_generator_of_rows(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    assert {"attention_sinks", "delta_rule", "lessons", "lm", "recording"} <= set(benching.scripts())
    for name in benching.scripts():
        script = importlib.import_module(f"bench.{name}")
        assert script.__doc__
        main = inspect.unwrap(script.main)
        assert inspect.isgeneratorfunction(main) and not inspect.signature(main).parameters


def test_every_mechanism_is_measured():
    mechanisms = {path.parent.name for path in ROOT.glob("labkit/*/forms.py")}
    assert mechanisms <= set(benching.scripts())


def test_a_ratio_is_ours_to_the_peers_of_the_same_round():
    took = {"ours": [1.0, 2.0, 9.0], "a": [2.0, 4.0, 3.0], "b": [1.0, 1.0, 1.0]}
    a, b = ratios("x", took, "ours")
    assert a == Row("x", "ours", "a", 0.5, 0.5, 3.0, 3, "of the time")
    assert b == Row("x", "ours", "b", 2.0, 1.0, 9.0, 3, "of the time")
    assert "ours / a: 0.5 of the time (0.5 to 3)" in str(a)
    assert str(row("x", "ours", [2.0], "s")).endswith("ours: 2 s")


def test_every_round_times_all_in_turn_and_the_first_does_not_count():
    ran = []
    took = rounds({"a": lambda: (ran.append("a"), time.sleep(0.01)), "b": lambda: ran.append("b")}, 3)
    assert ran == ["a", "b"] * 4
    assert len(took["a"]) == len(took["b"]) == 3
    assert min(took["a"]) > max(took["b"])


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0])
def test_the_exponent_of_a_power_of_t_is_its_power(p: float):
    lengths = [256, 1024, 2048, 8192]
    assert math.isclose(exponent(lengths, [3e-6 * t**p for t in lengths]), p, rel_tol=1e-9)


def test_growth_tells_linear_from_quadratic(monkeypatch):
    """With a clock of its own: a form that takes t² ticks, and one that takes t."""
    clock = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: clock[0])

    def ticks(p):
        def form(x):
            clock[0] += 1e-6 * len(x) ** p

        return form

    for p in (1, 2):
        power, cost = growth("x", "form", ticks(p), lambda t: [torch.zeros(t)], (16, 32, 64), 3)
        assert math.isclose(power.median, p, rel_tol=1e-6) and power.rounds == 3
        assert math.isclose(cost.high / cost.low, 4 ** (p - 1), rel_tol=1e-6)
        assert math.isclose(cost.low, 16 ** (p - 1), rel_tol=1e-6)


def test_a_race_goes_backward_where_it_says_so():
    asked = []

    def form(x):
        asked.append(x.requires_grad)
        return x * x

    for way in ("forward", "forward and backward"):
        (found,) = race("x", {"ours": form, "peer": form}, lambda t: [torch.ones(t)], 8, 1, way)
        assert found.what == f"x, {way}, t = 8" and found.unit == "of the time"
    assert asked == [False] * 4 + [True] * 4


def test_the_peak_is_what_one_pass_adds():
    held = peak(_ones, _bytes_of, 1, 64 << 20)
    assert 60 << 20 < held < 80 << 20
    assert most_held() > 1 << 20


def _bytes_of(n: int) -> int:
    return n


def _ones(n: int) -> None:
    bytearray(b"1") * n


def test_memory_is_a_ratio_to_every_peer(monkeypatch):
    monkeypatch.setattr("labkit.rounds.peak", lambda run, make, small, large: run.args[0](large))
    ours, peer = memory("x", {"ours": lambda t: t << 20, "peer": lambda t: t << 22}, lambda t: [], 8)
    assert (ours.median, ours.unit) == (8, "MiB")
    assert (peer.median, peer.peer, peer.unit) == (0.25, "peer", "of the memory")


@pytest.mark.parametrize("name, t", [("attention_sinks", 16), ("delta_rule", 64), ("flow_attention", 16)])
def test_what_is_timed_on_a_gpu_runs(name: str, t: int, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    script = importlib.import_module(f"bench.{name}")
    monkeypatch.setattr(script, "H", 1, raising=False)
    of_the_gpu(script.compiled(getattr(script, "inputs", functools.partial(script.qkv, h=1)), t, 1))


def test_what_is_timed_of_lens_and_gates_on_a_gpu_runs(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    lens, gates = (importlib.import_module(f"bench.{name}") for name in ("factual_recall", "linear_interpreters"))
    monkeypatch.setattr(lens, "LAYERS", 1)
    monkeypatch.setattr(lens, "D", 32)
    of_the_gpu(lens.compiled("cpu", 128, 1))
    of_the_gpu(gates.compiled("cpu", (2, 1, 2, 4, 4), 1))


def of_the_gpu(rows):
    found = list(rows)
    assert {row.ours for row in found} == {"kernel"} and all("GPU" in row.what for row in found)
