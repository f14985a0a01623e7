"""Flow attention: its forms agree, whatever the shape; flows are conserved; no token sees the future."""

import math
import re
import time

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_proofs import Watch, gradients, worst

from labkit import flow_attention
from labkit.flow_attention import causal

FORMS = [flow_attention.pairwise, flow_attention.linear, flow_attention.kernel]
STREAMS = [causal.recurrent, causal.chunkwise, causal.kernel]
PARTS = ["without_competition", "without_allocation", "without_both"]


def draw(b, h, L, S, d_k, d_v, dtype=torch.float64, seed=0, size=1.0):
    """q, k, v; with a larger size the capacities differ more."""
    g = torch.Generator().manual_seed(seed)
    shapes = (b, h, L, d_k), (b, h, S, d_k), (b, h, S, d_v)
    q, k, v = (torch.randn(shape, generator=g, dtype=torch.float64) for shape in shapes)
    return [x.to(dtype) for x in (size * q, size * k, v)]


def text(b, h, t, d_k, d_v, **options):
    return draw(b, h, t, t, d_k, d_v, **options)


def earlier(b, h, d_k, d_v, tokens=9):
    """The state after another text."""
    return causal.recurrent(*text(b, h, tokens, d_k, d_v, seed=7))[1]


def one_number_at_a_time(q, k, v, clamp):
    """The oracle: the network of one head with plain loops over its nodes, sharing no code with the forms."""
    b, h, L, _ = q.shape
    S, out = k.shape[2], torch.zeros(b, h, L, v.shape[3], dtype=torch.float64)
    for n in range(b * h):
        q_n, k_n, v_n = (x.flatten(0, 1)[n] for x in (q, k, v))
        A = [[sum((1e-6 + q_n[i].sigmoid()) * (1e-6 + k_n[j].sigmoid())) for j in range(S)] for i in range(L)]
        incoming, outgoing = [sum(A[i]) for i in range(L)], [sum(A[i][j] for i in range(L)) for j in range(S)]
        worth = [sum(A[i][j] / outgoing[j] for j in range(S)) for i in range(L)]
        strength = [min(float(sum(A[i][j] / incoming[i] for i in range(L))), clamp) for j in range(S)]
        e = [math.exp(x) for x in strength]
        for i in range(L):
            a = 1 / (1 + math.exp(-worth[i] * L / S)) if S else 0
            for j in range(S):
                out.flatten(0, 1)[n, i] += a * A[i][j] / incoming[i] * S * e[j] / sum(e) * v_n[j]
    return out


def causal_one_token_at_a_time(q, k, v, clamp):
    """The oracle of the causal forms, from the beginning of a text: every sum is made anew for every token."""
    Q, K, out = q.sigmoid() + 1e-6, k.sigmoid() + 1e-6, torch.zeros_like(v)
    I, O, c = [], [], []
    for n in range(1, q.shape[2] + 1):
        q_n, k_n, past_q, past_k = Q[:, :, n - 1], K[:, :, n - 1], Q[:, :, :n], K[:, :, :n]
        I.append((past_k @ q_n[..., None]).sum((2, 3)))
        O.append((past_q @ k_n[..., None]).sum((2, 3)))
        worth = sum(j / O[j - 1] * (q_n * K[:, :, j - 1]).sum(-1) for j in range(1, n + 1)) / n
        strength = sum(i / I[i - 1] * (k_n * Q[:, :, i - 1]).sum(-1) for i in range(1, n + 1)) / n
        c.append(strength.clamp(max=clamp).exp())
        competition = [j * c[j - 1] / sum(c[:j]) for j in range(1, n + 1)]
        for j in range(1, n + 1):
            taken = worth.sigmoid() * (q_n * K[:, :, j - 1]).sum(-1) / I[-1] * competition[j - 1]
            out[:, :, n - 1] += taken[..., None] * v[:, :, j - 1]
    return out


