"""The forms of sink attention agree, the streaming cache is the paper's, and the findings hold on the real model."""

import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import labkit
from labkit import attention_sinks as sinks
from labkit.attention_sinks import excerpts

FORMS = [sinks.masked, sinks.banded, sinks.kernel]


@pytest.fixture(scope="module")
def lm():
    return labkit.lm.load()


def draw(b, h, t, d_k, d_v, dtype=torch.float64, seed=0):
    g = torch.Generator().manual_seed(seed)
    q, k = (torch.randn(b, h, t, d_k, generator=g, dtype=dtype) for _ in range(2))
    return q, k, torch.randn(b, h, t, d_v, generator=g, dtype=dtype)


def one_query_at_a_time(q, k, v, n_sink, window, scale, sink_logits) -> Tensor:
    """The oracle: a plain loop in float64, which shares no code with the forms."""
    b, h, t, _ = q.shape
    out = torch.zeros_like(v)
    for n in range(b):
        for head in range(h):
            for i in range(t):
                keys = [j for j in range(i + 1) if j < n_sink or i - j <= window]
                weights = [math.exp(scale * float(q[n, head, i] @ k[n, head, j])) for j in keys]
                total = sum(weights) + (0 if sink_logits is None else math.exp(sink_logits[head]))
                for j, weight in zip(keys, weights, strict=True):
                    out[n, head, i] += weight / total * v[n, head, j]
    return out


@settings(deadline=None, max_examples=40)
@given(
    st.integers(0, 40),
    st.integers(0, 45),
    st.integers(0, 45),
    st.integers(1, 5),
    st.integers(1, 4),
    st.booleans(),
    st.integers(0, 9),
)
def test_masked_and_banded_are_the_loop_over_queries(t, n_sink, window, d_k, d_v, with_sink, seed):
    q, k, v = draw(1, 2, t, d_k, d_v, seed=seed)
    sink = torch.tensor([0.3, -2.0], dtype=torch.float64) if with_sink else None
    expected = one_query_at_a_time(q, k, v, n_sink, window, 0.4, sink)
    for form in (sinks.masked, sinks.banded):
        got = form(q, k, v, n_sink=n_sink, window=window, scale=0.4, sink_logits=sink)
        assert got.dtype == torch.float64
        assert torch.allclose(got, expected, atol=1e-12)


@pytest.mark.parametrize("form", FORMS)
def test_gradients_of_every_form_are_those_of_the_definition_in_float64(form):
    def gradients(form, dtype):
        inputs = [x.to(dtype).requires_grad_() for x in (*draw(2, 2, 37, 5, 3), torch.tensor([0.5, -1.0]))]
        out = form(*inputs[:3], n_sink=2, window=6, sink_logits=inputs[3])
        return torch.autograd.grad((out * torch.arange(out.numel()).reshape(out.shape).cos()).sum(), inputs)

    for got, expected in zip(gradients(form, torch.float32), gradients(sinks.masked, torch.float64), strict=True):
        assert torch.allclose(got.double(), expected, atol=2e-5)


@pytest.mark.parametrize("form", FORMS)
def test_what_a_query_cannot_see_cannot_change_it(form):
    q, k, v = draw(1, 1, 30, 4, 4, torch.float32)
    before = form(q, k, v, n_sink=2, window=5)
    k[:, :, 10], v[:, :, 10] = 30.0, 1e4
    changed = (form(q, k, v, n_sink=2, window=5) != before).any(-1)[0, 0]
    assert changed.nonzero().flatten().tolist() == [10, 11, 12, 13, 14, 15]


@pytest.mark.parametrize("form", FORMS)
def test_half_precision_is_accumulated_in_single(form):
    q, k, v = (x.half() for x in draw(1, 2, 50, 16, 16))
    exact = sinks.masked(q.double(), k.double(), v.double(), n_sink=1, window=20)
    out = form(q, k, v, n_sink=1, window=20)
    assert out.dtype == torch.float16
    assert (out.double() - exact).abs().max() < 2e-3


@pytest.mark.parametrize("form", FORMS)
def test_a_sink_logit_of_minus_infinity_is_none(form):
    q, k, v = draw(1, 2, 20, 4, 4, torch.float32)
    never = torch.full((2,), -torch.inf)
    assert torch.allclose(
        form(q, k, v, n_sink=1, window=4, sink_logits=never), form(q, k, v, n_sink=1, window=4), atol=1e-6
    )


