"""The flow-attention kernels: equal to the definition, compiled for four GPUs, differentiated right."""

import math

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from kernel_proofs import DEVICE, EXACT, GPU, TOLERANCE, assert_same_launch, gradients, hostile, recorded, worst

import kernels
from labkit import flow_attention
from labkit.flow_attention import causal


def inputs(b, h, L, S, d_k, d_v, dtype=EXACT, seed=0):
    """q, k and v, with the strides that a projection split into heads has."""
    draw = torch.Generator().manual_seed(seed)
    shapes = (b, L, h, d_k), (b, S, h, d_k), (b, S, h, d_v)
    return [torch.randn(s, generator=draw, dtype=torch.float64).to(DEVICE, dtype).transpose(1, 2) for s in shapes]


def earlier(b, h, d_k, d_v, dtype=EXACT):
    """The state after another text, in the dtype of the sums."""
    x = inputs(b, h, 9, 9, d_k, d_v, torch.float64, seed=7)
    _, state = causal.recurrent(*x)
    return [part.to(torch.promote_types(dtype, torch.float32)) for part in state[1:]]


def exactly(q, k, v, state=None, **options):
    """The causal definition in float64: (out, the parts of the state)."""
    state = None if state is None else causal.State(9, *(x.double() for x in state))
    out, end = causal.recurrent(*(x.double() for x in (q, k, v)), state=state, **options)
    return out, end[1:]


def kernel(q, k, v, state=None, **options):
    first = 0 if state is None else 9
    return module().causal_flow_attention(q, k, v, first, state, **{"chunk": 16, **options})


def module():
    return kernels.flow_attention


def assert_near(got, wanted, tolerance):
    for ours, exact in zip(got, wanted, strict=True):
        if exact.isinf().any():  # log 0, of a text that has not begun
            assert torch.equal(ours.to(exact), exact)
            continue
        assert worst(ours, exact) < tolerance * max(1, float(exact.detach().abs().max()) if exact.numel() else 0)


WHOLE = {  # b, h, L, S, d_k, d_v
    "more sinks than sources, ragged": (1, 2, 130, 70, 16, 16),
    "rectangular heads, not powers of two": (2, 1, 37, 50, 20, 5),
    "one sink": (1, 1, 1, 40, 16, 16),
    "one source": (2, 1, 40, 1, 16, 16),
    "no sinks": (1, 2, 0, 5, 16, 16),
    "no sources": (1, 2, 5, 0, 16, 16),
    "no heads": (1, 0, 5, 5, 16, 16),
    "whole blocks of rows": (1, 1, 64, 128, 16, 16),
    "several blocks of columns": (1, 1, 33, 33, 8, 70),
}


@pytest.mark.parametrize("shape", WHOLE.values(), ids=WHOLE.keys())
@pytest.mark.parametrize("clamp", [1.0, math.inf])
def test_it_and_all_its_gradients_equal_the_definition(shape, clamp):
    x = [a.requires_grad_() for a in inputs(*shape)]
    with hostile():
        out = module().flow_attention(*x, clamp=clamp)
        d_out = torch.randn_like(out)
        got = gradients((out * d_out).sum(), x)
    assert out.dtype == EXACT
    y = [a.double() for a in x]
    wanted = flow_attention.pairwise(*y, clamp=clamp)
    assert_near([out, *got], [wanted, *gradients((wanted * d_out).sum(), x)], 10 * TOLERANCE[EXACT])


CAUSAL = {  # b, h, t, d_k, d_v, chunk
    "ragged": (1, 2, 50, 16, 16, 16),
    "rectangular heads, not powers of two": (2, 1, 37, 20, 5, 16),
    "one token": (2, 1, 1, 16, 16, 16),
    "empty": (1, 2, 0, 16, 16, 16),
    "no heads": (1, 0, 5, 16, 16, 16),
    "shorter than a chunk": (1, 1, 20, 16, 16, 64),
    "the text ends with a chunk": (1, 1, 64, 16, 16, 32),
    "several blocks of columns": (1, 1, 33, 8, 70, 32),
}


