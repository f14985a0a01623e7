"""The delta-rule kernels: equal to the definition, compiled for four GPUs, differentiated right."""

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from kernel_proofs import DEVICE, EXACT, GPU, TOLERANCE, assert_same_launch, gradients, hostile, recorded, worst

import kernels
from labkit import delta_rule


def inputs(b, h, t, d_k, d_v, dtype=EXACT, seed=0):
    """q, k, v, beta and a state, with the strides that a projection split into heads has; unit keys, beta in [0, 2]."""
    draw = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(shape, generator=draw, dtype=torch.float64)

    q, k, v = normal(b, t, h, d_k), normal(b, t, h, d_k), normal(b, t, h, d_v)
    k = k / k.norm(dim=-1, keepdim=True)
    beta = 2 * torch.rand(b, h, t, generator=draw, dtype=torch.float64)
    state = normal(b, h, d_k, d_v).to(DEVICE, torch.promote_types(dtype, torch.float32))
    return [*(x.to(DEVICE, dtype).transpose(1, 2) for x in (q, k, v)), beta.to(DEVICE, dtype), state]


def exactly(x):
    """The definition in float64: (out, state)."""
    q, k, v, beta, state = (a.double() for a in x)
    return delta_rule.recurrent(q, k, v, beta, state=state)


def kernel(q, k, v, beta, state=None, **options):
    return kernels.delta_rule.delta_rule(q, k, v, beta, state, **{"chunk": 16, **options})


SHAPES = {  # b, h, t, d_k, d_v, chunk
    "ragged": (1, 2, 50, 16, 16, 16),
    "rectangular heads, not powers of two": (2, 1, 37, 20, 5, 16),
    "one token": (2, 1, 1, 16, 16, 16),
    "empty": (1, 2, 0, 16, 16, 16),
    "no heads": (1, 0, 5, 16, 16, 16),
    "shorter than a chunk": (1, 1, 20, 16, 16, 64),
    "the text ends with a chunk": (1, 1, 64, 16, 16, 32),
    "several blocks of columns": (1, 1, 33, 8, 70, 32),
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_it_and_all_its_gradients_equal_the_definition(shape):
    *sizes, chunk = shape
    x = [a.requires_grad_() for a in inputs(*sizes)]
    d_out, d_state = torch.randn_like(x[2]), torch.randn_like(x[4])
    with hostile():
        out, state = kernel(*x, chunk=chunk)
        got = gradients((out * d_out).sum() + (state * d_state).sum(), x)
    assert (out.dtype, state.dtype) == (EXACT, EXACT)
    wanted, last = exactly(x)
    assert worst(out, wanted) < 10 * TOLERANCE[EXACT]
    assert worst(state, last) < 10 * TOLERANCE[EXACT]
    exact = gradients((wanted * d_out).sum() + (last * d_state).sum(), x)
    for name, ours, autograd in zip(("q", "k", "v", "beta", "state"), got, exact, strict=True):
        assert worst(ours, autograd) < 100 * TOLERANCE[EXACT] * max(
            1, autograd.abs().max() if autograd.numel() else 0
        ), name


@settings(max_examples=12, deadline=None, derandomize=True, phases=[Phase.generate])  # shrinking takes minutes
@given(
    st.tuples(st.integers(1, 2), st.integers(1, 2), st.integers(0, 70), st.integers(1, 20), st.integers(1, 40)),
    st.sampled_from([16, 32, 64]),
    st.sampled_from([None, 0.0, 0.7]),
    st.booleans(),
)
def test_it_equals_the_definition_whatever_the_shape(shape, chunk, scale, with_state):
    q, k, v, beta, state = inputs(*shape, seed=shape[2])
    state = state if with_state else None
    with hostile():
        out, last = kernel(q, k, v, beta, state, chunk=chunk, scale=scale)
    wanted, exact = delta_rule.recurrent(q, k, v, beta, state=state, scale=scale)
    assert worst(out, wanted) < 10 * TOLERANCE[EXACT]
    assert worst(last, exact) < 10 * TOLERANCE[EXACT]


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, *([torch.bfloat16] if GPU else [])], ids=str)
def test_half_and_single_precision_stay_near_float64_and_keep_their_dtype(dtype):
    x = [a.requires_grad_() for a in inputs(1, 1, 40, 16, 16, dtype)]
    with hostile():
        out, state = kernel(*x)
        got = gradients(out.sum() + state.sum(), x)
    assert (out.dtype, state.dtype) == (dtype, torch.float32)
    wanted, last = exactly(x)
    exact = gradients(wanted.sum() + last.sum(), x)
    for ours, theirs in zip((out, state, *got), (wanted, last, *exact), strict=True):
        assert worst(ours, theirs) < 2 * TOLERANCE[dtype] * max(1, theirs.abs().max())
    assert [g.dtype for g in got] == [dtype] * 4 + [torch.float32]