def published(q, k, v):
    """The authors' formula as they apply it, with 10⁻⁶ added inside every flow and the features left alone."""
    eps, L, S = 1e-6, q.shape[2], k.shape[2]
    Q, K = q.sigmoid(), k.sigmoid()
    per_sink = 1 / torch.einsum("bhld,bhd->bhl", Q + eps, K.sum(2) + eps)
    per_source = 1 / torch.einsum("bhsd,bhd->bhs", K + eps, Q.sum(2) + eps)
    sink = torch.einsum("bhld,bhd->bhl", Q + eps, torch.einsum("bhsd,bhs->bhd", K, per_source) + eps)
    source = torch.einsum("bhsd,bhd->bhs", K + eps, torch.einsum("bhld,bhl->bhd", Q, per_sink) + eps)
    c = S * source.clamp(-1, 1).softmax(-1)
    taken = torch.einsum("bhl,bhld,bhsd,bhs->bhls", per_sink, Q, K, c)
    return torch.sigmoid(sink * L / S)[..., None] * (taken @ v)


def published_causal(q, k, v):
    """The same for text, with the sums of outer products that the published code keeps for every token."""
    eps, n = 1e-6, torch.arange(1, q.shape[2] + 1).to(q)
    Q, K = q.sigmoid(), k.sigmoid()

    def flow(x, y):
        return ((x + eps) * (y.cumsum(2) + eps)).sum(-1)

    per_sink, per_source = n / flow(Q, K), n / flow(K, Q)
    sink = flow(Q, K * per_source[..., None]) / n
    source = (flow(K, Q * per_sink[..., None]) / n).clamp(-1, 1).exp()
    c = n * source / source.cumsum(-1)
    memory = torch.einsum("bhtd,bhte->bhtde", K, c[..., None] * v).cumsum(2)
    return torch.sigmoid(sink)[..., None] * torch.einsum("bht,bhtd,bhtde->bhte", per_sink / n, Q, memory)


counts, widths = st.integers(0, 12), st.integers(1, 5)
clamps = st.sampled_from([1.0, 0.7, math.inf])


@settings(deadline=None, max_examples=30)
@given(st.tuples(st.integers(1, 2), st.integers(0, 2), counts, counts, widths, widths), clamps, st.integers(0, 9))
def test_the_forms_are_the_network_whatever_the_shape(size, clamp, seed):
    x = draw(*size, seed=seed, size=2)
    wanted = one_number_at_a_time(*x, clamp)
    for form in FORMS:
        out = form(*x, clamp=clamp)
        assert out.dtype == torch.float64
        assert worst(out, wanted) < 1e-12


@settings(deadline=None, max_examples=25)
@given(st.tuples(st.integers(1, 2), st.integers(0, 2), st.integers(0, 22), widths, widths), st.integers(1, 25), clamps)
def test_the_causal_forms_are_their_definition_whatever_the_shape(size, chunk, clamp):
    x = text(*size, seed=chunk, size=2)
    wanted = causal_one_token_at_a_time(*x, clamp)
    for form, options in ((causal.recurrent, {}), (causal.chunkwise, {"chunk": chunk}), (causal.kernel, {"chunk": 16})):
        assert worst(form(*x, clamp=clamp, **options)[0], wanted) < 1e-12


def test_both_are_the_published_formula():
    for L, S in ((40, 40), (30, 50)):
        x = draw(2, 3, L, S, 16, 8)
        for form in FORMS:
            assert worst(form(*x), published(*x)) < 1e-5 * float(published(*x).abs().max())
    x = text(2, 3, 150, 16, 8)
    for form in STREAMS:
        assert worst(form(*x)[0], published_causal(*x)) < 1e-5 * float(published_causal(*x).abs().max())


# ------------------------------------------------------------------ conservation
@settings(deadline=None, max_examples=30)
@given(st.integers(1, 70), st.integers(1, 50), st.integers(1, 8), st.floats(0, 30))
def test_flows_are_conserved(L, S, d, size):
    q, k, _ = draw(1, 2, L, S, d, 1, size=size)
    flow = flow_attention.flows(q, k)
    assert worst(flow.conserved_incoming.sum(-1), torch.full((1, 2), float(S)).double()) < 1e-10 * S
    assert worst(flow.conserved_outgoing.sum(-1), torch.full((1, 2), float(L)).double()) < 1e-10 * L
    assert worst(flow.incoming.sum(-1), flow.outgoing.sum(-1)) < 1e-10 * float(flow.incoming.sum())