@pytest.mark.parametrize("shape", CAUSAL.values(), ids=CAUSAL.keys())
@pytest.mark.parametrize("clamp", [1.0, math.inf])
def test_the_causal_ones_and_all_their_gradients_equal_the_definition(shape, clamp):
    b, h, t, d_k, d_v, chunk = shape
    x = [a.requires_grad_() for a in (*inputs(b, h, t, t, d_k, d_v), *earlier(b, h, d_k, d_v))]
    draw = torch.Generator().manual_seed(3)

    def loss(out, end):
        draw.manual_seed(3)
        return sum((y * torch.randn(y.shape, generator=draw).to(y)).sum() for y in (out, *end))

    with hostile():
        out, end = kernel(*x[:3], x[3:], clamp=clamp, chunk=chunk)
        got = gradients(loss(out, end), x)
    assert out.dtype == EXACT and {part.dtype for part in end} == {EXACT}
    wanted, last = exactly(*x[:3], x[3:], clamp=clamp)
    assert_near([out, *end], [wanted, *last], 10 * TOLERANCE[EXACT])
    assert_near(got, gradients(loss(wanted, last), x), 100 * TOLERANCE[EXACT])


counts = st.integers(0, 70)


@settings(max_examples=10, deadline=None, derandomize=True, phases=[Phase.generate])  # shrinking takes minutes
@given(st.tuples(st.integers(1, 2), st.integers(1, 2), counts, counts, st.integers(1, 20), st.integers(1, 40)))
def test_it_equals_the_definition_whatever_the_shape(shape):
    x = inputs(*shape, seed=shape[2])
    with hostile():
        out = module().flow_attention(*x)
    assert worst(out, flow_attention.pairwise(*(a.double() for a in x))) < 10 * TOLERANCE[EXACT]


@settings(max_examples=10, deadline=None, derandomize=True, phases=[Phase.generate])
@given(
    st.tuples(st.integers(1, 2), st.integers(1, 2), counts, st.integers(1, 20), st.integers(1, 40)),
    st.sampled_from([16, 32, 64]),
    st.booleans(),
)
def test_the_causal_ones_equal_the_definition_whatever_the_shape(shape, chunk, with_state):
    b, h, t, d_k, d_v = shape
    x, state = inputs(b, h, t, t, d_k, d_v, seed=t), earlier(b, h, d_k, d_v) if with_state else None
    with hostile():
        out, end = kernel(*x, state, chunk=chunk)
    wanted, last = exactly(*x, state)
    assert_near([out, *end], [wanted, *last], 10 * TOLERANCE[EXACT])


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, *([torch.bfloat16] if GPU else [])], ids=str)
def test_half_and_single_precision_stay_near_float64_and_keep_their_dtype(dtype):
    x = [a.requires_grad_() for a in (*inputs(1, 1, 40, 40, 16, 16, dtype), *earlier(1, 1, 16, 16, dtype))]
    with hostile():
        out, end = kernel(*x[:3], x[3:])
        got = gradients(out.sum() + sum(part.sum() for part in end), x)
    assert out.dtype == dtype and {part.dtype for part in end} == {torch.float32}
    assert [g.dtype for g in got] == [dtype] * 3 + [torch.float32] * 6
    wanted, last = exactly(*x[:3], x[3:])
    exact = gradients(wanted.sum() + sum(part.sum() for part in last), x)
    assert_near([out, *end, *got], [wanted, *last, *exact], 2 * TOLERANCE[dtype])

    x = [a.requires_grad_() for a in inputs(1, 1, 40, 30, 16, 16, dtype)]
    with hostile():
        out = module().flow_attention(*x)
        got = gradients(out.sum(), x)
    assert [out.dtype, *(g.dtype for g in got)] == [dtype] * 4
    wanted = flow_attention.pairwise(*(a.double() for a in x))
    assert_near([out, *got], [wanted, *gradients(wanted.sum(), x)], 2 * TOLERANCE[dtype])


def test_sums_over_a_long_text_do_not_overflow_half_precision():
    """4,096 tokens whose features and values are 1 and 30: the memory is 1e5, above what float16 holds."""
    x = [torch.full((1, 1, 4096, 16), value, dtype=torch.float16, device=DEVICE) for value in (9.0, 9.0, 30.0)]
    out, end = kernel(*x, chunk=128)
    assert end[5].max() > 65504
    assert worst(out[:, :, -1], exactly(*(a[:, :, :64] for a in x))[0][:, :, -1]) < 0.2  # of 22


@pytest.mark.parametrize("cut", [1, 15, 16, 29])
def test_a_sequence_cut_anywhere_continues_unchanged(cut):
    x = inputs(1, 2, 40, 40, 16, 16)
    whole, last = kernel(*x)
    left, between = kernel(*(a[:, :, :cut] for a in x))
    right, end = module().causal_flow_attention(*(a[:, :, cut:] for a in x), cut, between, chunk=16)
    assert_near([torch.cat([left, right], 2), *end], [whole, *last], 10 * TOLERANCE[EXACT])


