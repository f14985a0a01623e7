"""The language model is the one that its weights were trained for, and its taps tell the truth."""

import functools
import re

import pytest
import torch

import labkit
from labkit import assets
from labkit.lm import Cache, names

TEXTS = [
    "The capital of France is",
    "def f(x):\n    return x + 12345\n",
    "Ünïcödé — naïve 日本語 text, <|endoftext|> and 3.14159!",
]


@pytest.fixture(scope="module")
def lm():
    return labkit.lm.load()


@pytest.fixture(scope="module")
def peer(tmp_path_factory):
    """transformers' own reading of the same GGUF file: weights, rotary layout and tokenizer, none of it ours."""
    import gguf
    import transformers

    file = assets.path("smollm2")
    there = dict(gguf_file=file.name, local_files_only=True)
    with pytest.MonkeyPatch.context() as once:  # it reads the same file and makes the same table again and again
        for slow in ("GGUFReader", "get_tensor_name_map"):
            once.setattr(gguf, slow, functools.cache(getattr(gguf, slow)))
        model = transformers.AutoModelForCausalLM.from_pretrained(file.parent, dtype=torch.float32, **there).eval()
        return model, transformers.AutoTokenizer.from_pretrained(file.parent, **there)


def text_of(lm, t):
    return lm.encode(" ".join(f"{i} is a number and so is {i * 7}." for i in range(t)))[:t]


def test_logits_equal_those_of_transformers(lm, peer):
    for text in TEXTS:
        ids = lm.encode(text)[None]
        with torch.no_grad():
            expected = peer[0](ids).logits
        assert (lm(ids) - expected).abs().max() < 1e-3


def test_logits_with_a_cache_equal_those_of_transformers(lm, peer):
    for text in TEXTS:
        ids, cache = lm.encode(text)[None], Cache()
        with torch.no_grad():
            expected = peer[0](ids).logits
        steps = [lm(ids[:, :3], cache=cache), *(lm(ids[:, i : i + 1], cache=cache) for i in range(3, ids.shape[1]))]
        assert (torch.cat(steps, dim=1) - expected).abs().max() < 1e-3


def test_the_tokenizer_equals_that_of_transformers(lm, peer):
    for text in [*TEXTS, "  two spaces\n\n\ttabs  ", "a" * 50, "Wherefore art thou Romeo?"]:
        assert lm.encode(text).tolist() == peer[1](text)["input_ids"]
        assert lm.decode(lm.encode(text)) == text


def test_a_text_cut_anywhere_continues_unchanged(lm):
    ids = text_of(lm, 24)[None]
    whole = lm(ids)
    for cut in (1, 7, 23):
        cache = Cache()
        parts = torch.cat([lm(ids[:, :cut], cache=cache), lm(ids[:, cut:], cache=cache)], dim=1)
        assert torch.allclose(parts, whole, atol=1e-3)
        assert len(cache) == 24


def test_a_batch_is_its_texts_one_by_one(lm):
    ids = text_of(lm, 24).view(2, 12)
    assert torch.allclose(lm(ids), torch.cat([lm(ids[:1]), lm(ids[1:])]), atol=1e-3)


def test_an_evicted_slot_is_no_longer_seen(lm):
    ids, cache = text_of(lm, 12)[None], Cache()
    lm(ids[:, :11], cache=cache)
    cache.keep(torch.tensor([0, 9, 10]))
    run = lm.run(ids[:, 11:], cache=cache, record="5.pattern")
    assert run["5.pattern"].shape == (1, 9, 1, 4)
    assert cache.positions.tolist() == [0, 9, 10, 11]
    assert cache.n_bytes() == 2 * 30 * 3 * 4 * 64 * 4


def test_every_name_is_recorded_in_its_shape(lm):
    b, t, h, kv, d_h, d = 2, 5, 9, 3, 64, 576
    shapes = dict(residual=(b, t, d), query=(b, h, t, d_h), key=(b, kv, t, d_h), value=(b, kv, t, d_h), scores=(b, h, t, t),
                  pattern=(b, h, t, t), mixed=(b, h, t, d_h), head_out=(b, h, t, d), attn_out=(b, t, d),
                  mlp_hidden=(b, t, 1536), mlp_out=(b, t, d), embedding=(b, t, d), final=(b, t, d))  # fmt: skip
    run = lm.run(text_of(lm, 10).view(b, t), record="*")
    assert set(run.values) == set(names(30))
    for name, value in run.values.items():
        assert value.shape == shapes[name.rpartition(".")[2]], name