def test_the_flows_are_the_sums_of_the_matrix():
    q, k, _ = draw(2, 2, 7, 11, 5, 1)
    A = (q.sigmoid() + 1e-6) @ (k.sigmoid() + 1e-6).mT
    flow = flow_attention.flows(q, k)
    assert worst(flow.incoming, A.sum(3)) < 1e-12
    assert worst(flow.outgoing, A.sum(2)) < 1e-12
    assert worst(flow.conserved_incoming, (A / A.sum(2, keepdim=True)).sum(3)) < 1e-12
    assert worst(flow.conserved_outgoing, (A / A.sum(3, keepdim=True)).sum(2)) < 1e-12


def test_sources_compete_for_a_fixed_sum_and_one_that_grows_takes_it_from_the_others():
    q, k, _ = draw(1, 1, 20, 20, 8, 1)
    c = flow_attention.forms.competition(flow_attention.flows(q, k))
    assert abs(float(c.sum()) - 20) < 1e-10
    k[0, 0, 3] += 2
    later = flow_attention.forms.competition(flow_attention.flows(q, k))
    assert later[0, 0, 3] > c[0, 0, 3] and abs(float(later.sum()) - 20) < 1e-10
    assert (later[0, 0, 4:] < c[0, 0, 4:]).all()


def test_the_published_clamp_switches_the_competition_off_where_sinks_outnumber_sources():
    q, k, _ = draw(1, 4, 40, 10, 8, 1)
    flow = flow_attention.flows(q, k)
    assert torch.equal(flow_attention.forms.competition(flow, 1.0), torch.ones(1, 4, 10, dtype=torch.float64))
    assert flow_attention.forms.competition(flow).std() > 0.05


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 30), st.integers(1, 6), st.floats(0, 20), clamps, st.integers(0, 9))
def test_n_tokens_cannot_be_told_apart_by_fewer_features(n, d, size, clamp, seed):
    """The bound of the lesson: where rows sum to 1, the diagonal sums to d at most."""
    q, k, _ = draw(1, 1, n, n, d, 1, seed=seed, size=size)
    for weights in (flow_attention.weights(q, q, clamp=clamp), flow_attention.weights(q, k, clamp=clamp)):
        rows = F.normalize(weights[0, 0], p=1, dim=-1)
        assert rows.trace() < min(n, d) + 1e-9


@pytest.mark.parametrize("name", PARTS)
def test_what_is_left_without_a_part_is_the_matrix_without_its_factor(name):
    q, k, v = draw(1, 2, 7, 11, 5, 3)
    flow = flow_attention.flows(q, k)
    a, c = flow_attention.forms.allocation(flow), flow_attention.forms.competition(flow, 1.0)
    W = flow_attention.weights(q, k)
    W = W / c[:, :, None] if name != "without_allocation" else W
    W = W / a[..., None] if name != "without_competition" else W
    assert worst(getattr(flow_attention, name)(q, k, v), W @ v) < 1e-12
    if name == "without_both":
        assert worst(W.sum(-1), torch.ones(1, 2, 7)) < 1e-12

    q, k, v = text(1, 2, 37, 5, 3)
    flow, W = causal.flows(q, k), causal.weights(q, k)
    n = torch.arange(1, 38, dtype=torch.float64)
    c, _ = causal.compete(flow.conserved_outgoing, n, torch.full((1, 2), -math.inf).double(), 1.0)
    W = W / c[:, :, None] if name != "without_allocation" else W
    W = W / flow.conserved_incoming.sigmoid()[..., None] if name != "without_competition" else W
    out, state = getattr(causal, name)(q, k, v, chunk=16)
    assert worst(out, W @ v) < 1e-12
    left, between = getattr(causal, name)(*(x[:, :, :20] for x in (q, k, v)), chunk=16)
    right, end = getattr(causal, name)(*(x[:, :, 20:] for x in (q, k, v)), state=between)
    assert worst(torch.cat([left, right], 2), out) < 1e-12
    assert worst(end.memory, state.memory) < 1e-11


def test_the_causal_matrix_and_flows_are_those_of_the_definition():
    q, k, v = text(1, 2, 37, 5, 3)
    assert worst(causal.weights(q, k) @ v, causal.recurrent(q, k, v)[0]) < 1e-12
    assert not causal.weights(q, k).triu(1).any()


