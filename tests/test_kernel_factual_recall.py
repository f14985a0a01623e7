"""The logit lens kernel and its torch twin: equal to the definition, compiled for four GPUs, differentiated right."""

import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from kernel_proofs import DEVICE, EXACT, GPU, TOLERANCE, Watch, assert_same_launch, gradients, hostile, recorded, worst

import kernels

EPS = 1e-5
SHAPES = {  # n, d, vocab, m
    "ragged": (5, 20, 50, 2),
    "several blocks of rows and of tokens": (70, 16, 1000, 3),
    "the width of SmolLM2": (3, 576, 50, 5),
    "no rows": (0, 16, 7, 1),
    "nothing chosen": (4, 16, 50, 0),
    "one row": (1, 20, 1000, 4),
    "a vocabulary of one": (5, 16, 1, 2),
    "a vocabulary of seven": (5, 576, 7, 1),
    "whole blocks": (64, 32, 128, 1),
}


def module():
    return kernels.factual_recall


def twin(x, gain, W, ids, block=16):
    return module().logit_lens_torch(x, gain, W, ids, eps=EPS, rows=32, block=block + 3)


def kernel(x, gain, W, ids, block=64):
    with hostile():
        return module().logit_lens(x, gain, W, ids, eps=EPS, block=block)


FORMS = pytest.mark.parametrize("form", [kernel, twin], ids=["kernel", "torch"])


def definition(x, gain, W, ids, eps=EPS):
    """All logits in float64, then their statistics: lse, logits, rank, top, top_logit."""
    x, gain, W = x.double(), gain.double(), W.double()
    s = x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * gain @ W.T
    chosen = s.gather(1, ids.long())
    return s.logsumexp(-1), chosen, (s[:, None] > chosen[..., None]).sum(-1), s.argmax(-1), s.amax(-1)


def inputs(n, d, vocab, m, dtype=EXACT, seed=0):
    """Residuals, gain, unembedding and ids, of which some come twice in a row."""
    draw = torch.Generator().manual_seed(seed)
    x, gain, W = (torch.randn(s, generator=draw, dtype=torch.float64) for s in ((n, d), (d,), (vocab, d)))
    ids = torch.randint(vocab, (n, m), generator=draw)
    if m > 1:
        ids[::2, -1] = ids[::2, 0]
    return *((3 * x).to(DEVICE, dtype), (1 + gain / 4).to(DEVICE, dtype), W.to(DEVICE, dtype)), ids.to(DEVICE)


def assert_near(got, wanted, tolerance):
    for name, ours, exact in zip(got._fields, got, wanted, strict=True):
        if exact.is_floating_point():
            assert worst(ours, exact) <= tolerance * max(1, worst(exact, torch.zeros_like(exact))), name
        else:
            assert ours.dtype == torch.int64 and torch.equal(ours, exact), name


@FORMS
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_it_equals_the_definition(form, shape):
    given = inputs(*shape)
    out = form(*given)
    assert {out.lse.dtype, out.logits.dtype, out.top_logit.dtype} == {EXACT}
    assert_near(out, definition(*given), TOLERANCE[EXACT])


@settings(max_examples=12, deadline=None, derandomize=True, phases=[Phase.generate])  # shrinking takes minutes
@given(
    st.tuples(st.integers(0, 40), st.integers(1, 40), st.integers(1, 90), st.integers(0, 5)),
    st.sampled_from([16, 32, 64]),
    st.integers(0, 1000),
)
def test_they_equal_the_definition_and_its_gradients_whatever_the_shape(shape, block, seed):
    x, gain, W, ids = inputs(*shape, seed=seed)
    x.requires_grad_(), gain.requires_grad_()
    wanted = definition(x, gain, W, ids)
    exact = gradients(wanted[0].sin().sum() + wanted[1].cos().sum(), (x, gain))
    for form in (kernel, twin):
        out = form(x, gain, W, ids, block)
        assert_near(out, wanted, 4 * TOLERANCE[EXACT])
        with hostile():
            got = gradients(out.lse.sin().sum() + out.logits.cos().sum(), (x, gain))
        for ours, autograd in zip(got, exact, strict=True):
            assert worst(ours, autograd) < 100 * TOLERANCE[EXACT]


