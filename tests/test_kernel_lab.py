"""The kernel lab: watching interpreted kernels, and compiling them for GPUs that are not here."""

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

import kernels
from kernels import Case
from labkit.kernel_lab import compile_report, compile_reports, guard, report, table, tile_map, trace, traffic

triton, tl = kernels.need()
watches = pytest.mark.skipif(
    kernels.WHERE == "compiled", reason="watches the interpreter, and a GPU runs compiled code"
)


@triton.jit
def double(value):
    return value * 2


@triton.jit
def add(x, y, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i, mask=i < n) + double(tl.load(y + i, mask=i < n)), mask=i < n)


@triton.jit
def add_unmasked(x, y, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i) + tl.load(y + i), mask=i < n)


@triton.jit
def store_unmasked(x, y, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i, mask=i < n))


@triton.jit
def count(x, total, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.atomic_add(total + i % 4, tl.load(x + i), mask=i < 6)


@triton.jit
def multiply(x, y, out, D: tl.constexpr):
    i = tl.arange(0, D)[:, None] * D + tl.arange(0, D)[None, :]
    tl.store(out + i, tl.dot(tl.load(x + i), tl.load(y + i)))


def vectors(n=30):
    return torch.arange(n).float(), torch.ones(n), torch.zeros(n)


@watches
def test_a_guarded_correct_kernel_computes_as_without_guard():
    x, y, out = vectors()
    with guard():
        add[(2,)](x, y, out, 30, 16)
    assert torch.equal(out, x + 2 * y)


@watches
@pytest.mark.parametrize("kernel, kind", [(add_unmasked, "load"), (store_unmasked, "store")])
def test_an_access_past_the_end_names_program_lanes_and_tensor(kernel, kind):
    x, y, out = vectors()
    with pytest.raises(IndexError) as error, guard():
        kernel[(2,)](x, y, out, 30, 16)
    said = str(error.value)
    name = "x" if kind == "load" else "out"
    assert said.startswith(f"{kernel.__name__}, program (1, 0, 0): a {kind} of 16 lanes has 2 (lane 14, 15) outside")
    assert f"1 bytes outside {name}" in said


@watches
def test_an_unmasked_store_writes_nothing_past_the_end():
    memory = torch.zeros(32)
    with pytest.raises(IndexError), guard():
        store_unmasked[(2,)](torch.ones(30), torch.ones(30), memory[:30], 30, 16)
    assert memory[30:].abs().sum() == 0


@watches
def test_an_atomic_outside_its_tensor_is_stopped_and_one_inside_is_not():
    x, total = torch.ones(16), torch.zeros(4)
    with guard():
        count[(1,)](x, total, 16)
    assert total.tolist() == [2, 2, 1, 1]
    with pytest.raises(IndexError, match="an atomic of 16 lanes has 2"), guard():
        count[(1,)](x, total[:2], 16)


@watches
def test_further_memory_given_to_the_guard_is_allowed():
    memory = torch.zeros(32)
    with guard(memory):
        add_unmasked[(2,)](memory[:30], memory[:30], memory[:30], 30, 16)


@watches
def test_another_error_in_a_guarded_kernel_is_not_hidden():
    with pytest.raises(Exception, match="Unsupported"), guard():
        multiply[(1,)](torch.ones(16, 16).bool(), torch.ones(16, 16).bool(), torch.ones(16, 16), 16)


@watches
def test_the_interpreter_is_as_before_after_a_guard_that_stopped_a_kernel():
    from triton.runtime.interpreter import GridExecutor, InterpreterBuilder

    before = dict(vars(InterpreterBuilder)), dict(vars(GridExecutor))
    x, y, out = vectors()
    with pytest.raises(IndexError), guard():
        add_unmasked[(2,)](x, y, out, 30, 16)
    assert (dict(vars(InterpreterBuilder)), dict(vars(GridExecutor))) == before


@watches
def test_a_trace_lists_every_access_in_order_with_its_elements_and_bytes():
    x, y, out = vectors()
    with trace() as log:
        add[(2,)](x, y, out, 30, 16)
    assert [(a.kernel, a.program, a.kind, a.name) for a in log] == [
        ("add", (n, 0, 0), kind, name)
        for n in (0, 1)
        for kind, name in (("load", "x"), ("load", "y"), ("store", "out"))
    ]
    assert log[3].elements.tolist() == list(range(16, 30))
    assert traffic(log) == {("load", "x"): (2, 120), ("load", "y"): (2, 120), ("store", "out"): (2, 120)}


@watches
def test_a_trace_of_named_tensors_records_only_those_under_these_names():
    x, y, out = vectors()
    with trace(result=out) as log:
        add[(2,)](x, y, out, 30, 16)
    assert {(a.kind, a.name) for a in log} == {("store", "result")}


@watches
def test_elements_are_counted_as_in_the_flattened_tensor_whatever_its_strides():
    x = torch.zeros(3, 10, dtype=torch.float32).T  # element (i, j) lies at 10 j + i
    with trace() as log:
        add[(1,)](x, torch.ones(30), torch.zeros(30), 30, 32)
    assert log[0].elements.tolist() == x.contiguous().flatten().argsort(stable=True).reshape(10, 3).T.flatten().tolist()


@watches
def test_the_tile_map_shows_the_band_and_the_sinks():
    q, k, v = torch.randn(3, 1, 2, 80, 16)[:, None].unbind()
    q, k, v = (x[0] for x in (q, k, v))
    with trace() as log:
        kernels.attention_sinks.sink_attention(q, k, v, n_sink=3, window=20, block_q=16, block_k=16)
    tiles = tile_map(log, "k", block=16)
    assert tiles.tolist() == [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0], [1, 0, 1, 1, 1]]
    assert tile_map(log, "out", block=16, kind="store").tolist() == np.eye(5, dtype=int).tolist()
    with pytest.raises(ValueError, match="'kk'"):
        tile_map(log, "kk", block=16)


