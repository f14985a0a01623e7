"""The attention-sinks kernel: equal to its definition, compiled for four GPUs, differentiated right."""

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from kernel_proofs import DEVICE, EXACT, GPU, TOLERANCE, assert_same_launch, gradients, hostile, recorded, worst

import kernels

SMALL = {"block_q": 16, "block_k": 16}


def definition(q, k, v, n_sink, window, scale=None, sink_logits=None):
    """Softmax over the visible keys and the sink logit, in float64, one query at a time."""
    q, k, v = q.double(), k.double(), v.double()
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    out = []
    for i in range(q.shape[2]):
        seen = [j for j in range(i + 1) if j < n_sink or i - j <= window]
        logits = (k[:, :, seen] @ q[:, :, i, :, None])[..., 0] * scale
        if sink_logits is not None:
            logits = torch.cat([logits, sink_logits.double()[None, :, None].expand(*logits.shape[:2], 1)], -1)
        weights = logits.softmax(-1)[..., : len(seen)]
        out.append((weights[..., None] * v[:, :, seen]).sum(2))
    return torch.stack(out, 2) if out else v.clone()


def inputs(b, h, t, d_k, d_v, dtype=EXACT, seed=0):
    """q, k, v with the strides that a projection split into heads has."""
    draw = torch.Generator().manual_seed(seed)
    shapes = ((b, t, h, d_k), (b, t, h, d_k), (b, t, h, d_v))
    return [torch.randn(s, generator=draw, dtype=torch.float64).to(DEVICE, dtype).transpose(1, 2) for s in shapes]


def kernel(q, k, v, **options):
    return kernels.attention_sinks.sink_attention(q, k, v, **{**SMALL, **options})


SHAPES = {  # b, h, t, d_k, d_v, n_sink, window
    "ragged": (1, 2, 50, 16, 16, 3, 7),
    "rectangular heads, not powers of two": (1, 1, 37, 20, 5, 2, 9),
    "one token": (2, 1, 1, 16, 16, 4, 4),
    "empty": (1, 2, 0, 16, 16, 4, 4),
    "no heads": (1, 0, 5, 16, 16, 4, 4),
    "only itself": (1, 1, 33, 16, 16, 0, 0),
    "only a window": (1, 1, 40, 16, 16, 0, 18),
    "only sinks and itself": (1, 1, 40, 16, 16, 5, 0),
    "sinks over several blocks, overlapping the band": (1, 1, 90, 16, 16, 40, 9),
    "everything is a sink": (1, 1, 40, 16, 16, 10**9, 0),
    "the window is the whole text": (1, 1, 40, 16, 16, 1, 10**9),
    "the text ends with a block": (1, 1, 48, 16, 16, 1, 16),
}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_it_equals_the_definition(shape):
    b, h, t, d_k, d_v, n_sink, window = shape
    q, k, v = inputs(b, h, t, d_k, d_v)
    z = torch.linspace(-1, 2, h, dtype=EXACT, device=DEVICE)
    for sink_logits in (None, z):
        with hostile():
            out = kernel(q, k, v, n_sink=n_sink, window=window, sink_logits=sink_logits)
        assert out.dtype == EXACT
        assert worst(out, definition(q, k, v, n_sink, window, sink_logits=sink_logits)) < TOLERANCE[EXACT]