@FORMS
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_the_gradients_of_log_probabilities_equal_those_of_autograd_in_float64(form, shape):
    x, gain, W, ids = inputs(*shape)
    x.requires_grad_(), gain.requires_grad_()
    weights = torch.linspace(-1, 1, ids.numel(), dtype=EXACT, device=DEVICE).view(ids.shape)
    out, wanted = form(x, gain, W, ids), definition(x, gain, W, ids)
    with hostile():
        got = gradients(((out.logits - out.lse[:, None]) * weights).sum() + out.lse.sum(), (x, gain))
    exact = gradients(((wanted[1] - wanted[0][:, None]) * weights).sum() + wanted[0].sum(), (x, gain))
    for name, ours, autograd in zip(("x", "gain"), got, exact, strict=True):
        assert worst(ours, autograd) < 20 * TOLERANCE[EXACT], name


def test_the_twin_has_the_gradient_of_the_unembedding_and_a_second_derivative():
    x, gain, W, ids = (a.requires_grad_() if a.is_floating_point() else a for a in inputs(5, 8, 50, 2))
    out, wanted = twin(x, gain, W, ids), definition(x, gain, W, ids)
    first, exact = (torch.autograd.grad(o[0].sum() + o[1].sum(), (x, W), create_graph=True) for o in (out, wanted))
    for ours, autograd in zip(first, exact, strict=True):
        assert worst(ours, autograd) < 20 * TOLERANCE[EXACT]
    second, exact = (torch.autograd.grad(dx.sin().sum(), x)[0] for dx in (first[0], exact[0]))
    assert worst(second, exact) < 100 * TOLERANCE[EXACT]


@FORMS
def test_a_lone_gradient_is_that_of_its_own_output(form):
    """Whoever differentiates only lse, or only a logit, gets it, and only in what asks for it."""
    x, gain, W, ids = inputs(5, 20, 50, 2)
    x.requires_grad_()
    out, wanted = form(x, gain, W, ids), definition(x, gain, W, ids)
    for part in (0, 1):
        got, exact = (torch.autograd.grad(o[part].sum(), x, retain_graph=True)[0] for o in (out, wanted))
        assert worst(got, exact) < 20 * TOLERANCE[EXACT]
    assert not out.rank.requires_grad and not out.top.requires_grad and not out.top_logit.requires_grad


@FORMS
@pytest.mark.parametrize("size", [1e4, -1e4])
def test_extreme_logits_neither_overflow_nor_vanish(form, size):
    x, gain, W, ids = inputs(5, 20, 50, 2)
    x.requires_grad_()
    W = W * size / 10
    out, wanted = form(x, gain, W, ids), definition(x, gain, W, ids)
    assert wanted[1].abs().max() > 1e3
    assert_near(out, wanted, TOLERANCE[EXACT])
    (got,), (exact,) = (gradients(o[0].sum(), (x,)) for o in (out, wanted))
    assert worst(got, exact) < 1e4 * TOLERANCE[EXACT]


@FORMS
def test_gradients_stay_finite_where_every_logit_is_very_negative(form):
    """A token beyond the vocabulary has a logit of 0, which is e^1000 times the others' share."""
    x, gain, W, ids = inputs(5, 20, 50, 2)
    x, W = x.abs().add(1).requires_grad_(), W - 100
    out, wanted = form(x, gain, W, ids), definition(x, gain, W, ids)
    assert wanted[4].max() < -1000
    (got,), (exact,) = (gradients(o[0].sum(), (x,)) for o in (out, wanted))
    assert worst(got, exact) < 1e4 * TOLERANCE[EXACT]


