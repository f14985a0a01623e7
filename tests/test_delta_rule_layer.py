"""The DeltaNet layer is the paper's, its memory can be exchanged, and recall is asked for and measured rightly."""

import math

import pytest
import torch
from torch import Generator

from labkit.delta_rule import forms
from labkit.delta_rule.layer import DeltaNet, additive
from labkit.delta_rule.mqar import NOT_ASKED, accuracies, mqar, train

MEMORIES = {"delta": forms.chunkwise, "additive": additive}


def made(memory, d=6, heads=2, d_k=3, d_v=4, seed=0):
    torch.manual_seed(seed)
    layer = DeltaNet(d, heads, d_k=d_k, d_v=d_v, memory=memory).double()
    torch.nn.init.uniform_(layer.norm.weight, 0.5, 1.5)
    return layer


def text(b=2, t=9, d=6, seed=1):
    return torch.randn(b, t, d, dtype=torch.float64, generator=Generator().manual_seed(seed))


def silu(x):
    return x / (1 + math.exp(-x))


def one_token_at_a_time(layer, x, rule):
    """The layer for one sequence x (t d), in plain loops over tokens, heads and channels."""
    p = {name: weight.detach() for name, weight in layer.named_parameters()}

    def mixed(name, t):
        projected = [p[f"W_{name}.weight"] @ x[t - i] for i in range(4) if t >= i]
        taps = p[f"conv_{name}.w"]
        return [silu(sum(float(taps[i, c] * y[c]) for i, y in enumerate(projected))) for c in range(taps.shape[1])]

    heads, d_v = layer.heads, len(p["norm.weight"])
    d_k = len(p["W_k.weight"]) // heads
    S, out = torch.zeros(heads, d_k, d_v, dtype=x.dtype), []
    for t in range(len(x)):
        read = []
        for h in range(heads):
            q, k = (torch.tensor(mixed(name, t)[h * d_k : (h + 1) * d_k], dtype=x.dtype) for name in "qk")
            v = torch.tensor(mixed("v", t)[h * d_v : (h + 1) * d_v], dtype=x.dtype)
            q, k = q / q.square().sum().sqrt(), k / k.square().sum().sqrt()
            beta = 1 / (1 + math.exp(-float(p["W_b.weight"][h] @ x[t])))
            written = v - k @ S[h] if rule == "delta" else v
            S[h] += beta * torch.outer(k, written)
            o = q @ S[h] / math.sqrt(d_k)
            read.append(o / (o.square().mean() + 1e-5).sqrt() * p["norm.weight"])
        out.append(p["W_o.weight"] @ torch.cat(read))
    return torch.stack(out)


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize("rule", MEMORIES)
def test_the_layer_is_what_a_loop_over_tokens_computes(rule, heads):
    layer, x = made(MEMORIES[rule], heads=heads), text()
    expected = torch.stack([one_token_at_a_time(layer, sequence, rule) for sequence in x])
    torch.testing.assert_close(layer(x), expected, rtol=1e-9, atol=1e-9)


