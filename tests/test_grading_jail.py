"""The walls of an exercise's process, each alone: the kernel's hold where Python's audit hook is not even asked."""

import os
import platform
import subprocess
import sys
import textwrap

import pytest

from labkit.grading import jail
from labkit.launch import ROOT

linux = pytest.mark.skipif(sys.platform != "linux", reason="these walls are Linux's")


def inside(code: str) -> str:
    """What code prints in a fresh process that has imported labkit.grading.jail."""
    lines = textwrap.dedent(code)
    done = subprocess.run(
        [sys.executable, "-c", f"import os\nfrom labkit.grading import jail\n{lines}"],
        capture_output=True, text=True, timeout=60, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@linux
@pytest.mark.skipif(platform.machine() != "x86_64", reason="its numbers are those of x86-64")
def test_the_kernel_starts_no_process_opens_no_socket_and_sends_no_signal():
    said = inside("""
        import signal, socket, subprocess, threading
        jail._seccomp()
        def refused(call):
            try:
                call()
            except OSError as error:
                return error.errno == 1
        print(refused(os.fork), refused(lambda: subprocess.run(["true"])), refused(socket.socket),
              refused(lambda: os.kill(os.getppid(), 0)), refused(lambda: os.chmod("README.md", 0o644)))
        ran = []
        thread = threading.Thread(target=ran.append, args=(1,)); thread.start(); thread.join()
        signal.signal(signal.SIGUSR1, lambda *_: ran.append(2))
        signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
        print(ran)
    """)
    assert said == "True True True True True\n[1, 2]"


@linux
def test_the_kernel_opens_no_file_but_pythons_own(tmp_path):
    said = inside(f"""
        import json.tool, linecache, sysconfig
        jail._landlock([path for path in jail._readable() if os.path.exists(path)])
        def refused(call):
            try:
                call()
            except OSError as error:
                return error.errno == 13
            return False
        print(refused(lambda: open({str(ROOT / "README.md")!r})), refused(lambda: open({str(tmp_path / "a")!r}, "w")),
              refused(lambda: os.mkdir({str(tmp_path / "b")!r})), refused(lambda: os.listdir({str(ROOT)!r})),
              refused(lambda: open("/etc/hostname")), refused(lambda: open(f"/proc/{{os.getppid()}}/maps")))
        import colorsys
        open(os.devnull, "w").write("x")
        print(len(open(colorsys.__file__).read()) > 0)
    """)
    assert said == "True True True True True True\nTrue"
    assert list(tmp_path.iterdir()) == []


@linux
def test_memory_and_the_size_of_files_end_somewhere(tmp_path):
    said = inside(f"""
        import torch
        jail.MEMORY = 1 << 28
        jail._limit_memory()
        try:
            torch.empty(1 << 28)
        except RuntimeError as error:
            print("memory" in str(error))
        try:
            with open({str(tmp_path / "a")!r}, "w", buffering=1) as file:
                file.write("x\\n")
        except OSError as error:
            print(error.errno)
    """)
    assert said.splitlines()[0] == "True" and "27" in said.splitlines()[1:]
    assert (tmp_path / "a").stat().st_size == 0


AUDITED = {
    "uses the network": "import socket; socket.socket()",
    "starts a process": "import subprocess; subprocess.run(['true'])",
    "sends a signal": "os.kill(os.getpid(), 0)",
    "writes a file": "open('planted', 'w')",
    "reads a file": "open('README.md')",
    "loads machine code": "import ctypes; ctypes.CDLL(None)",
    "searches the process's memory": "import gc; gc.get_objects()",
}


def test_python_itself_refuses_and_notes_it_on_every_platform():
    """The hook alone, as where there is no other wall."""
    said = inside(f"""
        import ctypes, gc, socket, subprocess, sys
        notes = []
        sys.addaudithook(jail.auditor([path for path in jail._readable() if os.path.exists(path)], notes.append))
        for code in {list(AUDITED.values())!r}:
            try:
                exec(code)
            except PermissionError as error:
                print(str(error).partition(":")[0])
        print(notes)
    """)
    assert said.splitlines() == [*(f"an answer {name}" for name in AUDITED), repr(list(AUDITED))]


def test_a_folder_whose_name_begins_alike_is_not_inside(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "ab").write_text("b")
    (tmp_path / "a" / "b").write_text("b")
    notes = []
    hook = jail.auditor([str(tmp_path / "a")], notes.append)
    hook("open", (str(tmp_path / "a" / "b"), "r", os.O_RDONLY))
    assert notes == []
    with pytest.raises(PermissionError):
        hook("open", (str(tmp_path / "ab"), "r", os.O_RDONLY))
    assert notes == ["reads a file"]


def test_no_package_with_answers_can_be_imported():
    said = inside("""
        import sys
        notes = []
        import labkit.delta_rule.exercises
        jail.close_doors(notes.append)
        for name in ("labkit.delta_rule", "labkit.delta_rule.exercises", "kernels.delta_rule", "labkit.delta_rule.forms"):
            try:
                __import__(name)
            except ImportError:
                pass
        import labkit
        try:
            labkit.course.find("delta_rule.step").reference
        except Exception as error:
            print(type(error).__name__)
        print(notes)
    """)
    assert said.startswith("LookupError") and "imports labkit.delta_rule" in said and "kernels.delta_rule" in said


def test_whoever_finds_a_mechanism_behind_a_kernels_launch_finds_it_empty():
    said = inside("""
        import torch
        from labkit.grading import worker
        worker._through("delta_rule.read_chunk")
        worker._through("flow_attention.pour")
        from labkit import delta_rule, flow_attention, linear_attention
        q = torch.ones(1, 1, 2, 2)
        print([form(q, q, q, q[..., 0]) for form in (delta_rule.recurrent, delta_rule.parallel, delta_rule.chunkwise)])
        print([form(q, q, q) for form in (linear_attention.recurrent, flow_attention.linear, flow_attention.causal.kernel)])
        print(delta_rule.forms.Chunks.forward(*8 * [None]), delta_rule.exercises.STEP.reference(q, q, q, q))
    """)
    assert said == "[None, None, None]\n[None, None, None]\nNone None"