def test_the_state_is_summed_in_float32():
    t = 512  # tokens that each add 2e-3 to a state of 1: in float16, whose steps there are 1e-3, half would be lost
    k = torch.zeros(1, 1, t, 16, dtype=torch.float16, device=DEVICE)
    k[..., 0] = 0.05
    v = torch.ones_like(k)
    beta = torch.ones(1, 1, t, dtype=torch.float16, device=DEVICE)
    x = [k, k, v, beta, torch.zeros(1, 1, 16, 16, device=DEVICE)]
    assert worst(kernel(*x)[1], exactly(x)[1]) < 2e-2 * float(exactly(x)[1].max())


def test_keys_written_again_and_again_do_not_spoil_the_inverse():
    """All keys alike is the worst case of (I + M)⁻¹: the powers of M that a series would add reach 1e17."""
    q, _, v, _, state = inputs(1, 1, 64, 16, 16, torch.float32)
    k = torch.zeros_like(q)
    k[..., 3] = 1
    x = [q, k, v, torch.ones(1, 1, 64, device=DEVICE), state]
    assert worst(kernel(*x, chunk=64)[0], exactly(x)[0]) < 1e-4


@pytest.mark.parametrize("cut", [1, 15, 16, 29])
def test_a_sequence_cut_anywhere_continues_unchanged(cut):
    q, k, v, beta, state = inputs(1, 2, 40, 16, 16)
    whole, last = kernel(q, k, v, beta, state)
    left, between = kernel(*(x[:, :, :cut] for x in (q, k, v, beta)), state)
    right, end = kernel(*(x[:, :, cut:] for x in (q, k, v, beta)), between)
    assert worst(torch.cat([left, right], 2), whole) < 10 * TOLERANCE[EXACT]
    assert worst(end, last) < 10 * TOLERANCE[EXACT]


def test_tensors_whose_last_dimension_is_strided_are_read_as_they_are():
    q, k, v, beta, state = inputs(1, 2, 20, 16, 16)
    turned = [x.mT.contiguous().mT for x in (q, k, v)]
    assert torch.equal(kernel(*turned, beta, state)[0], kernel(q, k, v, beta, state)[0])