# ------------------------------------------------------------------ the state and the future
@pytest.mark.parametrize("form", STREAMS)
@pytest.mark.parametrize("cut", [0, 1, 16, 29, 40])
def test_a_sequence_cut_anywhere_continues_unchanged(form, cut):
    x = text(1, 2, 40, 6, 4)
    whole, last = form(*x)
    left, between = form(*(a[:, :, :cut] for a in x))
    right, end = form(*(a[:, :, cut:] for a in x), state=between)
    assert worst(torch.cat([left, right], 2), whole) < 1e-12
    assert (between.tokens, end.tokens, last.tokens) == (cut, 40, 40)
    for got, wanted in zip(end[1:], last[1:], strict=True):
        assert worst(got, wanted) < 1e-10


@pytest.mark.parametrize("form", STREAMS)
def test_token_by_token_is_the_whole(form):
    x, state, out = text(1, 1, 12, 4, 4), None, []
    for n in range(12):
        o, state = form(*(a[:, :, n : n + 1] for a in x), state=state)
        out.append(o)
    assert worst(torch.cat(out, 2), causal.recurrent(*x)[0]) < 1e-12


@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("form", STREAMS)
def test_no_token_sees_the_future(form, which):
    x = text(1, 2, 40, 6, 4)
    out, _ = form(*x)
    x[which][:, :, 23] += 3
    changed, _ = form(*x)
    assert worst(changed[:, :, :23], out[:, :, :23]) < 1e-13
    assert (changed[:, :, 23:] != out[:, :, 23:]).any(-1).all()


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("which", [0, 1, 2])
@pytest.mark.parametrize("form", STREAMS)
def test_what_is_not_finite_reaches_what_it_reaches_in_the_definition_and_nothing_else(form, which, value):
    x = text(1, 2, 40, 6, 4)
    x[which][0, 1, 23, 3] = value
    wanted, last = causal.recurrent(*x)
    out, state = form(*x)
    assert torch.equal(out.isfinite(), wanted.isfinite())
    assert worst(out.nan_to_num(0, 0, 0), wanted.nan_to_num(0, 0, 0)) < 1e-12
    after, _ = form(*text(1, 2, 5, 6, 4), state=state)
    assert torch.equal(after.isfinite(), causal.recurrent(*text(1, 2, 5, 6, 4), state=last)[0].isfinite())


@pytest.mark.parametrize("form", [causal.chunkwise, causal.kernel])
def test_a_state_that_is_not_finite_leads_where_it_leads_in_the_definition(form):
    x, start = text(1, 2, 20, 6, 4), earlier(1, 2, 6, 4)
    for name, at in (("memory", (0, 1, 2, 3)), ("keys", (0, 0, 1)), ("competition", (0, 1))):
        part = getattr(start, name).clone()
        part[at] = torch.nan
        state = start._replace(**{name: part})
        assert torch.equal(form(*x, state=state)[0].isfinite(), causal.recurrent(*x, state=state)[0].isfinite()), name


@pytest.mark.parametrize("form", [causal.chunkwise, causal.kernel])
def test_gradients_of_what_is_finite_stay_finite(form):
    x = [a.requires_grad_() for a in text(1, 2, 40, 6, 4)]
    with torch.no_grad():
        x[0][0, 1, 23, 3] = torch.nan
    assert all(g.isfinite().all() for g in gradients(form(*x)[0][:, :, :23].sum(), x))


def test_the_running_competition_is_stable_for_any_numbers_and_any_length():
    n = torch.arange(1, 2001, dtype=torch.float32)
    strength = torch.cat([torch.zeros(1000), torch.full((1000,), 1000.0)])[None, None]
    c, total = causal.compete(strength, n, torch.full((1, 1), -math.inf), math.inf)
    assert worst(c[0, 0, :1000], torch.ones(1000)) < 1e-4
    assert worst(c[0, 0, 1000:], n[1000:] / (n[1000:] - 1000)) < 1e-1
    assert abs(float(total) - 1000 - math.log(1000)) < 1e-3
    q, k, v = text(1, 1, 3000, 4, 4, dtype=torch.float32, size=30)  # features of 0 and 1, with flows that differ a lot
    k[:, :, :50] -= 30
    q[:, :, :50] -= 30
    for form in (causal.recurrent, causal.chunkwise):
        out, state = form(q, k, v, clamp=math.inf)
        assert out.isfinite().all() and all(x.isfinite().all() for x in state[1:])
        wanted = causal.recurrent(*(x.double() for x in (q, k, v)), clamp=math.inf)[0]
        assert worst(out, wanted) < 1e-3 * float(wanted.abs().max())