def test_banded_attention_of_a_long_text_needs_no_square_matrix():
    t, seen = 3000, []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            seen.extend(x.numel() for x in (out if isinstance(out, (tuple, list)) else [out]) if isinstance(x, Tensor))
            return out

    with Watch():
        sinks.banded(*draw(1, 1, t, 8, 8, torch.float32), n_sink=4, window=32)
    assert max(seen) < t * 8 * (32 + 32 + 4)
    assert max(seen) < t * t / 4


@pytest.mark.parametrize(
    "change, says",
    [
        (dict(q=torch.zeros(2, 3, 4)), "q: expected a float tensor (b h t d), got (2, 3, 4) torch.float32"),
        (dict(q=[1]), "q: expected a float tensor (b h t d), got list"),
        (dict(q=torch.zeros(1, 2, 8, 4, dtype=torch.long)), "q: expected a float tensor"),
        (dict(k=torch.zeros(1, 2, 9, 4)), "k: expected (b h t d_k) = (1, 2, 8, 4) like q, got (1, 2, 9, 4)"),
        (dict(v=torch.zeros(1, 3, 8, 4)), "v: expected (b h t d_v) with (b h t) = (1, 2, 8) like q, got (1, 3, 8, 4)"),
        (dict(v=torch.zeros(1, 8, 2, 4)), "got (1, 8, 2, 4): did you mean v.transpose(1, 2)?"),
        (dict(k=torch.zeros(1, 8, 2, 4)), "got (1, 8, 2, 4): did you mean k.transpose(1, 2)?"),
        (dict(v=torch.zeros(1, 2, 8, 4).double()), "v: expected torch.float32 on cpu like q, got torch.float64"),
        (dict(window=-1), "window: expected an integer >= 0, got -1"),
        (dict(n_sink=1.5), "n_sink: expected an integer >= 0, got 1.5"),
        (dict(n_sink=True), "n_sink: expected an integer >= 0, got True"),
        (dict(sink_logits=torch.zeros(3)), "sink_logits: expected (h) = (2,), one a head, got (3,)"),
    ],
)
@pytest.mark.parametrize("form", FORMS)
def test_bad_input_is_refused_in_one_sentence(form, change, says):
    x = torch.zeros(1, 2, 8, 4)
    with pytest.raises(ValueError, match=re.escape(says)) as refused:
        form(**(dict(q=x, k=x, v=x, n_sink=1, window=2) | change))
    assert "\n" not in str(refused.value)


# ------------------------------------------------------------------ the streaming cache
@pytest.mark.parametrize("positions", ["cache", "original", "frozen"])
@pytest.mark.parametrize("n_sink, window", [(0, 5), (3, 9), (1, 0)])
def test_one_parallel_pass_equals_the_token_by_token_loop(lm, positions, n_sink, window):
    ids = excerpts.hamlet(lm, 28)
    loop = sinks.token_by_token_nll(lm, ids, n_sink=n_sink, window=window, positions=positions)
    parallel = sinks.streaming_nll(lm, ids, n_sink=n_sink, window=window, positions=positions)
    assert (loop - parallel).abs().max() < 1e-3


def test_a_prompt_taken_in_pieces_equals_one_taken_token_by_token(lm):
    ids = excerpts.hamlet(lm, 30)[None]
    whole, pieces = sinks.SinkCache(2, 7), sinks.SinkCache(2, 7)
    expected = [lm(ids[:, i : i + 1], cache=whole) for i in range(30)]
    got = [lm(part, cache=pieces) for part in ids.split([9, 1, 15, 5], dim=1)]
    assert torch.allclose(torch.cat(got, 1), torch.cat(expected, 1), atol=1e-3)
    assert pieces.kept == whole.kept == [0, 1, 23, 24, 25, 26, 27, 28, 29]


def test_the_cache_stays_as_large_as_it_is_told(lm):
    cache = sinks.SinkCache(2, 5)
    for token in excerpts.hamlet(lm, 16):
        lm(token.view(1, 1), cache=cache)
        assert len(cache) == min(cache.seen, 7)
    assert all(k.shape[2] == 7 for k in cache.keys)


def test_positions_in_the_cache_are_given_anew_and_frozen_ones_are_not():
    tokens = [0, 1, 97, 98, 99]
    assert sinks.SinkCache(2, 2, "cache").rotary(tokens) == [0, 1, 2, 3, 4]
    assert sinks.SinkCache(2, 2, "original").rotary(tokens) == tokens
    assert sinks.SinkCache(2, 2, "frozen").rotary(tokens) == [0, 1, 4, 4, 4]


