"""Linear attention: its forms agree, whatever the shape, and are the sum that they stand for."""

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_proofs import gradients, worst

from labkit import delta_rule, linear_attention

FORMS = [linear_attention.recurrent, linear_attention.parallel, linear_attention.chunkwise]


def draw(b, h, t, d_k, d_v, dtype=torch.float64, seed=0):
    g = torch.Generator().manual_seed(seed)
    q, k = (torch.randn(b, h, t, d_k, generator=g, dtype=dtype) for _ in range(2))
    return (
        q,
        k,
        torch.randn(b, h, t, d_v, generator=g, dtype=dtype),
        torch.randn(b, h, d_k, d_v, generator=g, dtype=dtype),
    )


@settings(deadline=None, max_examples=40)
@given(
    st.tuples(st.integers(1, 2), st.integers(0, 2), st.integers(0, 45), st.integers(1, 6), st.integers(1, 5)),
    st.integers(1, 50),
    st.sampled_from([None, 0.4]),
    st.booleans(),
)
def test_the_forms_are_the_sum_over_earlier_tokens(size, chunk, scale, with_state):
    q, k, v, state = draw(*size)
    state = state if with_state else torch.zeros_like(state)
    factor = size[3] ** -0.5 if scale is None else scale
    earlier = torch.ones(size[2], size[2], dtype=torch.float64).tril()
    wanted = factor * ((q[:, :, :, None] * k[:, :, None]).sum(-1) * earlier @ v + q @ state)
    for form in FORMS:
        options = {"chunk": chunk} if form is linear_attention.chunkwise else {}
        out, S = form(q, k, v, scale=scale, state=state if with_state else None, **options)
        assert worst(out, wanted) < 1e-11
        assert worst(S, state + k.mT @ v) < 1e-11


@pytest.mark.parametrize("form", FORMS)
def test_gradients_of_every_form_are_those_of_the_definition(form):
    def of(form, dtype):
        x = [a.requires_grad_() for a in draw(2, 2, 37, 5, 3, dtype)]
        out, S = form(*x[:3], state=x[3])
        return gradients(out.sin().sum() + S.cos().sum(), x)

    exact = of(linear_attention.recurrent, torch.float64)
    for got, wanted in zip(of(form, torch.float64), exact, strict=True):
        assert worst(got, wanted) < 1e-10


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("cut", [0, 1, 29, 40])
def test_a_sequence_cut_anywhere_continues_unchanged(form, cut):
    x = draw(1, 2, 40, 6, 4)[:3]
    whole, last = form(*x)
    left, between = form(*(a[:, :, :cut] for a in x))
    right, end = form(*(a[:, :, cut:] for a in x), state=between)
    assert worst(torch.cat([left, right], 2), whole) < 1e-11
    assert worst(end, last) < 1e-11


@pytest.mark.parametrize("form", FORMS)
def test_half_precision_is_accumulated_in_single(form):
    x = [a.half() for a in draw(1, 2, 50, 16, 16)[:3]]
    out, S = form(*x)
    exact, _ = linear_attention.recurrent(*(a.double() for a in x))
    assert (out.dtype, S.dtype) == (torch.float16, torch.float32)
    assert worst(out, exact) < 2e-3 * float(exact.abs().max())


def test_with_orthonormal_keys_there_is_nothing_to_correct_and_both_memories_are_one():
    q, _, v, _ = draw(1, 1, 6, 6, 3)
    k = torch.eye(6, dtype=torch.float64)[None, None]
    additive, S = linear_attention.recurrent(q, k, v)
    delta, T = delta_rule.recurrent(q, k, v, torch.ones(1, 1, 6, dtype=torch.float64))
    assert worst(additive, delta) < 1e-12 and worst(S, T) < 1e-12


@pytest.mark.parametrize("form", FORMS)
def test_bad_input_is_refused_in_one_sentence(form):
    q = torch.zeros(1, 2, 8, 4)
    for change, says in [
        (dict(v=torch.zeros(1, 8, 2, 4)), "got (1, 8, 2, 4): did you mean v.transpose(1, 2)?"),
        (dict(state=torch.zeros(1, 2, 4, 5)), "state: expected (b h d_k d_v) = (1, 2, 4, 4), got (1, 2, 4, 5)"),
    ]:
        with pytest.raises(ValueError, match=re.escape(says)):
            form(**(dict(q=q, k=q, v=q) | change))
    with pytest.raises(ValueError, match="chunk: expected an integer >= 1"):
        linear_attention.chunkwise(q, q, q, chunk=0)