def test_no_input_is_so_small_that_a_flow_is_zero():
    for form in FORMS:
        x = [a.requires_grad_() for a in draw(1, 1, 5, 4, 3, 2, dtype=torch.float32)]
        out = form(x[0] - 200, x[1] - 1e30, x[2])
        assert out.isfinite().all()
        assert all(g.isfinite().all() for g in gradients(out.sum(), x))


# ------------------------------------------------------------------ gradients, dtypes, strides, memory
@pytest.mark.parametrize("form", [*FORMS[:2], flow_attention.without_competition, flow_attention.without_both])
def test_gradients_by_finite_differences(form):
    x = [a.requires_grad_() for a in draw(1, 2, 4, 3, 3, 2)]
    assert torch.autograd.gradcheck(form, x, atol=1e-6)
    assert torch.autograd.gradgradcheck(form, x, atol=1e-6)


def of(form, x, state, **options):
    """Output, state and all gradients of a form, of which every part counts."""
    x = [a.detach().requires_grad_() for a in (*x, *state[1:])]
    out, end = form(*x[:3], state=causal.State(state.tokens, *x[3:]), **options)
    loss = out.sin().sum() + sum((n * part).cos().sum() for n, part in enumerate(end[1:], 1))
    return [out, *end[1:], *gradients(loss, x)]


@settings(deadline=None, max_examples=12)
@given(st.tuples(st.integers(1, 2), st.integers(1, 2), st.integers(0, 40), widths, widths), st.integers(1, 40), clamps)
def test_gradients_of_all_causal_forms_are_those_of_the_definition_through_the_state_too(size, chunk, clamp):
    x, state = text(*size), earlier(size[0], size[1], size[3], size[4])
    wanted = of(causal.recurrent, x, state, clamp=clamp)
    for form, c in ((causal.chunkwise, chunk), (causal.kernel, 16)):
        for got, exact in zip(of(form, x, state, clamp=clamp, chunk=c), wanted, strict=True):
            assert worst(got, exact) < 1e-10 * max(1, float(exact.detach().abs().max()) if exact.numel() else 0)


def test_gradients_from_the_beginning_of_a_text_are_finite():
    """Where the running normaliser begins at log 0."""
    for form in STREAMS:
        x = [a.requires_grad_() for a in text(1, 1, 20, 4, 4)]
        got = gradients(form(*x)[0].sin().sum(), x)
        wanted = gradients(causal_one_token_at_a_time(*x, 1.0).sin().sum(), x)
        for ours, exact in zip(got, wanted, strict=True):
            assert worst(ours, exact) < 1e-11


def test_it_holds_over_several_pieces(monkeypatch):
    x, state = text(1, 2, 150, 5, 4), earlier(1, 2, 5, 4)
    whole = of(causal.chunkwise, x, state, chunk=16)
    monkeypatch.setattr(causal, "PIECE", 64)
    for got, wanted in zip(of(causal.chunkwise, x, state, chunk=16), whole, strict=True):
        assert worst(got, wanted) < 1e-10 * max(1, float(wanted.detach().abs().max()))


@pytest.mark.parametrize("form", [*FORMS, *STREAMS])
def test_half_precision_is_summed_in_single_and_keeps_its_dtype(form):
    x = [a.half() for a in text(1, 2, 50, 16, 16)]
    out = form(*x)
    exact = form(*(a.double() for a in x))
    if form in STREAMS:
        (out, state), (exact, _) = out, exact
        assert {part.dtype for part in state[1:]} == {torch.float32}
    assert out.dtype == torch.float16
    assert worst(out, exact) < 4e-3


@pytest.mark.parametrize("form", [*FORMS, *STREAMS])
def test_tensors_with_the_strides_of_a_projection_are_read_as_they_are_and_left_alone(form):
    x = text(2, 3, 40, 6, 4)
    turned = [a.transpose(1, 2).contiguous().transpose(1, 2) for a in x]
    out, other = form(*x), form(*turned)
    assert worst(*((out, other) if form in FORMS else (out[0], other[0]))) < 1e-13
    assert all(torch.equal(a, b) for a, b in zip(x, turned, strict=True))