def test_tensors_whose_last_dimension_is_strided_are_read_as_they_are():
    x = inputs(1, 2, 20, 20, 16, 16)
    turned = [a.mT.contiguous().mT for a in x]
    assert torch.equal(kernel(*turned)[0], kernel(*x)[0])
    assert torch.equal(module().flow_attention(*turned), module().flow_attention(*x))


def test_two_backward_passes_give_the_same_bits():
    x = [a.requires_grad_() for a in inputs(1, 2, 40, 40, 16, 16)]
    for form in (lambda: kernel(*x)[0], lambda: module().flow_attention(*x)):
        runs = [torch.autograd.grad(form().sum(), x) for _ in range(2)]
        assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_a_second_derivative_is_refused_and_not_wrong():
    x = [a.requires_grad_() for a in inputs(1, 1, 5, 5, 16, 16)]
    for form in (lambda: kernel(*x)[0], lambda: module().flow_attention(*x)):
        with pytest.raises(RuntimeError, match="use another form for a second"):
            torch.autograd.grad(form().sum(), x[0], create_graph=True)


@pytest.mark.skipif(kernels.WHERE == "compiled", reason="a trace watches the interpreter, and a GPU runs compiled code")
def test_accesses_grow_as_t_forward_and_backward():
    from labkit.kernel_lab import trace

    def accesses(t):
        x = [a.requires_grad_() for a in inputs(1, 1, t, t, 16, 16)]
        with trace() as log:
            out, end = kernel(*x, chunk=64)
            (out.sum() + module().flow_attention(*x).sum() + end[5].sum()).backward()
        return {name: sum(a.kernel == name for a in log) for name in NAMES}

    one, two, four = accesses(64), accesses(128), accesses(256)
    assert all(one.values())
    for name in NAMES:
        assert four[name] - two[name] == 2 * (two[name] - one[name]), name


NAMES = [fn.__name__ for fn in module().WHOLE + module().CAUSAL] if kernels.WHERE != "nowhere" else []
OF_VECTORS = {"flow_sums", "flow_pour", "flow_dots", "flow_backward_flows"}  # multiply no matrices


@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100", "gfx942"])
@pytest.mark.parametrize("name", NAMES)
def test_it_compiles_without_spills_and_multiplies_on_tensor_cores(name, target):
    from labkit.kernel_lab import compile_report

    case = next(case for case in module().CASES if case.name == f"{name} bfloat16 d=64")
    report = compile_report(case, target)
    assert report.spills == 0, report
    assert report.stack == 0, report
    assert (report.tensor_core > 0) == (name not in OF_VECTORS), report


@pytest.mark.parametrize("name", NAMES)
def test_heads_of_128_do_not_spill_either(name):
    from labkit.kernel_lab import compile_report

    case = next(case for case in module().CASES if case.name == f"{name} bfloat16 d=128")
    assert compile_report(case, "sm_90").spills == 0


def test_a_case_compiles_what_a_launch_launches(monkeypatch):
    launched = recorded(monkeypatch)
    x = [a.requires_grad_() for a in inputs(1, 8, 4096, 4096, 64, 64, torch.float16)]
    (kernel(*x, chunk=64)[0].sum() + module().flow_attention(*x).sum()).backward()
    cases = {case.name: case for case in module().CASES}
    assert set(launched) == set(NAMES)
    for name, launch in launched.items():
        assert_same_launch(launch, cases[f"{name} float16 d=64"])


Q = torch.zeros(1, 2, 3, 4)
BAD = {
    "q: expected a float tensor": ((Q[0], Q[0], Q[0]), {}),
    "k: expected (b h t d_k)": ((Q, Q[:, :, :2], Q), {}),
    "v: expected (b h t d_v)": ((Q, Q, Q[:, :1]), {}),
    "v: expected torch.float32": ((Q, Q, Q.half()), {}),
    "q: expected float16, bfloat16, float32 or float64 and d >= 1": ((Q[..., :0], Q[..., :0], Q), {}),
    "state[0]: expected (1, 2, 4), got (1, 2, 3, 4)": ((Q, Q, Q, [Q] * 6), {}),
    "chunk: expected a power of two from 16 to 128, got 48": ((Q, Q, Q), {"chunk": 48}),
    "chunk: expected a power of two from 16 to 128, got 256": ((Q, Q, Q), {"chunk": 256}),
    "chunk: expected an integer": ((Q, Q, Q), {"chunk": 16.0}),
    "clamp: expected a number": ((Q, Q, Q), {"clamp": None}),
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
    x = [a.bfloat16() for a in inputs(1, 1, 4, 4, 16, 16)]
    for form in (kernel, module().flow_attention):
        with pytest.raises(TypeError, match=r"q: bfloat16 is silently wrong .* pass q.half\(\) or q.float\(\)"):
            form(*x)
