"""Components add up to the stream and shares to the logit; a planted regression is found; kappa is what it says."""

import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import labkit
from labkit import factual_recall as recall
from labkit.factual_recall.forms import collected

TEXTS = [
    "The capital of France is",
    "The largest city of the Democratic Republic of the Congo is",
    "Q: What is the capital of Burkina Faso?\nA: The capital of Burkina Faso is",
    "Geography facts: the river of Côte d'Ivoire is",
]


@pytest.fixture(scope="module")
def lm():
    return labkit.lm.load()


# ------------------------------------------------------------------ completeness
@pytest.mark.parametrize("text", TEXTS)
def test_components_add_up_to_the_stream_and_their_shares_to_the_centred_logit(lm, text):
    ids = lm.encode(text)[None]
    parts = recall.components(lm, ids)
    run = lm.run(ids, record="final")
    assert parts.vectors.shape == (1, 301, 576) and len(parts.names) == 301
    assert (parts.vectors.sum(1) - run["final"][:, -1]).abs().max() < 1e-3
    logits = run.logits[:, -1]
    answer, others = recall.answers(lm, ["Paris"]), recall.answers(lm, ["Rome", "Kinshasa", "Oslo"])
    for against, centre in ((None, logits.mean()), (others, logits[0, others].mean())):
        shares = recall.attribute(parts, recall.direction(lm, answer, against))
        assert abs(shares.sum() - (logits[0, answer] - centre)) < 1e-3


def test_one_token_is_a_whole_prompt(lm):
    """Token 0 is the sink: its stream is of norm 10^4, so the sum is held to seven digits of that."""
    parts = recall.Prompts(lm, ["France", "Paris", "the"]).components()
    final = torch.stack(
        [lm.run(lm.encode(t)[None], record="final")["final"][0, -1] for t in ("France", "Paris", "the")]
    )
    assert (parts.vectors.sum(1) - final).abs().max() < 1e-5 * final.norm(dim=-1).max()
    shares = recall.attribute(parts, recall.direction(lm, recall.answers(lm, ["Paris"] * 3)))
    logits = lm(torch.stack([lm.encode(t) for t in ("France", "Paris", "the")]))[:, -1]
    assert (shares.sum(1) - (logits[:, recall.answers(lm, ["Paris"])[0]] - logits.mean(-1))).abs().max() < 1e-3


def test_components_of_prompts_are_those_of_each_text(lm):
    parts = recall.Prompts(lm, TEXTS).components()
    for row, text in enumerate(TEXTS):
        alone = recall.components(lm, lm.encode(text)[None])
        assert (parts.vectors[row] - alone.vectors[0]).abs().max() < 1e-3
        assert torch.equal(parts.of("L23H4")[row], parts.vectors[row, 1 + 23 * 10 + 4])
    assert parts.names[1 + 23 * 10 + 4] == "L23H4" and parts.names[-1] == "M29"
    table = recall.by_block(lm, recall.attribute(parts, recall.direction(lm, recall.answers(lm, ["Paris"] * 4))))
    assert table.shape == (4, 30, 10)


def test_attribution_survives_edits(lm):
    prompts = recall.Prompts(lm, TEXTS[:2])
    parts = prompts.components(recall.zero("L23H4", "M0"))
    assert parts.of("L23H4").abs().max() == 0 == parts.of("M0").abs().max()
    final = prompts.run(recall.zero("L23H4", "M0"), record="final")["final"]
    assert (parts.vectors.sum(1) - final).abs().max() < 1e-3


# ------------------------------------------------------------------ the lens
def test_the_lens_at_the_end_is_the_model(lm):
    run = lm.run(lm.encode(TEXTS[0])[None], record=("final", "23.residual"))
    assert torch.allclose(recall.logit_lens(lm, run["final"]), run.logits, atol=1e-4)
    assert torch.allclose(recall.logit_lens(lm, run["final"][0, -1]), run.logits[0, -1], atol=1e-4)
    assert recall.logit_lens(lm, run["23.residual"][None]).shape == (1, 1, 5, 49152)
    assert recall.logit_lens(lm, run["23.residual"][:, :0]).shape == (1, 0, 49152)