def test_there_is_no_square_matrix_and_no_memory_for_every_token():
    for t in (2048, 4096):
        x = [a.requires_grad_() for a in text(1, 1, t, 16, 16, dtype=torch.float32)]
        with Watch() as seen:
            flow_attention.linear(*x).sum().backward()
        assert seen.largest <= t * 16
        with Watch() as seen:
            causal.chunkwise(*x)[0].sum().backward()
        assert seen.largest <= max(t * 16, causal.PIECE * 64)


def seconds(form, x):
    began = time.perf_counter()
    form(*x)
    return time.perf_counter() - began


def test_text_costs_a_tenth_of_the_published_formula_in_time_and_in_memory():
    x = text(1, 1, 4096, 64, 64, dtype=torch.float32)
    fast = min(seconds(causal.chunkwise, x) for _ in range(3))
    assert seconds(published_causal, x) > 10 * fast
    largest = {}
    for form in (causal.chunkwise, published_causal):
        with Watch() as seen:
            form(*x)
        largest[form] = seen.largest
    assert largest[published_causal] > 10 * largest[causal.chunkwise]


def test_linear_is_faster_than_softmax_attention_on_long_texts():
    x = text(1, 4, 4096, 64, 64, dtype=torch.float32)
    fast = min(seconds(flow_attention.linear, x) for _ in range(3))
    assert seconds(F.scaled_dot_product_attention, x) > 2 * fast


# ------------------------------------------------------------------ bad input
Q = torch.zeros(1, 2, 8, 4)
STATE = earlier(1, 2, 4, 4)
BOTH = [
    (dict(q=torch.zeros(2, 3, 4)), "q: expected a float tensor (b h t d), got (2, 3, 4) torch.float32"),
    (dict(k=[1]), "k: expected a float tensor (b h t d), got list"),
    (dict(v=torch.zeros(2, 8, 4)), "v: expected a float tensor (b h t d), got (2, 8, 4) torch.float32"),
    (dict(v=Q.double()), "v: expected torch.float32 on cpu like q, got torch.float64"),
    (dict(clamp="one"), "clamp: expected a number (inf for none), got 'one'"),
    (dict(clamp=True), "clamp: expected a number (inf for none), got True"),
    (dict(clamp=math.nan), "clamp: expected a number (inf for none), got nan"),
]


@pytest.mark.parametrize(
    "change, says",
    [
        *BOTH,
        (
            dict(k=torch.zeros(1, 3, 8, 4)),
            "k: expected (b h S d_k) with b, h and d_k = 1, 2 and 4 like q, got (1, 3, 8, 4)",
        ),
        (dict(k=torch.zeros(1, 8, 2, 4)), "did you mean k.transpose(1, 2)?"),
        (dict(v=torch.zeros(1, 2, 9, 4)), "v: expected (b h S d_v) with (b h S) = (1, 2, 8) like k, got (1, 2, 9, 4)"),
    ],
)
@pytest.mark.parametrize("form", FORMS)
def test_bad_input_is_refused_in_one_sentence(form, change, says):
    with pytest.raises(ValueError, match=re.escape(says)) as refused:
        form(**(dict(q=Q, k=Q, v=Q) | change))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "change, says",
    [
        *BOTH,
        (dict(k=torch.zeros(1, 2, 9, 4)), "k: expected (b h t d_k) = (1, 2, 8, 4) like q, got (1, 2, 9, 4)"),
        (dict(state=STATE[1:]), "state: expected a State that a causal form returned, or None, got tuple"),
        (dict(state=STATE._replace(keys=Q)), "state.keys: expected (1, 2, 4), got (1, 2, 8, 4)"),
        (dict(state=STATE._replace(memory=3)), "state.memory: expected a float tensor on cpu like q, got int"),
    ],
)
@pytest.mark.parametrize("form", STREAMS)
def test_bad_input_to_the_causal_forms_is_refused_in_one_sentence(form, change, says):
    with pytest.raises(ValueError, match=re.escape(says)) as refused:
        form(**(dict(q=Q, k=Q, v=Q) | change))
    assert "\n" not in str(refused.value)
