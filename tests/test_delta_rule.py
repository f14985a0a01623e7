"""The forms of the delta rule agree, whatever the shape; a NaN goes only where it must; bad input is refused."""

import importlib.util
import inspect
import re
import textwrap
import time
import warnings

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_proofs import Watch, gradients, worst

from labkit import assets, delta_rule
from labkit.course import find
from labkit.course.attempts import verdict_on
from labkit.delta_rule import forms
from labkit.delta_rule.exercises.chunks import continued_planted_bug
from labkit.launch import LESSONS

FAST = [delta_rule.parallel, delta_rule.chunkwise, delta_rule.kernel]
ALL = [delta_rule.recurrent, *FAST]


def draw(b, h, t, d_k, d_v, dtype=torch.float64, seed=0):
    """q, k, v, beta: unit keys, beta in [0, 2]."""
    g = torch.Generator().manual_seed(seed)
    q, k = (torch.randn(b, h, t, d_k, generator=g, dtype=torch.float64) for _ in range(2))
    v = torch.randn(b, h, t, d_v, generator=g, dtype=torch.float64)
    beta = 2 * torch.rand(b, h, t, generator=g, dtype=torch.float64)
    return [x.to(dtype) for x in (q, F.normalize(k, dim=-1), v, beta)]


def draw_state(b, h, d_k, d_v, seed=1):
    return torch.randn(b, h, d_k, d_v, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def one_token_at_a_time(q, k, v, beta, scale, S):
    """The oracle: S ← (I − β k kᵀ) S + β k vᵀ of one head, with plain matrices, sharing no code with the forms."""
    b, h, t, d_k = q.shape
    out, S = torch.zeros_like(v), S.clone()
    for n in range(b):
        for head in range(h):
            for i in range(t):
                key = k[n, head, i][:, None]
                erase = torch.eye(d_k, dtype=torch.float64) - beta[n, head, i] * key @ key.T
                S[n, head] = erase @ S[n, head] + beta[n, head, i] * key @ v[n, head, i][None]
                out[n, head, i] = scale * q[n, head, i] @ S[n, head]
    return out, S


sizes = st.tuples(st.integers(1, 2), st.integers(0, 2), st.integers(0, 45), st.integers(1, 6), st.integers(1, 5))


@settings(deadline=None, max_examples=40)
@given(sizes, st.integers(1, 50), st.sampled_from([None, 0.4, 0.0]), st.booleans(), st.integers(0, 9))
def test_the_forms_are_the_definition_whatever_the_shape(size, chunk, scale, with_state, seed):
    x = draw(*size, seed=seed)
    b, h, _, d_k, d_v = size
    state = draw_state(b, h, d_k, d_v) if with_state else None
    start = torch.zeros(b, h, d_k, d_v, dtype=torch.float64) if state is None else state
    wanted, last = one_token_at_a_time(*x, d_k**-0.5 if scale is None else scale, start)
    for form, options in [
        (delta_rule.recurrent, {}),
        (delta_rule.parallel, {}),
        (delta_rule.chunkwise, {"chunk": chunk}),
    ]:
        out, S = form(*x, scale=scale, state=state, **options)
        assert (out.dtype, S.dtype) == (torch.float64, torch.float64)
        assert worst(out, wanted) < 1e-11
        assert worst(S, last) < 1e-11


@settings(deadline=None, max_examples=15)
@given(sizes, st.integers(1, 50), st.integers(0, 9))
def test_the_hand_written_backward_is_autograds_of_the_definition(size, chunk, seed):
    b, h, _, d_k, d_v = size
    x = [a.requires_grad_() for a in (*draw(*size, seed=seed), draw_state(b, h, d_k, d_v))]

    def of(form, **options):
        out, S = form(*x[:4], state=x[4], scale=0.7, **options)
        return gradients(out.sin().sum() + (S * S.detach().cos()).sum(), x)

    for got, wanted in zip(of(delta_rule.chunkwise, chunk=chunk), of(delta_rule.recurrent), strict=True):
        assert worst(got, wanted) < 1e-10 * max(1, float(wanted.abs().max()) if wanted.numel() else 0)


def test_the_backward_holds_over_several_pieces(monkeypatch):
    monkeypatch.setattr(forms, "PIECE", 64)
    x = [a.requires_grad_() for a in (*draw(1, 2, 150, 5, 4), draw_state(1, 2, 5, 4))]

    def of(form, **options):
        out, S = form(*x[:4], state=x[4], **options)
        return gradients(out.sin().sum() + S.sin().sum(), x)

    for got, wanted in zip(of(delta_rule.chunkwise, chunk=16), of(delta_rule.recurrent), strict=True):
        assert worst(got, wanted) < 1e-10 * max(1, float(wanted.detach().abs().max()))


def test_it_is_what_the_peer_computes_and_differentiates():
    """flash-linear-attention's chunkwise form, from its own file."""
    spec = importlib.util.spec_from_file_location("fla_delta_rule", assets.path("fla_delta_rule"))
    peer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(peer)
    x = [a.requires_grad_() for a in draw(2, 3, 128, 16, 16, torch.float32)]

    def of(form):
        out, S = form(*x)
        return [out, S, *gradients(out.sin().sum() + S.cos().sum(), x)]

    for got, wanted in zip(of(delta_rule.chunkwise), of(peer.delta_rule_chunkwise), strict=True):
        assert worst(got, wanted.double()) < 1e-4 * max(1, float(wanted.detach().abs().max()))


@pytest.mark.parametrize("form", FAST)
def test_gradients_of_every_form_in_single_precision(form):
    def of(form, dtype):
        x = [a.requires_grad_() for a in (*draw(2, 2, 37, 5, 3, dtype), draw_state(2, 2, 5, 3).to(dtype))]
        out, S = form(*x[:4], state=x[4])
        return gradients(out.sin().sum() + S.cos().sum(), x)

    for got, wanted in zip(of(form, torch.float32), of(delta_rule.recurrent, torch.float64), strict=True):
        assert worst(got, wanted) < 1e-4 * max(1, float(wanted.detach().abs().max()))


@pytest.mark.parametrize("form", ALL)
@pytest.mark.parametrize("cut", [0, 1, 16, 29, 40])
def test_a_sequence_cut_anywhere_continues_unchanged(form, cut):
    x = draw(1, 2, 40, 6, 4)
    whole, last = form(*x)
    left, between = form(*(a[:, :, :cut] for a in x))
    right, end = form(*(a[:, :, cut:] for a in x), state=between)
    assert worst(torch.cat([left, right], 2), whole) < 1e-11
    assert worst(end, last) < 1e-11


@pytest.mark.parametrize("form", FAST)
def test_tensors_with_the_strides_of_a_projection_are_read_and_differentiated_as_they_are(form):
    def of(form, turned):
        x = [a.requires_grad_() for a in (*draw(2, 3, 40, 6, 4), draw_state(2, 3, 6, 4))]
        inputs = [a.transpose(1, 2).contiguous().transpose(1, 2) if turned else a for a in x]
        out, S = form(*inputs[:4], state=inputs[4])
        return [out, S, *gradients((out.sin() + S.sum()).transpose(1, 2).contiguous().sum(), x)]

    for got, wanted in zip(of(form, turned=True), of(delta_rule.recurrent, turned=False), strict=True):
        assert worst(got, wanted) < 1e-10 * max(1, float(wanted.detach().abs().max()))


@pytest.mark.parametrize("form", ALL)
def test_inputs_are_left_alone(form):
    x = [*draw(1, 1, 40, 6, 6), draw_state(1, 1, 6, 6)]
    kept = [a.clone() for a in x]
    form(*x[:4], state=x[4])
    assert all(torch.equal(a, b) for a, b in zip(x, kept, strict=True))


@pytest.mark.parametrize("form", ALL)
def test_half_precision_is_accumulated_in_single(form):
    x = [a.half() for a in draw(1, 2, 50, 16, 16)]
    exact, _ = delta_rule.recurrent(*(a.double() for a in x))
    out, S = form(*x)
    assert (out.dtype, S.dtype) == (torch.float16, torch.float32)
    assert worst(out, exact) < 8e-3 * float(exact.abs().max())


@pytest.mark.parametrize("form", ALL)
def test_a_second_derivative_is_right_or_refused(form):
    x = [a.requires_grad_() for a in draw(1, 1, 9, 4, 4)]
    try:
        first = torch.autograd.grad(form(*x)[0].sin().sum(), x[2], create_graph=True)[0]
        second = torch.autograd.grad(first.sum(), x[0])[0]
    except RuntimeError as refused:
        assert "use the recurrent form for a second" in str(refused)
        return
    (g,) = torch.autograd.grad(delta_rule.recurrent(*x)[0].sin().sum(), x[2], create_graph=True)
    assert worst(second, torch.autograd.grad(g.sum(), x[0])[0]) < 1e-10


# ------------------------------------------------------------------ NaN in, NaN out, only where it must
def poisoned(name, value, t=23):
    """Inputs of 40 tokens, one number of which is not finite at token t (or in the state)."""
    x = dict(zip(("q", "k", "v", "beta"), draw(1, 2, 40, 6, 4), strict=True), state=draw_state(1, 2, 6, 4))
    at = (0, 1, 2, 3) if name == "state" else (0, 1, t, 3)[: x[name].ndim]
    x[name][at] = value
    return x


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("name", ["q", "k", "v", "beta", "state"])
@pytest.mark.parametrize("form", FAST)
def test_what_is_not_finite_reaches_what_it_reaches_in_the_definition_and_nothing_else(form, name, value):
    x = poisoned(name, value)
    wanted, last = delta_rule.recurrent(**x)
    out, S = form(**x)
    for got, exact in ((out, wanted), (S, last)):
        assert torch.equal(got.isfinite(), exact.isfinite())
        assert worst(got.nan_to_num(0, 0, 0), exact.nan_to_num(0, 0, 0)) < 1e-10


@pytest.mark.parametrize("form", ALL)
def test_a_nan_spares_the_tokens_before_it(form):
    out, _ = form(**poisoned("k", torch.nan))
    assert out[:, :, :23].isfinite().all()
    assert out[0, 0].isfinite().all()  # the other head


@pytest.mark.parametrize("form", FAST)
def test_gradients_of_what_is_finite_stay_finite(form):
    x = {name: a.requires_grad_() for name, a in poisoned("v", torch.nan).items()}
    out, _ = form(**x)
    grads = torch.autograd.grad(out[:, :, :23].sum(), list(x.values()), allow_unused=True)
    assert all(g is None or g.isfinite().all() for g in grads)


# ------------------------------------------------------------------ stability and bad input
def test_the_memory_is_stable_up_to_beta_norm_squared_two_and_explodes_past_it():
    g = torch.Generator().manual_seed(0)
    k = F.normalize(torch.randn(1, 1, 512, 16, generator=g, dtype=torch.float64), dim=-1)
    v, S = torch.zeros_like(k), torch.eye(16, dtype=torch.float64)[None, None]

    def norm(length, beta):
        return delta_rule.chunkwise(k, length * k, v, torch.full((1, 1, 512), beta, dtype=torch.float64), state=S)[
            1
        ].norm()

    assert abs(norm(1, 2.0) / S.norm() - 1) < 1e-9  # a reflection
    assert norm(1, 1.9) < S.norm()
    with pytest.warns(UserWarning, match="beta is outside"):
        forms.warn_of_beta.cache_clear()
        assert norm(1, 2.2) > 100 * S.norm()
    assert norm(1.5, 1.0) > 100 * S.norm()  # β‖k‖² = 2.25: nothing warns of long keys, the docstring does


@pytest.mark.parametrize("form", ALL)
@pytest.mark.parametrize("beta", [-0.1, 2.5])
def test_a_beta_outside_its_range_warns_once_and_says_what_happens(form, beta):
    x = draw(1, 1, 5, 4, 4)
    x[3][0, 0, 2] = beta
    forms.warn_of_beta.cache_clear()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        form(*x)
        form(*x)
    assert len(said) == 1
    assert "beta is outside [0, 2]" in str(said[0].message) and "can grow without bound" in str(said[0].message)
    assert said[0].filename == __file__


Q, BETA = torch.zeros(1, 2, 8, 4), torch.zeros(1, 2, 8)


@pytest.mark.parametrize(
    "change, says",
    [
        (dict(q=torch.zeros(2, 3, 4)), "q: expected a float tensor (b h t d), got (2, 3, 4) torch.float32"),
        (dict(q=[1]), "q: expected a float tensor (b h t d), got list"),
        (dict(k=torch.zeros(1, 2, 9, 4)), "k: expected (b h t d_k) = (1, 2, 8, 4) like q, got (1, 2, 9, 4)"),
        (dict(k=torch.zeros(1, 8, 2, 4)), "got (1, 8, 2, 4): did you mean k.transpose(1, 2)?"),
        (dict(v=torch.zeros(1, 3, 8, 4)), "v: expected (b h t d_v) with (b h t) = (1, 2, 8) like q, got (1, 3, 8, 4)"),
        (dict(v=Q.double()), "v: expected torch.float32 on cpu like q, got torch.float64"),
        (
            dict(beta=torch.zeros(1, 8, 2)),
            "beta: expected (b h t) = (1, 2, 8), got (1, 8, 2): did you mean beta.transpose(1, 2)?",
        ),
        (dict(beta=0.5), "beta: expected a float tensor (b h t), got float"),
        (dict(beta=BETA.half()), "beta: expected torch.float32 on cpu like q, got torch.float16"),
        (dict(state=torch.zeros(1, 2, 4, 5)), "state: expected (b h d_k d_v) = (1, 2, 4, 4), got (1, 2, 4, 5)"),
        (
            dict(v=torch.zeros(1, 2, 8, 5), state=torch.zeros(1, 2, 5, 4)),
            "got (1, 2, 5, 4): did you mean state.transpose(2, 3)?",
        ),
        (dict(state=3), "state: expected a float tensor on cpu like q, or None for zeros, got int"),
    ],
)
@pytest.mark.parametrize("form", ALL)
def test_bad_input_is_refused_in_one_sentence(form, change, says):
    with pytest.raises(ValueError, match=re.escape(says)) as refused:
        form(**(dict(q=Q, k=Q, v=Q, beta=BETA) | change))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("chunk", [0, -1, 2.0, True])
def test_a_chunk_is_a_whole_number(chunk):
    with pytest.raises(ValueError, match="chunk: expected an integer >= 1, got"):
        delta_rule.chunkwise(Q, Q, Q, BETA, chunk=chunk)


def test_there_is_no_loop_over_tokens_and_no_square_matrix():
    seen = {}
    for t in (2048, 4096):
        x = [a.requires_grad_() for a in draw(1, 1, t, 8, 8, torch.float32)]
        with Watch() as seen[t]:
            delta_rule.chunkwise(*x)[0].sum().backward()
        assert seen[t].largest <= max(t * 8, forms.PIECE * 64)
    one_chunk = (seen[4096].count - seen[2048].count) / (2048 / 64)
    assert one_chunk < 64, "more operations than the chunk has tokens"


def test_it_trains_ten_times_faster_than_the_definition():
    x = [a.requires_grad_() for a in draw(1, 4, 1024, 64, 64, torch.float32)]

    def seconds(form):
        began = time.perf_counter()
        form(*x)[0].sum().backward()
        return time.perf_counter() - began

    fast = min(seconds(delta_rule.chunkwise) for _ in range(3))
    assert seconds(delta_rule.recurrent) > 10 * fast


@pytest.mark.parametrize("t", [256, 512, 4096])
def test_what_training_keeps_is_what_the_docstring_states(t):
    """The inputs q, k, β; and a token and head its error, a row of the inverse, its share of the states."""
    h, d_k, d_v, chunk = 2, 16, 8, 32
    x = [a.requires_grad_() for a in draw(1, h, t, d_k, d_v, torch.float32)]
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out, _ = delta_rule.chunkwise(*x, scale=1, chunk=chunk)
    inputs = 2 * d_k + 1
    pieces = -(-t * h // forms.PIECE)
    last_states = pieces * h * d_k * d_v  # a piece keeps the state after it in the same block of memory
    assert sum(kept.values()) == 4 * (t * h * (inputs + d_v + chunk + d_k * d_v // chunk) + last_states)
    out.sum().backward()


def test_the_bug_that_the_lesson_plants_is_the_one_that_the_check_knows():
    body = inspect.getsource(continued_planted_bug).split("\n", 1)[1]
    assert textwrap.indent(textwrap.dedent(body), "    ") in (LESSONS / "20_delta_rule.py").read_text(encoding="utf8")
    verdict = verdict_on(find("delta_rule.continued"), continued_planted_bug)
    assert (verdict.status, verdict.property) == ("mistake", "values")