def test_a_notebook_kernel_survives_a_guarded_bad_kernel():
    from jupyter_client.manager import start_new_kernel

    cells = (
        "import kernels, torch; from labkit.kernel_lab import guard; triton, tl = kernels.need()",
        "@triton.jit\ndef bad(x): tl.store(x + 10**12, 1.0)",
        "with guard(): bad[(1,)](torch.zeros(4))",
        "print('alive')",
    )
    manager, client = start_new_kernel(kernel_name="python3", env={**os.environ, "TRITON_INTERPRET": "1"})
    try:
        replies, printed = [], []
        for cell in cells:
            reply = client.execute_interactive(
                cell, timeout=60, output_hook=lambda m: printed.append(m["content"].get("text", ""))
            )
            replies.append(reply["content"])
        assert [r["status"] for r in replies] == ["ok", "ok", "error", "ok"], replies
        assert replies[2]["ename"] == "OutOfBounds" and "program (0, 0, 0)" in replies[2]["evalue"]
        assert "alive\n" in printed
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)


HALF = torch.empty(64, 64, dtype=torch.float16, device="meta")
MULTIPLY = Case("multiply", multiply, (HALF, HALF, HALF), {"D": 64, "num_warps": 4})


@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100", "gfx942"])
def test_a_report_sees_the_loads_the_stores_and_the_tensor_cores(target):
    seen = compile_report(MULTIPLY, target)
    assert seen.spills == 0 and seen.tensor_core > 0 and seen.loads > 0 and seen.stores > 0
    assert 0 < seen.registers <= 512 and seen.instructions > 20 and seen.binary > 1000
    assert 0 < seen.occupancy <= 1


def test_a_kernel_that_does_not_multiply_has_no_tensor_core_instruction():
    x = torch.empty(1024, device="meta")
    assert compile_report(Case("add", add, (x, x, x, 1000), {"BLOCK": 1024}), "sm_90").tensor_core == 0


def test_registers_that_do_not_fit_are_reported_as_spills():
    cramped = replace(MULTIPLY, options={**MULTIPLY.options, "maxnreg": 32})
    assert compile_report(cramped, "sm_80").spills > 0


def test_aligned_arguments_give_wider_loads_as_in_a_real_launch():
    aligned, odd = (torch.empty(4096, device="meta")[n:] for n in (0, 1))
    loads = [compile_report(Case("add", add, (x, x, x, 4096), {"BLOCK": 1024}), "sm_80").loads for x in (aligned, odd)]
    assert loads[0] * 2 <= loads[1]


@pytest.mark.parametrize("target", ["sm_80", "sm_100"])
def test_ptxas_asked_again_for_its_numbers_makes_the_code_that_triton_made(monkeypatch, target):
    """The same instructions in the same order: ptxas for sm_100 does not always choose the same registers."""
    code = []
    run = report.run

    def also_disassemble(tool, *arguments):
        said = run(tool, *arguments)
        code.append(report.opcodes(said if tool == "nvdisasm" else run("nvdisasm", "-c", arguments[-1])))
        return said

    monkeypatch.setattr(report, "run", also_disassemble)
    compile_report(MULTIPLY, target)
    again, made = code
    assert len(made) > 20 and again == made


@watches
def test_a_kernel_computes_the_same_before_and_after_it_was_compiled():
    def launch():
        x, y, out = vectors()
        add[(2,)](x, y, out, 30, 16)
        return out

    before = launch()
    first = compile_report(MULTIPLY, "sm_90")
    assert torch.equal(launch(), before)
    assert compile_report(MULTIPLY, "sm_90") == first


@watches
def test_triton_is_as_before_after_a_compilation_that_failed():
    from triton.runtime.interpreter import InterpretedFunction

    broken = Case("multiply", multiply, (HALF, HALF.float(), HALF), {"D": 64})
    with pytest.raises(Exception, match="same dtype"):
        compile_report(broken, "sm_90")
    assert isinstance(tl.zeros, InterpretedFunction) and isinstance(double, InterpretedFunction)
    assert triton.knobs.runtime.interpret


def test_the_table_has_a_line_for_every_case_and_target():
    lines = table(compile_reports([MULTIPLY], ["sm_80", "gfx942"])).splitlines()
    assert [line.split()[:2] for line in lines] == [["kernel", "target"], ["multiply", "sm_80"], ["multiply", "gfx942"]]
    assert len({len(line) for line in lines}) == 1


def test_wrong_requests_are_refused_in_one_sentence(monkeypatch, tmp_path):
    with pytest.raises(ValueError, match=r"target: expected one of sm_80, .*got 'sm_42'"):
        compile_report(MULTIPLY, "sm_42")
    with pytest.raises(TypeError, match=r"kernel: expected a @triton.jit function, got builtin"):
        compile_report(Case("sum", sum, (), {}), "sm_90")
    monkeypatch.setattr(report.triton, "__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(FileNotFoundError, match="ptxas is missing from the installed triton"):
        compile_report(MULTIPLY, "sm_90")


def test_a_kernel_defined_after_launches_still_compiles_in_a_fresh_process():
    """The language's builtins are kept from before the first launch, which leaves some of them patched."""
    program = (
        "import torch, kernels; a = kernels.attention_sinks; x = torch.randn(3, 1, 1, 20, 16);"
        "a.sink_attention(*x, n_sink=1, window=3, block_q=16, block_k=16);"
        "from labkit.kernel_lab import compile_report;"
        "print(compile_report(a.CASES[0], 'sm_90').tensor_core)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert int(done.stdout or 0) > 0, done.stderr