def test_a_stream_may_be_longer_than_the_models_context(lm):
    cache = sinks.SinkCache(1, 3)
    cache.seen, cache.kept = 9000, []
    assert lm(torch.tensor([[5]]), cache=cache).isfinite().all()
    with pytest.raises(ValueError, match="past the model's context of 8192"):
        lost = sinks.SinkCache(1, 3, "original")
        lost.seen = 9000
        lm(torch.tensor([[5]]), cache=lost)


def test_recomputing_a_window_is_reading_it_alone(lm):
    ids = excerpts.hamlet(lm, 20)
    at = torch.tensor([4, 11, 18])
    got = sinks.recompute_nll(lm, ids, length=5, at=at, batch=2)
    alone = torch.stack([sinks.dense_nll(lm, ids[i - 4 : i + 2])[-1] for i in at.tolist()])
    assert torch.allclose(got, alone, atol=1e-3)


@pytest.mark.parametrize(
    "call, says",
    [
        (lambda lm, ids: sinks.streaming_nll(lm, ids[:1], n_sink=1, window=2), "ids: expected (t,) with t >= 2, got (1,)"),
        (lambda lm, ids: sinks.streaming_nll(lm, ids[None], n_sink=1, window=2), "ids: expected (t,) with t >= 2, got (1, 9)"),
        (lambda lm, ids: sinks.streaming_nll(lm, ids, n_sink=-1, window=2), "n_sink: expected an integer >= 0, got -1"),
        (lambda lm, ids: sinks.streaming_nll(lm, ids, n_sink=1, window=2, positions="slots"), "positions: expected one of cache"),
        (lambda lm, ids: sinks.SinkCache(1, 2.0), "window: expected an integer >= 0, got 2.0"),
        (lambda lm, ids: sinks.recompute_nll(lm, ids, length=4, at=torch.tensor([2])), "at: expected positions from length − 1 = 3"),
        (lambda lm, ids: sinks.dense_nll(lm, "text"), "got str; lm.encode(text) makes one"),
    ],
)  # fmt: skip
def test_bad_streams_are_refused_in_one_sentence(lm, call, says):
    with pytest.raises(ValueError, match=re.escape(says)):
        call(lm, excerpts.hamlet(lm, 9))


# --------------------------------------------------------- the findings, on the real model
def constant_logit(scores):
    scores[:, :, 1:, 0] = scores[:, :, 100:, 0].mean(-1, keepdim=True)
    return scores


@pytest.fixture(scope="module")
def perplexities(lm):
    """On another text than the lesson's: Exodus, 400 tokens, window 64, from token 100 on."""
    ids, after = excerpts.exodus(lm, 400), slice(100, None)
    newlines = ids.clone()
    newlines[:4] = lm.encode("\n")
    losses = {
        "dense": sinks.dense_nll(lm, ids),
        **{n: sinks.streaming_nll(lm, ids, n_sink=n, window=64) for n in (0, 1, 4)},
        "newlines": sinks.streaming_nll(lm, newlines, n_sink=4, window=64),
        "frozen": sinks.streaming_nll(lm, ids, n_sink=1, window=64, positions="frozen"),
        "constant": sinks.nll(lm, ids, cache=sinks.SinkAttention(1, 64), edit={"*.scores": constant_logit}),
    }
    return {name: loss[after].mean().exp().item() for name, loss in losses.items()}


def test_one_sink_is_enough_and_none_is_not(perplexities):
    assert perplexities[0] > 1.5 * perplexities[1]
    assert abs(perplexities[1] / perplexities[4] - 1) < 0.05
    assert perplexities["dense"] < perplexities[4]


def test_line_breaks_make_as_good_a_sink(perplexities):
    assert perplexities["newlines"] < 1.1 * perplexities[4]


def test_frozen_positions_break_the_model_sink_and_all(perplexities):
    assert perplexities["frozen"] > 5 * perplexities[1]
    assert perplexities["frozen"] > perplexities[0]


def test_a_sink_is_a_bias(perplexities):
    assert perplexities["constant"] < 1.1 * perplexities[1]


def test_the_precomputed_losses_are_the_models(lm):
    table = excerpts.table()
    assert len(table) == 2 * (1 + len(excerpts.N_SINK) * len(excerpts.WINDOW) * len(excerpts.POSITIONS))
    ids = excerpts.exodus(lm, excerpts.EXCERPT)
    for n_sink, window, positions in [(1, 64, "cache"), (2, 32, "frozen")]:
        fresh = sinks.streaming_nll(lm, ids, n_sink=n_sink, window=window, positions=positions)
        stored = table[excerpts.key("Exodus", n_sink, window, positions)]
        assert torch.allclose(fresh, stored, atol=0.02)  # kept in half precision
