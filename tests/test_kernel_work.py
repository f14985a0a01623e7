"""What a launch does and where it lands: counts, rooflines, races, occupancy, spilling, and their listing."""

import json
import re
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

import kernels
from kernels import Case
from labkit.kernel_lab import GPUS, compile_ahead, compile_report, land, listing, races, rooms, spilling, trace, work
from labkit.kernel_lab.mechanisms import chunkwise, delta, recurrent, softmax
from labkit.kernel_lab.report import Report
from labkit.kernel_lab.visits import FILE, traced

triton, tl = kernels.need()
watches = pytest.mark.skipif(
    kernels.WHERE == "compiled", reason="counts in the interpreter, and a GPU runs compiled code"
)


@triton.jit
def multiply(x, y, out, n, ROWS: tl.constexpr, D: tl.constexpr):
    i = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    j = tl.arange(0, D)
    a = tl.load(x + i * D + j[None, :], mask=i < n)
    b = tl.load(y + j[:, None] * D + j[None, :])
    tl.store(out + i * D + j[None, :], tl.dot(a, b, input_precision="ieee").to(out.dtype.element_ty), mask=i < n)


@triton.jit
def normalise(x, out, D: tl.constexpr):
    at = tl.program_id(0) * D + tl.arange(0, D)
    e = tl.exp(tl.load(x + at))
    tl.store(out + at, e / tl.sum(e, 0))


@triton.jit
def total(x, out, D: tl.constexpr):
    j = tl.arange(0, D)
    tl.atomic_add(out + j, tl.load(x + tl.program_id(0) * D + j))


@triton.jit
def forgetful_total(x, out, D: tl.constexpr):
    j = tl.arange(0, D)
    tl.store(out + j, tl.load(out + j) + tl.load(x + tl.program_id(0) * D + j))


@triton.jit
def shifted(x, D: tl.constexpr):
    at = tl.program_id(0) * D + tl.arange(0, D)
    tl.store(x + at, tl.load(x + at + 1))


@triton.jit
def step(q, k, v, state, out, D: tl.constexpr):
    """Linear attention, one token."""
    j = tl.arange(0, D)
    at = j[:, None] * D + j[None, :]
    S = tl.load(state + at) + tl.load(k + j)[:, None].to(tl.float32) * tl.load(v + j)[None, :]
    tl.store(state + at, S)
    tl.store(out + j, tl.sum(tl.load(q + j)[:, None].to(tl.float32) * S, 0).to(out.dtype.element_ty))


@triton.jit
def chunks(q, k, v, out, t, CHUNK: tl.constexpr, D: tl.constexpr):
    """Linear attention by chunks, the state kept."""
    i = tl.arange(0, CHUNK)
    j = tl.arange(0, D)
    S = tl.zeros([D, D], tl.float32)
    for start in range(0, t, CHUNK):
        at = (start + i)[:, None] * D + j[None, :]
        Q, K, V = tl.load(q + at), tl.load(k + at), tl.load(v + at)
        P = tl.where(i[:, None] >= i[None, :], tl.dot(Q, tl.trans(K)), 0.0)
        tl.store(out + at, (tl.dot(Q, S.to(Q.dtype)) + tl.dot(P.to(V.dtype), V)).to(out.dtype.element_ty))
        S += tl.dot(tl.trans(K), V)


def empty(*shape, dtype=torch.float16):
    return torch.empty(shape, dtype=dtype, device="meta")