@FORMS
def test_what_ties_with_a_chosen_token_is_not_above_it(form):
    """x of ±1 and an epsilon of 0 make every logit a whole number, which any order of summation finds."""
    draw = torch.Generator().manual_seed(0)
    x = (2 * torch.randint(2, (9, 16), generator=draw) - 1).to(DEVICE, EXACT)
    W = torch.randint(-1, 2, (300, 16), generator=draw).to(DEVICE, EXACT)
    ids = torch.randint(300, (9, 3), generator=draw).to(DEVICE)
    gain = torch.ones(16, dtype=EXACT, device=DEVICE)
    module_form = module().logit_lens if form is kernel else module().logit_lens_torch
    out, wanted = module_form(x, gain, W, ids, eps=0.0), definition(x, gain, W, ids, 0.0)
    assert ((x @ W.T).unique(return_counts=True)[1] > 1).all()
    assert torch.equal(out.rank, wanted[2])
    assert torch.equal(out.top_logit.double(), wanted[4])
    assert torch.equal((x @ W.T).gather(1, out.top[:, None])[:, 0], out.top_logit)


@FORMS
def test_the_first_of_all_that_tie_leads(form):
    x, gain, W, ids = inputs(5, 20, 50, 2)
    out = form(torch.zeros_like(x), gain, W, ids)
    assert out.top.tolist() == [0] * 5 and out.rank.abs().max() == 0
    assert worst(out.lse, torch.full((5,), 50, device=DEVICE).double().log()) < TOLERANCE[EXACT]


@FORMS
@pytest.mark.parametrize("n", [1, 3, 70])
def test_nothing_is_above_the_first_not_even_itself_summed_in_another_order(form, n):
    x, gain, W, ids = inputs(n, 137, 90, 1, torch.float32)
    first = form(x, gain, W, ids).top[:, None]
    out = form(x, gain, W, first)
    assert out.rank.abs().max() == 0
    assert torch.equal(out.top, first[:, 0])


@pytest.mark.parametrize("programs", [1, 2, 3, 10**6])
def test_however_the_vocabulary_is_shared_among_programs_the_result_is_the_same(programs, monkeypatch):
    x, gain, W, ids = inputs(20, 16, 300, 2)
    x.requires_grad_()
    monkeypatch.setattr(module(), "PROGRAMS", programs)
    out = kernel(x, gain, W, ids, block=16)
    wanted = definition(x, gain, W, ids)
    assert_near(out, wanted, TOLERANCE[EXACT])
    with hostile():
        (got,) = gradients(out.lse.sum(), (x,))
    assert worst(got, gradients(wanted[0].sum(), (x,))[0]) < 20 * TOLERANCE[EXACT]


def test_a_share_is_whole_blocks_and_no_share_is_empty():
    for vocab in (1, 7, 64, 65, 1000, 49152):
        for programs in (0, 1, 3, 100, 10**6):
            count, share = module().shares(vocab, 64, programs)
            assert share % 64 == 0 and (count - 1) * share < vocab <= count * share
            assert count == 1 or count * programs <= module().PROGRAMS


@FORMS
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, *([torch.bfloat16] if GPU else [])], ids=str)
def test_half_and_single_precision_stay_near_float64_and_their_statistics_are_float32(form, dtype):
    x, gain, W, ids = inputs(20, 40, 90, 2, dtype)
    W = W / 6
    x.requires_grad_(), gain.requires_grad_()
    out, wanted = form(x, gain, W, ids), definition(x, gain, W, ids)
    assert {out.lse.dtype, out.logits.dtype, out.top_logit.dtype} == {torch.float32}
    got, exact = (gradients((o[1] - o[0][:, None]).sum(), (x, gain)) for o in (out, wanted))
    assert {g.dtype for g in got} == {dtype}
    for ours, right in zip((out.lse, out.logits, out.top_logit), (wanted[0], wanted[1], wanted[4]), strict=True):
        assert worst(ours, right) < TOLERANCE[dtype]
    for ours, right in zip(got, exact, strict=True):
        assert worst(ours, right) < 2 * TOLERANCE[dtype] * float(right.abs().max())


def test_large_residuals_do_not_overflow_half_precision():
    x, gain, W, ids = inputs(5, 64, 50, 2, torch.float16)
    x, gain = (x * 5000).clamp(-60000, 60000), gain * 20
    out = kernel(x, gain, W / 20, ids)
    assert worst(out.lse, definition(x, gain, W / 20, ids)[0]) < 0.05