@settings(max_examples=12, deadline=None, derandomize=True, phases=[Phase.generate])  # shrinking takes minutes
@given(
    st.tuples(st.integers(1, 2), st.integers(1, 2), st.integers(0, 45), st.integers(1, 20), st.integers(1, 20)),
    st.integers(0, 40),
    st.integers(0, 40),
    st.sampled_from([None, 0.0, 0.7]),
    st.sampled_from([(16, 16), (16, 32), (32, 16)]),
)
def test_it_equals_the_definition_and_its_gradients_whatever_the_shape(shape, n_sink, window, scale, blocks):
    q, k, v = (x.requires_grad_() for x in inputs(*shape, seed=n_sink))
    z = torch.zeros(shape[1], dtype=EXACT, device=DEVICE, requires_grad=True)
    with hostile():
        out = kernel(
            q, k, v, n_sink=n_sink, window=window, scale=scale, sink_logits=z, block_q=blocks[0], block_k=blocks[1]
        )
        got = torch.autograd.grad(out.sin().sum(), (q, k, v, z))
    wanted = definition(q, k, v, n_sink, window, scale, z)
    assert worst(out, wanted) < TOLERANCE[EXACT]
    for ours, autograd in zip(got, gradients(wanted.sin().sum(), (q, k, v, z)), strict=True):
        assert worst(ours, autograd) < 10 * TOLERANCE[EXACT]


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_its_gradients_equal_those_of_autograd_in_float64(shape):
    b, h, t, d_k, d_v, n_sink, window = shape
    q, k, v = (x.requires_grad_() for x in inputs(b, h, t, d_k, d_v))
    z = torch.linspace(-1, 2, h, dtype=EXACT, device=DEVICE).requires_grad_()
    do = inputs(b, h, t, d_v, d_v, seed=7)[0]
    with hostile():
        out = kernel(q, k, v, n_sink=n_sink, window=window, sink_logits=z)
        got = torch.autograd.grad(out, (q, k, v, z), do)
    wanted = gradients((definition(q, k, v, n_sink, window, sink_logits=z) * do).sum(), (q, k, v, z))
    for name, ours, autograd in zip("qkvz", got, wanted, strict=True):
        assert worst(ours, autograd) < 10 * TOLERANCE[EXACT], f"gradient of {name}"


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, *([torch.bfloat16] if GPU else [])], ids=str)
def test_half_and_single_precision_stay_near_float64_and_keep_their_dtype(dtype):
    q, k, v = (x.requires_grad_() for x in inputs(1, 1, 40, 16, 16, dtype))
    with hostile():
        out = kernel(q, k, v, n_sink=2, window=11)
        got = torch.autograd.grad(out.sum(), (q, k, v))
    wanted = definition(q, k, v, 2, 11)
    for ours, exact in zip((out, *got), (wanted, *torch.autograd.grad(wanted.sum(), (q, k, v))), strict=True):
        assert ours.dtype == dtype
        assert worst(ours, exact) < TOLERANCE[dtype]


def test_half_precision_is_accumulated_in_float32():
    t = 640  # Σ p and Σ p v are near 640 and 64, where the steps of float16 are 0.5 and 0.06
    q, k, v = inputs(1, 1, t, 16, 16, torch.float16)
    q, v = 0.1 * q, torch.full_like(v, 0.1)
    out = kernel(q, k, v, n_sink=0, window=t, block_q=1024, block_k=16)
    assert worst(out, v) < 1e-4


def test_tensors_whose_last_dimension_is_strided_are_read_as_they_are():
    q, k, v = (x.mT.contiguous().mT.requires_grad_() for x in inputs(1, 2, 20, 16, 16))
    with hostile():
        out = kernel(q, k, v, n_sink=2, window=4)
        got = torch.autograd.grad((out.mT * 2).sum(), (q, k, v))
    wanted = definition(q, k, v, 2, 4)
    assert worst(out, wanted) < TOLERANCE[EXACT]
    for ours, autograd in zip(got, gradients(2 * wanted.sum(), (q, k, v)), strict=True):
        assert worst(ours, autograd) < 10 * TOLERANCE[EXACT]


def test_a_sequence_of_zero_strides_is_read_as_it_is():
    q, k, v = inputs(1, 3, 20, 16, 16)
    k, v = k[:, :1].expand_as(k), v[:, :1].expand_as(v)  # one head of keys for three heads of queries
    with hostile():
        out = kernel(q, k, v, n_sink=2, window=4)
    assert worst(out, definition(q, k, v, 2, 4)) < TOLERANCE[EXACT]


def test_a_sink_logit_of_minus_infinity_is_no_sink_logit():
    q, k, v = inputs(1, 2, 20, 16, 16)
    nothing = torch.full((2,), -torch.inf, device=DEVICE)
    assert torch.equal(kernel(q, k, v, n_sink=1, window=5, sink_logits=nothing), kernel(q, k, v, n_sink=1, window=5))


def test_a_very_large_sink_logit_takes_all_attention_and_leaves_gradients_finite():
    q, k, v = (x.requires_grad_() for x in inputs(1, 1, 20, 16, 16))
    z = torch.full((1,), 1e4, dtype=EXACT, device=DEVICE, requires_grad=True)
    out = kernel(q, k, v, n_sink=1, window=5, sink_logits=z)
    assert out.abs().max() == 0
    assert all(g.isfinite().all() for g in torch.autograd.grad(out.sum(), (q, k, v, z)))


def test_scores_far_beyond_the_range_of_exp_do_not_overflow():
    q, k, v = inputs(1, 1, 20, 16, 16)
    out = kernel(q * 1e3, k * 1e3, v, n_sink=1, window=5)
    assert worst(out, definition(q * 1e3, k * 1e3, v, 1, 5)) < TOLERANCE[EXACT]


