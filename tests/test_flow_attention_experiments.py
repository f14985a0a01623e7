"""Mechanisms are held against each other fairly: same models, same data, seeds that know nothing of each other."""

import math

import pytest
import torch
from torch import Generator

from labkit import texts
from labkit.flow_attention import experiments
from labkit.flow_attention.layer import BIDIRECTIONAL, CAUSAL, MLP, Attention, Mechanism, evenness

EVERY = [
    pytest.param(mechanism, way, id=f"{mechanism.name}, {'causal' if way else 'bidirectional'}")
    for way, mechanisms in enumerate((BIDIRECTIONAL, CAUSAL))
    for mechanism in mechanisms
]
NONE = Mechanism("none", lambda q, k, v: torch.zeros_like(v), lambda q, k: torch.ones(*q.shape[:3], k.shape[2]))
SOFTMAX, FLOW = BIDIRECTIONAL[0], BIDIRECTIONAL[2]


def generators(*seeds):
    return [Generator().manual_seed(seed) for seed in seeds]


def random(*shape, seed=0):
    return 2 * torch.randn(*shape, dtype=torch.float64, generator=Generator().manual_seed(seed))


def one_by_one(name, causal, q, k):
    """Weights (t t) of one head, in loops: softmax and linear attention from their papers."""
    t, d = q.shape
    phi = (lambda x: x.exp().where(x < 0, x + 1)) if name == "linear" else (lambda x: x)
    found = torch.zeros(t, t, dtype=q.dtype)
    for i in range(t):
        for j in range(i + 1 if causal else t):
            product = float(phi(q[i]) @ phi(k[j]))
            found[i, j] = product if name == "linear" else math.exp(product / math.sqrt(d))
        found[i] /= found[i].sum()
    return found


@pytest.mark.parametrize(("mechanism", "causal"), EVERY)
@pytest.mark.parametrize("t", [1, 7, 40])
def test_what_a_mechanism_does_is_what_its_weights_show(mechanism, causal, t):
    q, k, v = (random(2, 3, t, d, seed=d) for d in (4, 4, 5))
    k = random(2, 3, t, 4, seed=9)
    weights = mechanism.weights(q, k)
    torch.testing.assert_close(weights @ v, mechanism.attend(q, k, v), rtol=1e-9, atol=1e-9)
    assert not causal or (weights.triu(1) == 0).all()


@pytest.mark.parametrize(("mechanism", "causal"), EVERY)
def test_softmax_and_linear_attention_take_means_and_flow_attention_does_not(mechanism, causal):
    q, k = random(2, 3, 7, 4), random(2, 3, 7, 4, seed=1)
    weights = mechanism.weights(q, k)
    assert (weights >= 0).all()
    sums_to_one = (weights.sum(-1) - 1).abs().amax() < 1e-9
    assert sums_to_one == (mechanism.name in ("softmax", "linear"))
    if sums_to_one:
        torch.testing.assert_close(weights[1, 2], one_by_one(mechanism.name, causal, q[1, 2], k[1, 2]))


def test_the_two_tuples_have_the_same_four():
    names = [mechanism.name for mechanism in BIDIRECTIONAL]
    assert names == [mechanism.name for mechanism in CAUSAL] and len(set(names)) == 4


def test_evenness_is_one_where_all_weights_are_equal_and_nought_where_one_has_all():
    five = torch.full((4,), 5)
    torch.testing.assert_close(evenness(torch.full((2, 3, 4, 5), 0.7), five), torch.ones(2, 3, 4))
    one_hot = 0.7 * torch.eye(5)[None, None, :4]
    torch.testing.assert_close(evenness(one_hot, five), torch.zeros(1, 1, 4))
    halves = torch.tensor([0.2, 0.2, 0, 0])[None, None, None]
    torch.testing.assert_close(evenness(halves, torch.tensor([4])), torch.tensor([[[0.5]]]))


def test_evenness_of_a_text_counts_the_tokens_so_far_and_leaves_the_first_one_out():
    weights = torch.ones(1, 1, 6, 6).tril()
    torch.testing.assert_close(evenness(weights, torch.arange(1, 7)), torch.ones(1, 1, 5))