def test_half_precision_is_summed_in_float32():
    """4,096 equal tokens: Σ e^s is 4,096 on the way, where the steps of float16 are 4."""
    x, gain, W, ids = inputs(2, 16, 1, 1, torch.float16)
    out = kernel(x, gain, W.repeat(4097, 1), ids)
    assert worst(out.lse - out.logits[:, 0], torch.full((2,), 4097.0, device=DEVICE).double().log()) < 1e-5


def test_tensors_with_any_strides_and_int32_ids_are_read_as_they_are():
    x, gain, W, ids = inputs(10, 20, 50, 4)
    turned = (x.T.contiguous().T, gain.repeat_interleave(2)[::2], W.T.contiguous().T, ids.int()[:, ::2])
    assert_near(kernel(*turned), definition(x, gain, W, ids[:, ::2]), TOLERANCE[EXACT])
    wide = torch.full((50, 30), torch.nan, dtype=EXACT, device=DEVICE)
    wide[:, :20] = W
    assert_near(kernel(x[::2], gain, wide[::3, :20], ids[::2] % 17), definition(x[::2], gain, W[::3], ids[::2] % 17), TOLERANCE[EXACT])  # fmt: skip


@FORMS
def test_a_row_that_is_not_a_number_stays_alone(form):
    x, gain, W, ids = inputs(5, 20, 50, 2)
    clean = form(x, gain, W, ids)
    x[2, 3] = torch.nan
    out, others = form(x, gain, W, ids), [0, 1, 3, 4]
    assert out.lse[2].isnan() and out.logits[2].isnan().all() and 0 <= out.top[2] < 50
    assert all(torch.equal(a[others], b[others]) for a, b in zip(out, clean, strict=True))


def test_two_passes_give_the_same_bits():
    x, gain, W, ids = inputs(20, 20, 300, 2)
    x.requires_grad_()
    runs = []
    for _ in range(2):
        out = kernel(x, gain, W, ids, 16)
        runs.append((*out, *gradients(out.lse.sum() + out.logits.sum(), (x,))))
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


@FORMS
def test_no_tensor_as_large_as_all_logits_is_made_forward_or_backward(form, monkeypatch):
    monkeypatch.setattr(module(), "PROGRAMS", 8)
    n, d, vocab = 512, 8, 2048  # the interpreter copies tensors as bytes: W must be small as bytes, too
    x, gain, W, ids = inputs(n, d, vocab, 2)
    x.requires_grad_()
    with Watch() as watch:
        out = module().logit_lens(x, gain, W, ids, eps=EPS) if form is kernel else twin(x, gain, W, ids, 125)
        (out.lse.sum() + out.logits.sum()).backward()
    assert 0 < watch.largest < n * vocab / 4


@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100", "gfx942"])
@pytest.mark.parametrize("part", ["chosen", "forward", "backward"])
def test_it_compiles_without_spills_and_multiplies_on_tensor_cores(target, part):
    from labkit.kernel_lab import compile_report

    cases = [case for case in module().CASES if case.name == f"lens_{part} bfloat16"]
    if target.startswith("sm"):  # tf32x3, which the AMD compiler does not know by this name
        cases.append(module().case(getattr(module(), f"lens_{part}"), torch.float32))
    for case in cases:
        report = compile_report(case, target)
        assert report.spills == 0, report
        assert report.stack == 0, report
        assert report.tensor_core > 0, report


def test_a_case_compiles_what_a_launch_launches(monkeypatch):
    x, gain, W, ids = inputs(186, 576, 49152, 2, torch.float16)
    launched = recorded(monkeypatch)
    out = module().logit_lens(x.requires_grad_(), gain, W, ids, eps=EPS)
    (out.lse.sum() + out.logits.sum()).backward()
    cases = {case.name: case for case in module().CASES}
    for name, launch in launched.items():
        assert_same_launch(launch, cases[f"{name} float16"])
    assert len(launched) == 3


def test_a_second_derivative_is_refused_and_not_wrong():
    x, gain, W, ids = inputs(2, 16, 7, 1)
    with pytest.raises(RuntimeError, match="use logit_lens_torch for a second"):
        torch.autograd.grad(kernel(x.requires_grad_(), gain, W, ids).lse.sum(), x, create_graph=True)


