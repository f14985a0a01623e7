"""`labkit doctor`: each thing that can be missing is said, with what to do about it."""

import collections
import importlib.metadata
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time

import pytest
from asset_shop import shop_fixture as shop_fixture

from labkit import doctor, launch, pins


def the(findings, about: str) -> doctor.Finding:
    (found,) = [finding for finding in findings if finding.about == about]
    return found


def pretend(monkeypatch, **versions: str | None) -> None:
    """These packages, of which `-` is written `_`, are here in this version, or not at all."""
    real = importlib.metadata.version

    def version(name: str) -> str:
        here = versions.get(name.replace("-", "_"), "")
        if here is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return here or real(name)

    monkeypatch.setattr(importlib.metadata, "version", version)


@pytest.fixture
def answers(monkeypatch):
    """What a program says to the doctor, in place of running it."""
    return lambda said="", wrong="": monkeypatch.setattr(doctor, "_ask", lambda *_: (said, wrong))


def test_this_machine_is_well_and_is_looked_at_in_a_few_seconds(record_property):
    begin = time.perf_counter()
    findings = doctor.examine()
    record_property("labkit doctor, seconds", round(time.perf_counter() - begin, 1))
    missing = [finding for finding in findings if finding.state == "missing"]
    assert {finding.about for finding in missing} <= {"models and data"}, missing  # what `make test` fetches
    assert {"Python", "packages", "torch", "JupyterLab", "notebook kernel"} <= {finding.about for finding in findings}
    assert len({finding.about for finding in findings}) == len(findings)


def test_every_finding_is_one_line_and_what_is_missing_comes_with_a_command():
    bad = doctor.Finding("thing", "missing", "it is away", "fetch it")
    note = doctor.Finding("other", "worth knowing", "small")
    assert doctor.text([bad, note]).splitlines() == [
        "MISSING thing: it is away",
        "        → fetch it",
        "note    other: small",
        "missing: thing",
    ]
    assert not doctor.healthy([bad, note]) and doctor.healthy([note])
    assert "nothing is missing" in doctor.text([note])


@pytest.mark.parametrize("version", [(3, 10, 4), (3, 14, 0), (2, 7, 18)])
def test_a_python_that_is_not_allowed_is_all_that_is_said(monkeypatch, version):
    monkeypatch.setattr(sys, "version_info", version)
    (found,) = doctor.examine()
    assert found.state == "missing" and "3.11 to 3.13" in found.says and "make lab PYTHON=" in found.get


def test_a_package_that_is_absent_or_of_another_version_is_named(monkeypatch):
    pretend(monkeypatch, einops=None, plotly="6.0.0")
    (found,) = doctor._packages()
    assert found.state == "missing" and found.get == doctor.INSTALL
    assert re.fullmatch(r"einops \S+ \(absent\), plotly \S+ \(6\.0\.0 is here\)", found.says)
    assert str(launch.ROOT) in found.get and "-m pip install -e" in found.get


def test_a_cpu_build_of_torch_is_the_pinned_version(monkeypatch):
    pretend(monkeypatch, torch=f"{pins.asked_for()['torch']}+cpu", labkit=None)
    findings = list(doctor._packages())
    assert the(findings, "packages").state == "ok" and the(findings, "labkit").state == "worth knowing"


def test_packages_for_another_system_are_not_asked_for(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(pins.platform, "machine", lambda: "x86_64")
    assert "triton" in pins.asked_for()
    monkeypatch.setattr(sys, "platform", "darwin")
    assert "triton" not in pins.asked_for() and "torch" in pins.asked_for()


def test_every_marker_of_pyproject_is_one_that_the_doctor_reads():
    for marker in re.findall(r'"[\w.-]+==[^;"]+;([^"]*)"', (launch.ROOT / "pyproject.toml").read_text(encoding="utf8")):
        assert re.fullmatch(
            r" (sys_platform|platform_machine) == '\w+'( and (sys_platform|platform_machine) == '\w+')*", marker
        )


def test_a_torch_that_does_not_run_is_said(monkeypatch, answers):
    answers(wrong="exit status -4, Illegal instruction")
    (found,) = doctor._torch()
    assert found.state == "missing" and "Illegal instruction" in found.says
    assert found.get.endswith(f"torch=={pins.asked_for()['torch']}")
    pretend(monkeypatch, torch=None)
    assert list(doctor._torch()) == [], "that it is absent is said among the packages"


@pytest.mark.parametrize(("where", "state"), [("interpreted", "ok"), ("compiled", "ok"), ("nowhere", "worth knowing")])
def test_where_kernels_run_is_said(answers, where, state):
    answers(said=f"a warning\n{json.dumps(['2.13.0', 2, where == 'compiled', where])}\n")
    assert the(doctor._torch(), "kernels").state == state


def test_a_tool_that_triton_came_without_is_named(monkeypatch, tmp_path):
    spec = collections.namedtuple("Spec", "origin")(str(tmp_path / "__init__.py"))
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: spec)
    tools = tmp_path / "backends" / "nvidia" / "bin"
    tools.mkdir(parents=True)
    for tool in doctor.TOOLS[1:]:
        (tools / tool).touch(0o755)
    (found,) = doctor._assembler()
    assert found.state == "missing" and found.says == "Triton is without ptxas" and "triton==" in found.get
    monkeypatch.setattr(doctor.importlib.util, "find_spec", lambda name: None)
    assert list(doctor._assembler()) == []