@pytest.mark.parametrize(("mechanism", "causal"), EVERY)
def test_a_model_beside_others_is_what_it_is_alone(mechanism, causal):
    x = random(3, 2, 9, 8).float()
    three, alone = Attention(8, 2, mechanism, generators(0, 1, 2)), Attention(8, 2, mechanism, generators(1))
    torch.testing.assert_close(three(x)[1:2], alone(x[1:2]), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(three.weights(x)[1:2], alone.weights(x[1:2]), rtol=1e-4, atol=1e-5)
    first, second, _ = three(x[:1].expand(3, -1, -1, -1))
    assert not torch.allclose(first, second, rtol=0.1)


@pytest.mark.parametrize(("mechanism", "causal"), EVERY)
def test_no_model_learns_from_what_another_read(mechanism, causal):
    attention, mlp = Attention(8, 2, mechanism, generators(0, 1, 2)), MLP(8, 16, generators(0, 1, 2))
    x = random(3, 2, 9, 8).float().requires_grad_()
    (attention(x) + mlp(x))[1].square().sum().backward()
    for seen in (x, *attention.parameters(), *mlp.parameters()):
        nothing = seen.grad.flatten(1).abs().amax(1) == 0
        assert nothing.tolist() == [True, False, True]


@pytest.mark.parametrize(("mechanism", "causal"), EVERY)
def test_the_layer_is_what_a_loop_over_heads_computes(mechanism, causal):
    layer, x = Attention(6, 3, mechanism, generators(4, 5)).double(), random(2, 2, 7, 6)
    for s in range(2):
        normed = (x[s] - x[s].mean(-1, keepdim=True)) / (x[s].var(-1, keepdim=True, unbiased=False) + 1e-5).sqrt()
        q, k, v = (normed @ layer.W_qkv[s]).split(6, -1)
        heads = [mechanism.attend(*(y[:, None, :, h : h + 2] for y in (q, k, v)))[:, 0] for h in (0, 2, 4)]
        torch.testing.assert_close(layer(x)[s], torch.cat(heads, -1) @ layer.W_o[s], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("mechanism", CAUSAL, ids=lambda mechanism: mechanism.name)
def test_no_character_changes_what_is_said_before_it(mechanism):
    model = experiments.CharacterReader(12, 8, 2, mechanism, generators(0, 1)).double()
    ids = torch.randint(12, (2, 3, experiments.CONTEXT), generator=Generator().manual_seed(0))
    changed = ids.clone()
    changed[:, :, 9] = (ids[:, :, 9] + 1) % 12
    differs = (model(changed) - model(ids)).abs().amax(-1) > 1e-9  # (s b t)
    assert not differs[..., :9].any() and differs[..., 9:].all()


@pytest.mark.parametrize("train", [experiments.digits, experiments.characters], ids=lambda train: train.__name__)
def test_a_seed_gives_the_same_whatever_seeds_are_beside_it(train):
    mechanism = (BIDIRECTIONAL if train is experiments.digits else CAUSAL)[2]
    first, other, alone = (train(mechanism, seeds, steps=20) for seeds in ((0, 1, 2), (0, 7), (0,)))
    for result in (other, alone):
        assert result.scores[0] == pytest.approx(first.scores[0], abs=5e-3)
        assert result.evenness[0] == pytest.approx(first.evenness[0], abs=1e-3)
        for mine, same in zip(result.model.parameters(), first.model.parameters(), strict=True):
            torch.testing.assert_close(mine[0], same[0], rtol=1e-2, atol=1e-3)
    assert first.scores[1] != other.scores[1]


def test_training_is_the_same_whatever_else_the_program_did():
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    first = experiments.digits(FLOW, (3, 4), steps=10)
    assert torch.get_num_threads() == threads and torch.equal(torch.get_rng_state(), state)
    torch.randn(3)
    torch.set_num_threads(1)
    again = experiments.digits(FLOW, (3, 4), steps=10)
    torch.set_num_threads(threads)
    assert (first.scores, first.evenness, first.evenness_before) == (
        again.scores,
        again.evenness,
        again.evenness_before,
    )
    assert len(first.scores) == len(first.evenness) == len(first.evenness_before) == 2


@pytest.mark.parametrize("train", [experiments.digits, experiments.characters], ids=lambda train: train.__name__)
def test_mechanisms_have_the_same_parameters_and_begin_with_the_same_weights(train):
    models = [train(m, (0,), steps=10, lr=1e-30) for m in (BIDIRECTIONAL if train is experiments.digits else CAUSAL)]
    assert len({result.parameters for result in models}) == 1
    assert models[0].parameters == sum(p.numel() for p in models[0].model.parameters())
    for result in models:
        assert result.evenness == result.evenness_before
        for mine, same in zip(result.model.parameters(), models[0].model.parameters(), strict=True):
            assert torch.equal(mine, same)


def test_nothing_held_out_is_trained_on():
    (x, labels), (held, answers) = experiments.split_pictures()
    assert x.shape == (4000, 100) and held.shape == (1000, 100) and len(labels) == 4000 and len(answers) == 1000
    pairs = {tuple(row) for row in x.tolist()} & {tuple(row) for row in held.tolist()}
    assert not pairs
    text, (windows, after) = experiments.split_text()
    whole = texts.bible()
    letters = experiments.letters()
    assert "".join(letters[i] for i in text[:200].tolist()) == whole[:200] and len(text) == len(whole) * 9 // 10
    for n in (0, 999):
        said = "".join(letters[i] for i in windows[n].tolist())
        assert said + letters[after[n, -1]] in whole[len(text) :]
    assert torch.equal(windows[:, 1:], after[:, :-1])


def test_scores_are_means_over_what_was_held_out():
    result = experiments.digits(SOFTMAX, (0, 1), steps=10)
    x, labels = experiments.split_pictures()[1]
    with torch.no_grad():
        logits = result.model(x.expand(2, -1, -1))
    assert result.scores == pytest.approx([(said.argmax(-1) == labels).float().mean().item() for said in logits])
    result = experiments.characters(CAUSAL[0], (0, 1), steps=10)
    x, targets = experiments.split_text()[1]
    with torch.no_grad():
        chances = result.model(x.expand(2, -1, -1)).softmax(-1)
    bits = [-said.gather(-1, targets[..., None]).log2().mean().item() for said in chances]
    assert result.scores == pytest.approx(bits, abs=1e-4)


def test_the_weights_of_one_sequence_are_those_that_were_measured():
    result = experiments.characters(CAUSAL[2], (0, 1), steps=10)
    rows = torch.stack([result.weights(n) for n in range(experiments.LOOKED_AT)], 1)  # (s n h t t)
    assert rows.shape[:1] == (2,) and rows.shape[2:] == (2, experiments.CONTEXT, experiments.CONTEXT)
    assert result.evenness == pytest.approx(evenness(rows, result.model.sources).flatten(1).mean(1).tolist(), abs=1e-5)


def test_a_text_is_guessed_better_with_attention_than_by_the_character_before():
    bigram = experiments.bigram()
    alone = experiments.characters(NONE, (0,), steps=400).scores[0]
    assert bigram - 0.02 < alone < bigram + 0.05
    assert experiments.characters(CAUSAL[2], (0,)).scores[0] < bigram - 0.1


def test_a_digit_is_read_with_attention_and_not_without():
    assert experiments.digits(NONE, (0,), steps=200).scores[0] < 0.35
    assert experiments.digits(FLOW, (0,)).scores[0] > 0.7


def test_bits_by_place_are_the_scores_where_the_models_were_trained_and_go_on_past_it():
    result = experiments.characters(CAUSAL[2], seeds=(0, 1), steps=3)
    bits = experiments.bits_by_place(result, experiments.CONTEXT + 30)
    assert bits.shape == (2, experiments.CONTEXT + 30) and bits.isfinite().all()
    ids, targets = (x.expand(2, -1, -1) for x in experiments.split_text(200, experiments.CONTEXT)[1])
    exact = torch.nn.functional.cross_entropy(result.model(ids).movedim(-1, 1), targets, reduction="none").mean(1)
    inside = experiments.bits_by_place(result, experiments.CONTEXT)
    assert torch.allclose(inside * math.log(2), exact, atol=1e-5)
    shared = result.model.embed(torch.zeros(2, 1, experiments.CONTEXT + 2, dtype=torch.long))
    assert torch.equal(shared[:, :, -1], shared[:, :, experiments.CONTEXT - 1])  # no vector was learned for it
    own = result.model.character[:, None, :1] + result.model.position  # of character 0, each place with its own vector
    assert torch.equal(shared[:, :, : experiments.CONTEXT], own)