def test_a_gradient_of_the_unembedding_is_refused_by_name_and_only_where_one_is_wanted():
    x, gain, W, ids = inputs(2, 16, 7, 1)
    W.requires_grad_()
    with pytest.raises(ValueError, match=r"^W: the kernel has no gradient of W: pass W.detach\(\)"):
        kernel(x, gain, W, ids)
    with torch.no_grad():
        assert kernel(x, gain, W, ids).lse.isfinite().all()


X, G, V, I = torch.zeros(3, 16), torch.zeros(16), torch.zeros(7, 16), torch.zeros(3, 2, dtype=torch.int64)
BAD = {
    "x: expected (n d)": (X[0], G, V, I),
    "x: expected a float tensor (n d)": (X.int(), G, V, I),
    "x: expected (n d), d >= 1": (X[:, :0], G[:0], V[:, :0], I),
    "gain: expected (d) = (16,) like x": (X, G[:5], V, I),
    "gain: expected torch.float32": (X, G.double(), V, I),
    "W: expected (vocab d) with vocab >= 1 and d = 16 like x, got (16, 7)": (X, G, V.T, I),
    "W: expected (vocab d) with vocab >= 1": (X, G, V[:0], I),
    "W: expected torch.float32": (X, G, V.half(), I),
    "ids: expected int32 or int64": (X, G, V, I.float()),
    "ids: expected int32 or int64 (n m) on cpu like x, got list": (X, G, V, [[0]]),
    "ids: expected (n m) with n = 3 like x": (X, G, V, I[0]),
    "ids: expected (n m) with n = 3 like x and m <= 16, got (2, 2)": (X, G, V, I[:2]),
    "ids: expected (n m) with n = 3 like x and m <= 16, got (3, 17)": (X, G, V, I[:, :1].expand(3, 17)),
    "ids: expected 0 <= id < 7, got 0 to 7": (X, G, V, I + torch.tensor([0, 7])),
    "ids: expected 0 <= id < 7, got -1 to 0": (X, G, V, I - torch.tensor([0, 1])),
}
BAD_NUMBERS = {
    "eps: expected a number >= 0, got -1": {"eps": -1},
    "eps: expected a number >= 0, got nan": {"eps": float("nan")},
    "block: expected a power of two, at least 16, got 48": {"eps": EPS, "block": 48},
    "block: expected a power of two, at least 16, got 8": {"eps": EPS, "block": 8},
}


@pytest.mark.parametrize("form", ["logit_lens", "logit_lens_torch"])
@pytest.mark.parametrize("what", BAD)
def test_bad_input_is_refused_by_name(form, what):
    with pytest.raises(ValueError) as refusal:
        getattr(module(), form)(*BAD[what], eps=EPS)
    assert str(refusal.value).startswith(what)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("what", BAD_NUMBERS)
def test_bad_numbers_are_refused_by_name(what):
    with pytest.raises(ValueError) as refusal:
        module().logit_lens(X, G, V, I, **BAD_NUMBERS[what])
    assert str(refusal.value).startswith(what)


@pytest.mark.parametrize("sizes", [{"rows": 0}, {"block": 0}, {"block": 2.5}])
def test_the_twin_refuses_blocks_of_nothing(sizes):
    with pytest.raises(ValueError, match=r"^rows, block: expected whole numbers, at least 1"):
        module().logit_lens_torch(X, G, V, I, eps=EPS, **sizes)


@pytest.mark.skipif(kernels.WHERE == "compiled", reason="on a GPU bfloat16 is right")
def test_bfloat16_is_refused_where_the_interpreter_is_wrong_and_the_twin_takes_it():
    x, gain, W, ids = inputs(3, 16, 7, 1, torch.bfloat16)
    with pytest.raises(TypeError, match=r"x: bfloat16 is silently wrong .* pass x.half\(\) or x.float\(\)"):
        module().logit_lens(x, gain, W, ids, eps=EPS)
    out = module().logit_lens_torch(x, gain, W, ids, eps=EPS)
    assert worst(out.lse, definition(x, gain, W, ids)[0]) < 0.05