def test_assets_that_are_absent_or_cut_short_are_named(shop):
    shop.stock("tiny").write_bytes(b"cut")
    shop.stock("other")
    shop.offer("third")
    (found,) = doctor._assets()
    assert found.state == "missing" and found.says == "tiny, third: 0.2 MB"
    assert "labkit assets fetch tiny third" in found.get and "unpack FILE" in found.get
    shop.table.write_text("")
    shop.stock("other")
    (found,) = doctor._assets()
    assert found.state == "ok" and str(shop.cache) in found.says


def test_a_folder_that_cannot_be_written_to_is_named_with_the_way_round(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("LABKIT_CACHE", str(tmp_path / "file" / "cache"))
    (found,) = doctor._cache()
    assert found.state == "missing" and "LABKIT_CACHE" in found.get and str(tmp_path) in found.says
    monkeypatch.setenv("LABKIT_WORK", str(tmp_path / "file"))
    assert the(doctor._work(), "work folder").state == "missing"


def test_a_full_disk_is_said(monkeypatch, tmp_path):
    monkeypatch.setenv("LABKIT_CACHE", str(tmp_path / "new"))
    assert the(doctor._cache(), "cache folder").state == "ok"
    monkeypatch.setattr(shutil, "disk_usage", lambda _: collections.namedtuple("Usage", "free")(10**8))
    (found,) = doctor._cache()
    assert found.state == "missing" and "0.1 GB free" in found.says and not (tmp_path / "new").exists()


@pytest.mark.parametrize("content", ["half of", "[]", '{"exercises": 3}'])
def test_progress_that_cannot_be_read_is_said_and_left_as_it_is(monkeypatch, tmp_path, content):
    monkeypatch.setenv("LABKIT_WORK", str(tmp_path))
    assert the(doctor._work(), "progress").says == "none yet"
    (tmp_path / "progress.json").write_text(content)
    assert the(doctor._work(), "progress").state == "worth knowing"
    assert (tmp_path / "progress.json").read_text() == content and os.listdir(tmp_path) == ["progress.json"]
    (tmp_path / "progress.json").write_text('{"exercises": {"a": "pass", "b": "todo"}, "guesses": {}}')
    assert the(doctor._work(), "progress").says == "1 exercises solved"


def test_a_small_machine_is_said(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    monkeypatch.setattr(doctor, "_free_memory", lambda: 2 << 30)
    findings = list(doctor._machine())
    assert {finding.state for finding in findings} == {"worth knowing"}
    assert the(findings, "memory").says.startswith("2.0 GiB free") and the(findings, "memory").get
    monkeypatch.setattr(doctor, "_free_memory", lambda: None)
    assert "does not say" in the(doctor._machine(), "memory").says


def test_a_kernel_of_another_python_is_said(answers):
    def specs(program: str) -> str:
        return json.dumps({"kernelspecs": {"python3": {"resource_dir": "there", "spec": {"argv": [program, "-m"]}}}})

    for program in ("python", "python3.12", sys.executable):
        answers(said=specs(program))
        assert the(doctor._jupyter(), "notebook kernel").state == "ok"
    answers(said=specs("another/python"))
    found = the(doctor._jupyter(), "notebook kernel")
    assert found.state == "missing" and "another/python" in found.says and "ipykernel install" in found.get
    answers(said='{"kernelspecs": {}}')
    assert the(doctor._jupyter(), "notebook kernel").state == "missing"
    answers(wrong="exit status 1, No module named jupyter")
    assert the(doctor._jupyter(), "JupyterLab").state == "missing"


def test_a_machine_that_refuses_its_own_connections_is_said(monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(socket, "create_connection", refuse)
    (found,) = doctor._loopback()
    assert found.state == "missing" and "Operation not permitted" in found.says and "firewall" in found.get


def test_what_only_tests_need_never_counts_as_missing(monkeypatch):
    from labkit import browser

    monkeypatch.setattr(browser, "chromium", lambda: None)
    assert the(doctor._tests(), "Chromium for tests").state == "worth knowing"
    pretend(monkeypatch, pytest=None)
    (found,) = doctor._tests()
    assert found.state == "worth knowing" and "1 more packages" in found.says and found.get == "make test"


def test_a_program_that_fails_or_does_not_exist_is_one_line(tmp_path):
    assert doctor._ask([sys.executable, "-c", "raise ValueError('no')"])[1] == "exit status 1, ValueError: no"
    assert "No such file" in doctor._ask([str(tmp_path / "nothing")])[1]


def test_with_nothing_installed_it_still_answers(tmp_path):
    """-S: a Python without any package, as on a fresh machine."""
    command = [sys.executable, "-S", "-m", "labkit.doctor"]
    done = subprocess.run(command, cwd=launch.ROOT, capture_output=True, text=True, env={"LABKIT_WORK": str(tmp_path)})
    assert done.returncode == 1 and done.stderr == ""
    assert re.search(r"^MISSING packages: torch \S+ \(absent\)", done.stdout, re.MULTILINE)
    assert re.search(r"^MISSING models and data: cannot be looked at without", done.stdout, re.MULTILINE)