def test_every_form_is_a_memory_for_it():
    chunked, x = made(forms.chunkwise), text()
    for form in (forms.recurrent, forms.parallel):
        torch.testing.assert_close(made(form)(x), chunked(x), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("rule", MEMORIES)
def test_no_token_changes_what_came_before_it(rule):
    layer, x = made(MEMORIES[rule]), text()
    for t in range(x.shape[1]):
        changed = x.clone()
        changed[:, t] += 1
        differs = (layer(changed) - layer(x)).abs().amax((0, 2)) > 1e-9
        assert not differs[:t].any() and differs[t:].all()


@pytest.mark.parametrize("rule", MEMORIES)
def test_every_weight_learns(rule):
    layer = made(MEMORIES[rule])
    layer(text()).square().sum().backward()
    for name, weight in layer.named_parameters():
        assert weight.grad is not None and weight.grad.isfinite().all() and weight.grad.abs().max() > 0, name


def test_sizes_of_a_head_follow_from_d_unless_they_are_given():
    layer = DeltaNet(12, 3)
    assert layer(torch.randn(2, 5, 12)).shape == (2, 5, 12)
    assert layer.W_k.weight.shape == layer.W_v.weight.shape == (12, 12)


def test_layers_with_different_memories_differ_in_nothing_else():
    delta, added, x = made(forms.chunkwise), made(additive, seed=5), text()
    added.load_state_dict(delta.state_dict())
    assert not torch.allclose(added(x), delta(x))
    torch.testing.assert_close(added(x[:, :1]), delta(x[:, :1]))  # there is nothing to correct in an empty memory
    added.memory = delta.memory
    torch.testing.assert_close(added(x), delta(x))


@pytest.mark.parametrize(
    ("n_pairs", "rewrites", "t", "vocab"), [(8, 4, 40, 64), (5, 5, 25, 20), (3, 0, 30, 8), (0, 0, 4, 6)]
)
def test_each_query_wants_the_value_last_bound_to_its_key(n_pairs, rewrites, t, vocab):
    ids, targets = mqar(50, n_pairs, t, vocab, Generator().manual_seed(0), rewrites=rewrites)
    assert ids.shape == targets.shape == (50, t)
    for tokens, wanted in zip(ids.tolist(), targets.tolist(), strict=True):
        bound, times = {}, {}
        written, rest = tokens[: 2 * (n_pairs + rewrites)], tokens[2 * (n_pairs + rewrites) :]
        for key, value in zip(written[::2], written[1::2], strict=True):
            assert 0 < key < vocab // 2 <= value < vocab
            bound[key], times[key] = value, times.get(key, 0) + 1
        assert sorted(times.values()) == [1] * (n_pairs - rewrites) + [2] * rewrites
        assert len(set(written[1::2])) == n_pairs + rewrites
        assert sorted(rest) == sorted([*bound, *[0] * (len(rest) - n_pairs)])
        assert wanted == [NOT_ASKED] * len(written) + [bound.get(token, NOT_ASKED) for token in rest]


def test_first_and_second_bindings_are_anywhere_among_the_pairs():
    ids, targets = mqar(400, 6, 30, 32, Generator().manual_seed(0), rewrites=3)
    pairs = ids[:, :18].unflatten(1, (9, 2))
    twice = (pairs[:, :, None, 0] == pairs[:, None, :, 0]).sum(2) == 2
    assert twice.any(0).all() and not twice.all(0).any()
    assert (targets != NOT_ASKED).any(0)[18:].all()


def test_sequences_follow_from_the_generator_alone():
    one, same, other = (mqar(4, 6, 30, 32, Generator().manual_seed(seed), rewrites=2)[0] for seed in (0, 0, 1))
    assert torch.equal(one, same) and not torch.equal(one, other)


@pytest.mark.parametrize("sizes", [dict(t=31), dict(vocab=16), dict(rewrites=9), dict(rewrites=-1)])
def test_what_does_not_fit_is_refused(sizes):
    sizes = dict(n_pairs=8, rewrites=4, t=40, vocab=64) | sizes
    with pytest.raises(ValueError, match=r"expected 0 <= rewrites <= n_pairs"):
        mqar(1, generator=Generator(), **sizes)


@pytest.mark.parametrize(("remembers", "expected"), [("last", (1, 1)), ("first", (1, 0)), ("nothing", (0, 0))])
def test_accuracies_tell_keys_that_were_kept_from_keys_that_were_rewritten(remembers, expected):
    def model(ids):
        logits = torch.zeros(*ids.shape, 64)
        for n, tokens in enumerate(ids[:, :24].tolist()):
            pairs = list(zip(tokens[::2], tokens[1::2], strict=True))
            bound = dict(pairs if remembers == "last" else pairs[::-1])
            for t in range(24, ids.shape[1]):
                logits[n, t, 0 if remembers == "nothing" else bound.get(int(ids[n, t]), 0)] = 1
        return logits

    assert accuracies(model, *mqar(20, 8, 40, 64, Generator().manual_seed(0), rewrites=4)) == expected


def test_training_teaches_the_delta_rule_to_rewrite_and_the_additive_memory_to_guess():
    delta, added = (train(memory, [0]) for memory in MEMORIES.values())
    assert delta.state_floats == added.state_floats == 256 and delta.steps == added.steps
    assert min(delta.kept + delta.rewritten) > 0.9
    assert added.kept[0] > 0.8 and 0.4 < added.rewritten[0] < 0.75


def test_training_is_the_same_whatever_else_the_program_did():
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    first = train(additive, [3, 4], steps=20)
    assert torch.get_num_threads() == threads and torch.equal(torch.get_rng_state(), state)
    torch.randn(3)
    torch.set_num_threads(1)
    again = train(additive, [3, 4], steps=20)
    torch.set_num_threads(threads)
    assert (first.kept, first.rewritten) == (again.kept, again.rewritten)
    assert len(first.kept) == 2