def test_what_is_recorded_adds_up_to_the_residual_stream(lm):
    run = lm.run(text_of(lm, 8)[None], record="*")
    total = run["embedding"] + sum(run[f"{i}.head_out"].sum(1) + run[f"{i}.mlp_out"] for i in range(30))
    assert (total - run["final"]).abs().max() < 1e-2 * run["final"].abs().max() * 1e-2
    assert torch.allclose(lm.unembed(run["final"]), run.logits)
    assert torch.allclose(run["3.pattern"].sum(-1), torch.ones(1, 9, 8))


def test_recording_changes_nothing(lm):
    ids = text_of(lm, 20)[None]
    assert torch.allclose(lm.run(ids, record="*").logits, lm(ids), atol=1e-3)


def test_an_edit_reaches_what_comes_after_it_and_nothing_before(lm):
    ids = text_of(lm, 8)[None]
    plain = lm.run(ids, record="*.residual")
    edited = lm.run(ids, record=("*.residual", "7.mlp_out"), edit={"7.mlp_out": torch.zeros_like})
    assert torch.equal(edited["7.residual"], plain["7.residual"])
    assert not torch.equal(edited["8.residual"], plain["8.residual"])
    assert edited["7.mlp_out"].abs().max() == 0  # what is recorded is what was used


@pytest.mark.parametrize("name", [name for name in names(30) if not name[0].isdigit() or name.startswith("2.")])
def test_every_name_can_be_edited(lm, name):
    ids = text_of(lm, 6)[None]
    assert (lm.run(ids, edit={name: lambda x: x.roll(1, dims=-1)}).logits - lm(ids)).abs().max() > 1e-3


def test_replacing_a_value_by_itself_changes_nothing(lm):
    ids = text_of(lm, 6)[None]
    run = lm.run(ids, record="*.head_out")
    assert torch.allclose(lm.run(ids, edit=dict(run.values)).logits, run.logits, atol=1e-3)


def test_logits_are_computed_only_where_they_are_wanted(lm):
    ids = text_of(lm, 9)[None]
    last = lm.run(ids, logits_at=slice(-1, None)).logits
    assert last.shape == (1, 1, 49152)
    assert torch.allclose(last, lm(ids)[:, -1:], atol=1e-3)


@pytest.mark.parametrize(
    "call, says",
    [
        (lambda lm: lm.encode(""), "text: expected a string with at least one character, got ''"),
        (lambda lm: lm.encode(None), "text: expected a string"),
        (lambda lm: lm(lm.encode("a b")), "ids: expected integers of shape (b t)"),
        (lambda lm: lm(torch.zeros(1, 0, dtype=torch.long)), "ids: expected integers of shape (b t) with t >= 1"),
        (lambda lm: lm(torch.zeros(1, 2)), "got (1, 2) torch.float32"),
        (lambda lm: lm(torch.tensor([[49152]])), "ids: expected 0 <= id < 49152"),
        (
            lambda lm: lm(torch.zeros(1, 8193, dtype=torch.long)),
            "token 8193 is past the model's context of 8192 tokens",
        ),
        (lambda lm: lm.run(torch.tensor([[1]]), record="patern"), "nothing is called 'patern'"),
        (lambda lm: lm.run(torch.tensor([[1]]), record="30.pattern"), "nothing is called '30.pattern'"),
        (lambda lm: lm.run(torch.tensor([[1]]), edit={"3.pattrn": torch.zeros_like}), "edit: nothing is called"),
        (
            lambda lm: lm.run(torch.tensor([[1]]), edit={"3.value": torch.zeros(3)}),
            "expected a tensor of shape (1, 3, 1, 64)",
        ),
    ],
)
def test_bad_input_is_refused_in_one_sentence(lm, call, says):
    with pytest.raises(ValueError, match=re.escape(says)) as refused:
        call(lm)
    assert "\n" not in str(refused.value)


def test_a_cache_refuses_another_batch(lm):
    cache = Cache()
    lm(torch.tensor([[1, 2]]), cache=cache)
    with pytest.raises(ValueError, match="it holds a batch of 1, the tokens come in 2"):
        lm(torch.tensor([[1], [2]]), cache=cache)


def test_asking_for_what_was_not_recorded_says_how_to_record_it(lm):
    with pytest.raises(KeyError, match=r"pass record='3.pattern' to lm.run"):
        lm.run(torch.tensor([[1]]))["3.pattern"]


def test_a_warm_load_takes_less_than_three_seconds(lm):
    import time

    began = time.perf_counter()
    labkit.lm.load()
    assert time.perf_counter() - began < 3