def test_a_vector_reads_as_the_tokens_it_raises(lm):
    v = recall.components(lm, lm.encode(TEXTS[0])[None]).of("L23H4")[0]
    top = recall.lens_of(lm, v, 3)
    effect = torch.stack([(v * lm.final_norm) @ row for row in lm.W_E])
    assert [word for word, _ in top] == [lm.decode(i) for i in effect.topk(3).indices]
    assert top[0][0].strip() == "France" and top[0][1] == pytest.approx(effect.max().item(), rel=1e-4)
    assert torch.allclose(recall.project(lm, 2 * v), 2 * effect, atol=1e-2)


@settings(deadline=None)
@given(st.integers(0, 4), st.integers(1, 9), st.integers(0, 99))
def test_rank_is_the_place_in_the_sorted_list(n, vocab, seed):
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, vocab, generator=g)
    ids = torch.randint(vocab, (n,), generator=g)
    expected = [sorted(row.tolist(), reverse=True).index(row[i].item()) for row, i in zip(logits, ids, strict=True)]
    assert recall.rank(logits, ids).tolist() == expected


# ------------------------------------------------------------------ the regression
def planted(n, h, d, noise=0.0, seed=0, intercept=1.0):
    g = torch.Generator().manual_seed(seed)
    a = torch.randn(n, h, d, generator=g, dtype=torch.float64) + torch.randn(h, d, generator=g, dtype=torch.float64)
    c = torch.randn(h, generator=g, dtype=torch.float64)
    b = intercept * torch.randn(d, generator=g, dtype=torch.float64)
    y = torch.einsum("h,nhd->nd", c, a) + b + noise * torch.randn(n, d, generator=g, dtype=torch.float64)
    return y, a, c, b


@settings(deadline=None)
@given(st.integers(8, 30), st.integers(1, 5), st.integers(2, 9), st.integers(0, 99))
def test_planted_coefficients_and_intercept_are_found(n, h, d, seed):
    y, a, c, b = planted(n, h, d, seed=seed)
    fit = recall.decompose_mlp(y, a)
    assert torch.allclose(fit.coefficients, c) and torch.allclose(fit.intercept, b)
    assert torch.allclose(fit.predict(a), y)
    assert recall.r2(fit, y, a).centred == pytest.approx(1)
    assert recall.held_out_r2(y, a, torch.arange(n) % 4, folds=4).centred == pytest.approx(1)


def test_it_is_least_squares():
    y, a, _, _ = planted(40, 3, 5, noise=1.0)
    fit = recall.decompose_mlp(y, a)
    error = y - fit.predict(a)
    assert error.mean(0).abs().max() < 1e-12  # nothing left that an intercept could take
    assert (error[:, None] * a).sum((0, 2)).abs().max() < 1e-9  # nor a coefficient
    assert fit.mean.allclose(y.mean(0))


def test_an_intercept_alone_looks_wonderful_uncentred_and_is_nothing_centred():
    _, a, _, _ = planted(200, 4, 30)
    g = torch.Generator().manual_seed(1)
    y = 10 * torch.randn(30, generator=g) + torch.randn(200, 30, generator=g)
    for found in (recall.r2(recall.decompose_mlp(y, a), y, a), recall.held_out_r2(y, a, torch.arange(200) % 20)):
        assert found.uncentred > 0.95 and abs(found.centred) < 0.01


def test_what_a_group_alone_explains_does_not_hold_out():
    """One prompt a group, and a regressor that is the group's own noise: fitted, it explains; held out, it misleads."""
    g = torch.Generator().manual_seed(2)
    y = torch.randn(6, 1, generator=g).double()
    a = torch.randn(6, 4, 1, generator=g).double()
    assert recall.r2(recall.decompose_mlp(y, a), y, a).centred > 0.4
    assert recall.held_out_r2(y, a, torch.arange(6), folds=6).centred < 0


def test_a_head_that_says_the_same_as_another_or_nothing_is_no_obstacle():
    y, a, c, b = planted(30, 2, 5)
    a = torch.cat([a, a[:, :1], torch.zeros(30, 1, 5)], 1)
    fit = recall.decompose_mlp(y, a)
    assert torch.allclose(fit.predict(a), y) and torch.allclose(fit.intercept, b)
    assert fit.coefficients[0] + fit.coefficients[2] == pytest.approx(c[0].item())