def test_a_token_in_blocks_that_a_query_skips_is_never_read():
    q, k, v = inputs(1, 1, 112, 16, 16)
    clean = kernel(q, k, v, n_sink=2, window=20)
    k[:, :, 40], v[:, :, 40] = torch.nan, torch.nan
    out = kernel(q, k, v, n_sink=2, window=20)
    seen_by = torch.arange(112, device=DEVICE)
    assert out[0, 0, 40:61].isnan().all()
    untouched = (seen_by < 32) | (seen_by >= 80)  # their blocks of 16 hold no query that sees token 40
    assert torch.equal(out[0, 0, untouched], clean[0, 0, untouched])


def test_two_backward_passes_give_the_same_bits():
    q, k, v = (x.requires_grad_() for x in inputs(1, 2, 40, 16, 16))
    runs = [torch.autograd.grad(kernel(q, k, v, n_sink=3, window=9).sum(), (q, k, v)) for _ in range(2)]
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


def test_a_second_derivative_is_refused_and_not_wrong():
    q, k, v = (x.requires_grad_() for x in inputs(1, 1, 5, 16, 16))
    with pytest.raises(RuntimeError, match="use the banded form for a second"):
        torch.autograd.grad(kernel(q, k, v, n_sink=0, window=2).sum(), q, create_graph=True)


@pytest.mark.skipif(kernels.WHERE == "compiled", reason="a trace watches the interpreter, and a GPU runs compiled code")
def test_tiles_visited_grow_as_t_forward_and_backward():
    from labkit.kernel_lab import trace

    def visits(t):
        q, k, v = (x.requires_grad_() for x in inputs(1, 1, t, 16, 16))
        with trace() as log:
            kernel(q, k, v, n_sink=3, window=20).sum().backward()
        return {
            "forward": sum((a.kernel, a.name) == ("sinks_forward", "k") for a in log),
            "backward_q": sum((a.kernel, a.name) == ("sinks_backward_q", "k") for a in log),
            "backward_kv": sum((a.kernel, a.name) == ("sinks_backward_kv", "q") for a in log),
        }

    one, two, four = visits(64), visits(128), visits(256)
    for name in one:
        assert four[name] - two[name] == 2 * (two[name] - one[name]), name


@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100", "gfx942"])
def test_it_compiles_without_spills_and_multiplies_on_tensor_cores(target):
    from labkit.kernel_lab import compile_report

    names = [f"sinks_{part} bfloat16 d=64" for part in ("forward", "backward_q", "backward_kv")]
    cases = {case.name: case for case in kernels.attention_sinks.CASES}
    for name in names:
        report = compile_report(cases[name], target)
        assert report.spills == 0, report
        assert report.stack == 0, report
        assert report.tensor_core > 0, report


def test_a_case_compiles_what_a_launch_launches(monkeypatch):
    module = kernels.attention_sinks
    launched = recorded(monkeypatch)
    q, k, v = (torch.zeros(1, 8, 4096, 64, dtype=torch.float16, device=DEVICE, requires_grad=True) for _ in range(3))
    module.sink_attention(q, k, v, n_sink=4, window=1024).sum().backward()
    cases = {c.name: c for c in module.CASES}
    for part, launch in launched.items():
        assert_same_launch(launch, cases[f"{part} float16 d=64"])
    assert len(launched) == 3


Q = torch.zeros(1, 2, 3, 4)
BAD = {
    "q": ((Q[0], Q[0], Q[0]), {}),
    "k": ((Q, Q[:, :, :2], Q), {}),
    "v": ((Q, Q, Q[:, :1]), {}),
    "v: expected torch.float32": ((Q, Q, Q.half()), {}),
    "q: expected a float tensor": ((Q.int(), Q.int(), Q.int()), {}),
    "n_sink": ((Q, Q, Q), {"n_sink": -1}),
    "window": ((Q, Q, Q), {"window": 2.5}),
    "sink_logits": ((Q, Q, Q), {"sink_logits": torch.zeros(3)}),
    "block_q": ((Q, Q, Q), {"block_q": 48}),
    "block_k": ((Q, Q, Q), {"block_k": 8}),
}


@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_refused_by_name(what):
    tensors, options = BAD[what]
    with pytest.raises((ValueError, TypeError), match=f"^{what}") as refusal:
        kernel(*tensors, **{"n_sink": 1, "window": 1, **options})
    assert "\n" not in str(refusal.value)