def test_two_backward_passes_give_the_same_bits():
    x = [a.requires_grad_() for a in inputs(1, 2, 40, 16, 16)]
    runs = [torch.autograd.grad(kernel(*x)[0].sum(), x) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_a_second_derivative_is_refused_and_not_wrong():
    x = [a.requires_grad_() for a in inputs(1, 1, 5, 16, 16)]
    with pytest.raises(RuntimeError, match="use the recurrent form for a second"):
        torch.autograd.grad(kernel(*x)[0].sum(), x[0], create_graph=True)


@pytest.mark.skipif(kernels.WHERE == "compiled", reason="a trace watches the interpreter, and a GPU runs compiled code")
def test_accesses_grow_as_t_forward_and_backward():
    from labkit.kernel_lab import trace

    def accesses(t):
        x = [a.requires_grad_() for a in inputs(1, 1, t, 16, 16)]
        with trace() as log:
            out, state = kernel(*x)
            (out.sum() + state.sum()).backward()
        return {fn.__name__: sum(a.kernel == fn.__name__ for a in log) for fn in module().FORWARD + module().BACKWARD}

    one, two, four = accesses(32), accesses(64), accesses(128)
    assert all(one.values())
    for name in one:
        assert four[name] - two[name] == 2 * (two[name] - one[name]), name


def module():
    return kernels.delta_rule


NAMES = [fn.__name__ for fn in (*module().FORWARD, *module().BACKWARD)] if kernels.WHERE != "nowhere" else []


@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100", "gfx942"])
@pytest.mark.parametrize("name", NAMES)
def test_it_compiles_without_spills_and_multiplies_on_tensor_cores(name, target):
    from labkit.kernel_lab import compile_report

    case = next(case for case in module().CASES if case.name == f"{name} bfloat16 d=64")
    report = compile_report(case, target)
    assert report.spills == 0, report
    assert report.stack == 0, report
    assert report.tensor_core > 0, report


@pytest.mark.parametrize("name", NAMES)
def test_heads_of_128_do_not_spill_either(name):
    from labkit.kernel_lab import compile_report

    case = next(case for case in module().CASES if case.name == f"{name} bfloat16 d=128")
    assert compile_report(case, "sm_90").spills == 0


@pytest.mark.skipif(kernels.WHERE == "nowhere", reason="Triton does not exist on this platform")
def test_the_exhibit_of_the_lesson_two_warps_spill_in_the_peers_kernel_and_four_do_not():
    from labkit.kernel_lab import compile_report

    two, four = (compile_report(delta_rule.peer_case(num_warps), "sm_90") for num_warps in (2, 4))
    assert (two.warps, four.warps) == (2, 4)
    assert two.spills > 0 == four.spills and two.registers == 255


def test_a_case_compiles_what_a_launch_launches(monkeypatch):
    launched = recorded(monkeypatch)
    x = [a.requires_grad_() for a in inputs(1, 8, 4096, 64, 64, torch.float16)]
    kernel(*x, chunk=64)[0].sum().backward()
    cases = {case.name: case for case in module().CASES}
    assert set(launched) == set(NAMES)
    for name, launch in launched.items():
        assert_same_launch(launch, cases[f"{name} float16 d=64"])


Q, BETA = torch.zeros(1, 2, 3, 4), torch.zeros(1, 2, 3)
BAD = {
    "q: expected a float tensor": ((Q[0], Q[0], Q[0], BETA), {}),
    "k: expected (b h t d_k)": ((Q, Q[:, :, :2], Q, BETA), {}),
    "v: expected (b h t d_v)": ((Q, Q, Q[:, :1], BETA), {}),
    "v: expected torch.float32": ((Q, Q, Q.half(), BETA), {}),
    "beta: expected (b h t) = (1, 2, 3), got (1, 3, 2): did you mean beta.transpose(1, 2)?": ((Q, Q, Q, BETA.mT), {}),
    "state: expected (b h d_k d_v) = (1, 2, 4, 4)": ((Q, Q, Q, BETA, Q), {}),
    "chunk: expected a power of two": ((Q, Q, Q, BETA), {"chunk": 48}),
    "chunk: expected a power of two from 16 to 1024, got 8": ((Q, Q, Q, BETA), {"chunk": 8}),
    "chunk: expected a power of two from 16 to 1024, got 2048": ((Q, Q, Q, BETA), {"chunk": 2048}),
    "chunk: expected an integer": ((Q, Q, Q, BETA), {"chunk": 16.0}),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_refused_by_name(what):
    arguments, options = BAD[what]
    with pytest.raises((ValueError, TypeError)) as refusal:
        kernel(*arguments, **options)
    assert str(refusal.value).startswith(what)
    assert "\n" not in str(refusal.value)


@pytest.mark.skipif(kernels.WHERE == "compiled", reason="on a GPU bfloat16 is right")
def test_bfloat16_is_refused_where_the_interpreter_is_wrong():
    q, k, v, beta, _ = inputs(1, 1, 4, 16, 16)
    with pytest.raises(TypeError, match=r"q: bfloat16 is silently wrong .* pass q.half\(\) or q.float\(\)"):
        kernel(q.bfloat16(), k.bfloat16(), v.bfloat16(), beta.bfloat16())