def product(n=60, dtype=torch.bfloat16):
    x, y = empty(n, 32, dtype=dtype), empty(32, 32, dtype=dtype)
    return Case("multiply", multiply, (x, y, x, n), {"ROWS": 16, "D": 32, "num_warps": 4}, (-(-n // 16),))


@watches
def test_a_product_is_counted_by_its_tiles_and_its_bytes_by_its_own_elements():
    found = work(product())
    assert (found.programs, found.counted) == (4, 4)
    assert found.mean.matrix == {"half": 2 * 16 * 32 * 32} and found.mean.other == 0
    assert found.mean.stored == 2 * 60 * 32 / 4 and found.largest.stored == 2 * 16 * 32
    assert found.mean.loaded == found.mean.stored + 2 * 32 * 32
    assert found.distinct == 2 * (2 * 60 * 32 + 32 * 32)
    assert found.moved == 2 * (2 * 60 * 32 + 4 * 32 * 32)
    assert work(product(dtype=torch.float32)).mean.matrix == {"float32": 2 * 16 * 32 * 32}


@watches
def test_arithmetic_that_is_no_product_is_counted_apart():
    x = empty(64, dtype=torch.float32)
    found = work(Case("normalise", normalise, (x, x), {"D": 16}, (4,)))
    assert found.matrix == {} and found.mean.other == 16 + 15 + 16  # exp, sum, divide


@watches
def test_an_atomic_reads_and_writes():
    found = work(
        Case("total", total, (empty(64, dtype=torch.float32), empty(16, dtype=torch.float32)), {"D": 16}, (4,))
    )
    assert (found.mean.loaded, found.mean.stored, found.mean.atomic) == (64, 0, 64)
    assert found.distinct == 256 + 64 + 64 and found.moved == 4 * (64 + 2 * 64)


@watches
def test_a_count_leaves_the_interpreter_as_it_was():
    from triton.runtime import interpreter

    owners = interpreter.InterpreterBuilder, interpreter.GridExecutor, interpreter.ReduceOps, interpreter.ScanOps
    before = [dict(vars(owner)) for owner in owners]
    work(product())
    with pytest.raises(Exception, match="same dtype"):
        work(replace(product(), args=(empty(16, 32), empty(32, 32, dtype=torch.float32), empty(16, 32), 16)))
    assert [dict(vars(owner)) for owner in owners] == before


@watches
def test_a_few_programs_say_what_all_of_them_do():
    every = {name: next(case for case in cases if "d=128" not in case.name) for name, cases in rooms().items()}
    assert work(every["delta_rule"]).counted == 3
    case = kernels.attention_sinks.CASES[0]
    short = (*case.args[:9], 1024, 4, 256, 0.125)
    short = replace(case, args=short, grid=(16, 1, 1))
    whole, some = work(short, budget=10**6), work(short, budget=300)
    assert (whole.counted, some.counted) == (16, 10)
    assert some.flops == pytest.approx(whole.flops, rel=0.1) and some.moved == pytest.approx(whole.moved, rel=0.1)


def test_a_launch_that_cannot_be_counted_is_refused_in_one_sentence():
    with pytest.raises(ValueError, match="case: multiply has no grid"):
        work(replace(product(), grid=()))


@watches
@pytest.mark.parametrize("room", rooms())
def test_every_kernel_of_the_house_can_be_counted(room):
    functions = {case.kernel: case for case in rooms()[room][::-1]}
    for case in functions.values():
        if room != "factual_recall" or "chosen" in case.name:  # the others take seconds
            found = work(case, budget=1)
            assert found.programs > 1 and found.mean.stored > 0 and 0 < found.distinct <= found.moved


def test_the_roofline_is_flat_where_arithmetic_is_the_bound_and_a_slope_where_memory_is():
    few, many = (softmax(t, 64, 2).land(GPUS["H100"]) for t in (64, 65536))
    assert (few.bound, many.bound) == ("memory", "compute")
    assert many.attainable == pytest.approx(1979e12 / 2) and few.attainable < few.peak
    assert few.attainable == pytest.approx(few.intensity * 3.35e12) == pytest.approx(few.flops / few.seconds)
    assert many.ridge == pytest.approx(989.5e12 / 3.35e12)
    slow = recurrent(64, 64, 2).land(GPUS["A100"])
    assert slow.peak == pytest.approx(19.5e12) and slow.bound == "memory"
    assert delta(64, 64, 4, 16).land(GPUS["A100"]).peak == pytest.approx(156e12 / 3)


@watches
def test_a_counted_launch_lands_where_its_bytes_put_it():
    found = work(product())
    best, worst = land(found, "MI300X"), land(found, "MI300X", cache=False)
    assert best.intensity == found.flops / found.distinct > worst.intensity == found.flops / found.moved
    assert worst.seconds == found.moved / 5.3e12
    with pytest.raises(ValueError, match="gpu: expected one of A100, H100, MI300X, got 'V100'"):
        land(found, "V100")


@watches
@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("t, d, chunk", [(128, 32, 16), (64, 64, 64)])
def test_the_closed_forms_are_what_the_kernels_do(t, d, chunk, size):
    dtype = torch.float16 if size == 2 else torch.float32
    x, kept = empty(t, d, dtype=dtype), torch.empty(d, d, device="meta")
    one = work(Case("step", step, (x[0], x[0], x[0], kept, x[0]), {"D": d}, (1,)))
    assert recurrent(t, d, size).flops == t * one.flops and recurrent(t, d, size).bytes == t * one.distinct
    whole = work(Case("chunks", chunks, (x, x, x, x, t), {"CHUNK": chunk, "D": d}, (1,)), budget=10**6)
    assert sum(chunkwise(t, d, size, chunk).matrix.values()) == sum(whole.matrix.values())
    assert chunkwise(t, d, size, chunk).bytes == whole.distinct

    x4 = [torch.zeros(1, 1, t, d, dtype=dtype) for _ in range(3)]
    counted = counts(lambda: kernels.attention_sinks.sink_attention(*x4, n_sink=0, window=t))
    assert softmax(t, d, size).matrix == counted.matrix
    assert softmax(t, d, size).bytes == counted.distinct - 4  # the sink's logit
    counted = counts(lambda: kernels.delta_rule.delta_rule(*x4, x4[0][..., 0], chunk=chunk))
    assert delta(t, d, size, chunk).matrix == counted.matrix and delta(t, d, size, chunk).bytes == counted.distinct


def counts(form):
    """The launches of a form, counted and added up."""
    with pytest.MonkeyPatch.context() as patch:
        launched = []

        def at_grid(kernel, grid):
            def launch(*args, **options):
                launched.append(Case(kernel.fn.__name__, kernel, args, options, grid))

            return launch

        patch.setattr(triton.runtime.jit.KernelInterface, "__getitem__", at_grid)
        form()
    found = [work(case, budget=10**6) for case in launched]
    matrix = {}
    for one in found:
        for kind, flops in one.matrix.items():
            matrix[kind] = matrix.get(kind, 0.0) + flops
    mean = replace(found[0].mean, matrix=matrix)
    return replace(found[0], programs=1, mean=mean, distinct=sum(one.distinct for one in found))


@watches
def test_programs_that_store_the_same_element_are_found_though_the_result_looks_right():
    x, out = torch.ones(4, 16), torch.zeros(16)
    with trace() as log:
        forgetful_total[(4,)](x, out, 16)
    assert out.tolist() == [4.0] * 16  # one after another, as the interpreter runs them
    stores, loads = races(log)
    assert (
        str(stores)
        == "race on out in forgetful_total: programs (0, 0, 0) and (3, 0, 0) both store element 0 and 15 others"
    )
    assert loads.kind == "one stores, the other loads" and loads.elements == tuple(range(16))


@watches
def test_an_element_that_one_program_stores_and_the_next_loads_is_a_race():
    with trace() as log:
        shifted[(3,)](torch.zeros(49)[:48], 16)
    (found,) = races([access for access in log if len(access.elements)])
    assert found.elements == (16, 32)
    assert str(found).endswith("program (1, 0, 0) stores and program (0, 0, 0) loads element 16 and 1 other")


@watches
def test_atomics_among_themselves_are_no_race_and_with_a_store_they_are():
    x, out = torch.ones(4, 16), torch.zeros(16)
    with trace() as log:
        total[(4,)](x, out, 16)
    assert out.tolist() == [4.0] * 16 and races(log) == []
    mixed = [replace(a, kind="store") if a.kind == "atomic" and a.program[0] == 2 else a for a in log]
    assert [race.kind for race in races(mixed)] == ["one atomic, the other not"]


@watches
def test_launches_one_after_another_do_not_race():
    x, y = torch.ones(1, 16), torch.zeros(16)
    with trace() as log:
        for _ in range(2):
            forgetful_total[(1,)](x, y, 16)
    assert {access.launch for access in log} == {0, 1} and races(log) == []


@watches
def test_the_kernels_of_the_house_have_no_races():
    q, k, v, w = (torch.rand(2, 2, 70, 16, requires_grad=True) for _ in range(4))
    with trace() as log:
        out = kernels.attention_sinks.sink_attention(q, k, v, n_sink=3, window=20, block_q=16, block_k=16)
        more, state = kernels.delta_rule.delta_rule(q, k, v, w[..., 0], chunk=32)
        text, _ = kernels.flow_attention.causal_flow_attention(q, k, v, chunk=32)
        whole = kernels.flow_attention.flow_attention(q, k[:, :, :50], v[:, :, :50])
        (out.sum() + more.sum() + state.sum() + text.sum() + whole.sum()).backward()
    x, gain, W = torch.rand(70, 16, requires_grad=True), torch.ones(16), torch.rand(90, 16)
    with trace() as further:
        kernels.factual_recall.logit_lens(x, gain, W, torch.zeros(70, 2).int(), eps=1e-5, block=16).lse.sum().backward()
        pieces = kernels.linear_interpreters.record(torch.rand(3, 4, 100))
        kernels.linear_interpreters.replay(torch.rand(3, 4, 100), pieces, torch.zeros(1), offset=True)
    assert len({access.kernel for access in [*log, *further]}) == len({c.kernel for cs in rooms().values() for c in cs})
    assert [str(race) for race in [*races(log), *races(further)]] == []


def report(**numbers):
    start = dict(registers=32, spills=0, stack=0, shared=0, tensor_core=0, loads=1, stores=1, instructions=9, binary=9)
    return Report("made up", **{"target": "sm_90", "warps": 4, **start, **numbers})


@pytest.mark.parametrize(
    "numbers, occupancy, limit",
    [
        ({}, 1.0, "warps"),
        ({"warps": 1}, 0.5, "blocks"),  # 32 blocks of one warp
        ({"registers": 33}, 0.75, "registers"),  # 40 a lane: 12 warps in each part
        ({"registers": 255}, 0.125, "registers"),
        ({"registers": 255, "warps": 8}, 0.125, "registers"),
        ({"shared": 75 * 1024}, 3 * 4 / 64, "shared memory"),  # 76 KiB each of 228
        ({"shared": 75 * 1024 + 1}, 2 * 4 / 64, "shared memory"),
        ({"target": "sm_80", "shared": 81 * 1024}, 2 * 4 / 64, "shared memory"),
        ({"target": "gfx942", "registers": 512}, 0.125, "registers"),
        ({"target": "gfx942", "registers": 129}, 3 / 8, "registers"),
        ({"target": "gfx942", "shared": 40000}, 1 / 8, "shared memory"),
    ],
)
def test_occupancy_goes_by_the_published_rules_and_says_what_limits_it(numbers, occupancy, limit):
    assert (report(**numbers).occupancy, report(**numbers).limit) == (occupancy, limit)


def test_amd_registers_allow_as_many_waves_as_its_compiler_says():
    for case in (kernels.attention_sinks.CASES[0], kernels.delta_rule.CASES[6]):
        says = int(re.search(r"; Occupancy: (\d+)", compile_ahead(case, "gfx942").asm["amdgcn"])[1])
        seen = compile_report(case, "gfx942")
        assert seen.limit == "registers" and seen.resident["registers"] == 4 * says // seen.warps


@watches
def test_what_spilling_costs_is_every_threads_bytes_beside_the_useful_ones():
    case = kernels.delta_rule.case(kernels.delta_rule.delta_outputs, torch.float16, 64)
    counted = work(case)
    cramped = compile_report(replace(case, options={**case.options, "maxnreg": 64}), "sm_80")
    assert cramped.spills > 0 and cramped.spill_loads > 0
    cost = spilling(cramped, counted)
    assert (cost.stored, cost.loaded) == (128 * cramped.spills, 128 * cramped.spill_loads)
    assert cost.share == (cost.stored + cost.loaded) / counted.mean.moved
    assert str(cost).startswith(
        f"a program writes {128 * cramped.spills:,} bytes of registers to local memory and reads"
    )
    assert str(spilling(compile_report(case, "sm_80"), counted)) == "no register is spilled"
    amd = spilling(report(target="gfx942", spills=4, spill_loads=8), counted)
    assert (amd.stored, amd.loaded) == (4 * 256, 8 * 256)


def test_every_room_with_cases_is_found_and_every_case_says_its_grid():
    found = rooms()
    assert {"attention_sinks", "delta_rule", "factual_recall", "flow_attention", "linear_interpreters"} <= set(found)
    assert all(case.grid for cases in found.values() for case in cases)


@watches
def test_the_listing_has_two_tables_that_fit_the_window():
    lines = list(listing("linear_interpreters", ["sm_90"], "bfloat16"))
    text = "\n".join(lines)
    assert [word in text for word in ("machine code", "limited-by", "roofline", "nothing timed")] == [True] * 4
    rows = [line for line in text.splitlines() if line.startswith("gate_")]
    assert [row.split()[0] for row in rows] == ["gate_record", "gate_replay"] * 2
    assert all("H100" in row and "memory" in row for row in rows[2:])
    longest = list(listing("delta_rule", ["gfx942"], "delta_backward_outputs bfloat16 d=128"))
    assert max(map(len, "\n".join([text, *longest]).splitlines())) <= 120


def test_a_listing_of_what_does_not_exist_is_refused_before_anything_is_compiled():
    for arguments, said in (
        (("nowhere",), "room: expected one of attention_sinks, .*got 'nowhere'"),
        (("delta_rule", ["sm_42"]), "target: expected one of sm_80, .*got 'sm_42'"),
        (("delta_rule", ["sm_80"], "d=7"), "only: no case of delta_rule has 'd=7' in its name"),
    ):
        with pytest.raises(ValueError, match=said):
            next(iter(listing(*arguments)))


@watches
def test_the_kept_tiles_are_those_that_the_kernels_visit_today():
    assert json.loads(FILE.read_text(encoding="utf8")) == traced()


def test_without_triton_the_pictures_are_there_and_the_rest_says_why_not():
    program = (
        "import importlib.util as u; real = u.find_spec;"
        "u.find_spec = lambda name, *a: None if name.split('.')[0] == 'triton' else real(name, *a);"
        "import sys; sys.modules['triton'] = None;"
        "from labkit import kernel_lab; kernel_lab.explore(); kernel_lab.explore_roofline();"
        "from labkit.kernel_lab import trace"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stderr.strip().splitlines()[-1].startswith("ImportError: Triton is not available on this platform")