# ------------------------------------------------------------------ the causal coefficient
@settings(deadline=None)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(1, 6), st.integers(0, 99))
def test_the_causal_coefficient_of_a_linear_map_is_its_own(b, h, d, seed):
    g = torch.Generator().manual_seed(seed)
    M, x, a = (torch.randn(*s, generator=g, dtype=torch.float64) for s in ((d, d), (b, d), (b, h, d)))
    kappa = recall.causal_coefficient(lambda v: v @ M.T + 3, x, a)
    assert kappa.shape == (b, h)
    assert torch.allclose(kappa, torch.einsum("bhi,ij,bhj->bh", a, M, a) / a.square().sum(-1))
    assert torch.allclose(recall.causal_coefficient(lambda v: -v, x, a), -torch.ones(b, h, dtype=torch.float64))


def test_the_mlp_is_the_models_own(lm):
    run = lm.run(lm.encode(TEXTS[0])[None], record=("24.residual", "24.attn_out", "24.mlp_out"))
    x = run["24.residual"] + run["24.attn_out"]
    assert torch.allclose(recall.mlp(lm, 24)(x), run["24.mlp_out"], atol=1e-3)


def test_kappa_is_what_the_mlp_says_without_the_head(lm):
    prompts = recall.Prompts(lm, TEXTS)
    run = prompts.run(record=("24.residual", "24.head_out", "24.mlp_out"))
    a = run["24.head_out"]
    kappa = recall.causal_coefficient(recall.mlp(lm, 24), run["24.residual"] + a.sum(1), a)
    without = prompts.run(recall.zero("L24H4"), record="24.mlp_out")["24.mlp_out"]
    expected = ((run["24.mlp_out"] - without) * a[:, 4]).sum(-1) / a[:, 4].square().sum(-1)
    assert torch.allclose(kappa[:, 4], expected, atol=1e-3)


# ------------------------------------------------------------------ bad input
v = torch.zeros


@pytest.mark.parametrize(
    "call, says",
    [
        (lambda lm: recall.logit_lens(lm, v(2, 575)), "residual: expected (… d) with d = 576, got (2, 575)"),
        (lambda lm: recall.lens_of(lm, v(2, 576)), "vector: expected (d) = (576,), got (2, 576)"),
        (lambda lm: recall.rank(v(2, 5), torch.zeros(3, dtype=torch.long)), "ids: expected one for each row of logits (2, 5)"),
        (lambda lm: recall.direction(lm, v(2)), "ids: expected integers (b), one answer each"),
        (lambda lm: recall.attribute(collected(lm, values(lm)), v(3, 576)), "direction: expected (d) or (b d) = (1, 576), got (3, 576)"),
        (lambda lm: recall.decompose_mlp(v(4, 5), v(4, 2, 6)), "head_outs: expected (n h d) for mlp_out (n d) = (4, 5), got (4, 2, 6)"),
        (lambda lm: recall.decompose_mlp(v(1, 5), v(1, 2, 5)), "mlp_out: expected at least two prompts, got 1"),
        (lambda lm: recall.held_out_r2(v(4, 5), v(4, 2, 5), torch.arange(3)), "group: expected (n) = (4,), got (3,)"),
        (lambda lm: recall.held_out_r2(v(4, 5), v(4, 2, 5), torch.arange(4)), "folds: expected 2 to 4, the number of groups, got 5"),
        (lambda lm: recall.causal_coefficient(torch.sin, v(2, 5), v(2, 5)), "head_outs: expected (b h d) for x (b d) = (2, 5)"),
        (lambda lm: recall.mlp(lm, 30), "layer: expected 0 to 29, got 30"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_in_one_sentence(lm, call, says):
    with pytest.raises(ValueError, match=re.escape(says)) as refused:
        call(lm)
    assert "\n" not in str(refused.value)


def test_a_component_that_is_not_there(lm):
    with pytest.raises(KeyError, match="no component is called 'L30H0'"):
        collected(lm, values(lm)).of("L30H0")


def values(lm):
    run = lm.run(lm.encode("a")[None], record=("embedding", "*.head_out", "*.mlp_out", "final"))
    return {name: value[..., -1, :] for name, value in run.values.items()}
