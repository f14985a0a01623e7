"""What the figures and the explorers draw and say is what the tools compute, and a bad prompt is refused in words."""

import base64

import numpy as np
import pytest
import torch
from plotly.callbacks import Points

import labkit
from labkit import factual_recall as recall
from labkit.factual_recall import explorer as drawing
from labkit.factual_recall import figures, study

PROMPT, DONOR, LONGER = (
    "The capital of France is",
    "The capital of Italy is",
    "Well, the capital city of Italy, Europe, is",
)


@pytest.fixture(scope="module")
def lm():
    return labkit.lm.load()


@pytest.fixture(scope="module")
def explorer(lm):
    return recall.explore(lm)


@pytest.fixture(scope="module")
def of_mlp(lm):
    return recall.explore_mlp(lm)


def drawn(explorer, **changed):
    return explorer.figure(**{name: control.value for name, control in explorer.controls.items()} | changed)


def z(trace):
    shape = tuple(map(int, trace.z["shape"].split(",")))
    return np.frombuffer(base64.b64decode(trace.z["bdata"]), np.float32).reshape(shape)


def percent(p):
    return f"{float(p):.1%}"


# ------------------------------------------------------------------ the first explorer
def test_the_map_and_the_embedding_sum_to_the_logit_difference(lm, explorer):
    prompts = recall.Prompts(lm, [PROMPT])
    a, o = recall.answers(lm, ["Paris", "Rome"]).tolist()
    share = recall.attribute(prompts.components(), recall.direction(lm, torch.tensor([a]), torch.tensor([o])))
    logits = prompts.logits()[0]
    table = z(explorer.live.data[1])
    assert table.shape == (30, 10)
    assert abs(table.sum() + float(share[0, 0]) - float(logits[a] - logits[o])) < 1e-3
    assert np.allclose(table, recall.by_block(lm, share)[0])
    assert f"of all components {float(logits[a] - logits[o]):+.2f}" in drawn(explorer).summary


def test_the_lens_is_the_logit_lens_at_every_position(lm, explorer):
    run = lm.run(lm.encode(PROMPT)[None], record=("*.residual", "final"))
    stream = torch.stack([*(run[f"{i}.residual"][0] for i in range(30)), run["final"][0]])
    answer = recall.answers(lm, ["Paris"]).expand(31 * 5)
    logits = recall.logit_lens(lm, stream).flatten(0, 1)
    ranks = 10 ** -z(explorer.live.data[0]) - 1
    assert np.abs(ranks - recall.rank(logits, answer).view(31, 5).numpy()).max() < 0.1
    assert explorer.live.data[0].customdata[30][4] == "at ·is: rank 1; ·Paris is first"


@pytest.mark.parametrize(("block", "part", "name"), [(23, 4, "L23H4"), (29, 9, "M29"), (0, 0, "L0H0")])
def test_zero_and_swap_are_those_of_the_library(lm, explorer, block, part, name):
    both = recall.Prompts(lm, [PROMPT, LONGER])
    a, o = recall.answers(lm, ["Paris", "Rome"]).tolist()
    clean = both.logits()[0].softmax(-1)
    swapped = recall.swap(both, [name], torch.tensor([1, 1]))
    for do, edits in ((drawing.LEAVE, {}), (drawing.ZERO, recall.zero(name)), (drawing.SWAP, swapped)):
        logits = both.logits(edits)[0]
        p = logits.softmax(-1)
        figure = drawn(explorer, block=block, part=part, do=do, donor=LONGER)
        assert figure.cards["P(answer)"] == f"{percent(clean[a])} → {percent(p[a])}"
        assert figure.cards["P(other)"] == f"{percent(clean[o])} → {percent(p[o])}"
        assert figure.cards["logit answer − other"].endswith(f"→ {float(logits[a] - logits[o]):.2f}")
        assert figure.cards["likeliest"].endswith(f"→ {lm.decode(logits.argmax()).strip()}")
        assert np.allclose(figure.data[4].x[:2], p[[a, o]], atol=1e-4)
        assert list(figure.data[2].x[:2]) == [part - 0.5, part + 0.5]


def test_a_click_on_the_map_chooses_the_component(explorer):
    explorer.live.data[1]._dispatch_on_click(Points(xs=[9], ys=[26]), None)
    assert (explorer.controls["part"].value, explorer.controls["block"].value) == (9, 26)
    assert "M26 swapped" in explorer._words.value
    explorer.controls["part"].value, explorer.controls["block"].value = 4, 23


def test_an_answer_of_several_tokens_is_scored_by_its_first_and_says_so(lm, explorer):
    figure = drawn(explorer, answer=" Ouagadougou ")
    first = lm.decode(recall.answers(lm, ["Ouagadougou"])).strip()
    assert f"its share of ·{first} − ·Rome (first tokens) is" in figure.summary
    assert figure.data[5].text[0].startswith(f"·{first} of Ouagado…: ")


@pytest.mark.parametrize("which", ["prompt", "donor", "answer", "other"])
def test_what_cannot_be_drawn_is_refused_in_the_widget(explorer, which):
    control = explorer.controls[which]
    kept, before = control.value, explorer.live.to_plotly_json()["data"][1]["z"]
    control.value = "  "
    assert f"{which}: type " in explorer._error.value
    if which in ("prompt", "donor"):
        control.value = "and " * 60
        assert f"{which}: it has 60 tokens; this picture reads at most 48" in explorer._error.value
    assert explorer.live.to_plotly_json()["data"][1]["z"] == before
    control.value = kept
    assert explorer._error.value == ""


def test_every_text_moves_the_picture_and_none_is_read_as_html(explorer):
    for name in ("prompt", "donor", "answer", "other"):
        before = str(drawn(explorer).data)
        value = explorer.controls[name].value
        assert str(drawn(explorer, **{name: f"{value} and the sea"}).data) != before, name
        figure = drawn(explorer, **{name: "<img src=x>"})
        assert "<img" not in str(figure.data) + str(figure.layout.xaxis.ticktext)


def test_a_prompt_of_one_token_and_one_of_the_most_are_drawn(explorer):
    assert z(drawn(explorer, prompt="Paris").data[0]).shape == (31, 1)
    assert z(drawn(explorer, prompt="and " * drawing.MOST).data[0]).shape == (31, drawing.MOST)


# ------------------------------------------------------------------ the second
@pytest.mark.parametrize("block", [20, 29])
def test_the_bars_of_an_mlp_sum_to_its_attribution(lm, of_mlp, block):
    figure = drawn(of_mlp, block=block)
    *parts, whole = figure.data[0].x
    prompts = recall.Prompts(lm, [PROMPT])
    components = prompts.components()
    share = recall.attribute(components, recall.direction(lm, recall.answers(lm, ["Paris"])))
    assert abs(sum(parts) - whole) < 1e-6
    assert abs(whole - float(share[0, components.names.index(f"M{block}")])) < 1e-3
    studied = study.decompositions(lm)[block]
    heads = torch.cat([components.of(f"L{block}H{h}") for h in range(9)])
    shares = heads @ recall.direction(lm, recall.answers(lm, ["Paris"]))[0] * components.scale
    assert np.allclose(parts[:9], studied.fit.coefficients * shares, atol=1e-4)
    assert np.allclose(figure.data[1].x, studied.fit.coefficients)
    run = prompts.run(record=(f"{block}.residual", f"{block}.attn_out", f"{block}.head_out"))
    x = run[f"{block}.residual"] + run[f"{block}.attn_out"]
    kappa = recall.causal_coefficient(recall.mlp(lm, block), x, run[f"{block}.head_out"])
    assert np.allclose(figure.data[2].x, kappa[0], atol=1e-4)
    assert figure.cards["R² against the mean"] == f"{studied.r2.centred:.3f}"


def test_the_study_holds_what_the_model_knows_and_its_fits(lm):
    studied = study.decompositions(lm)
    assert list(studied) == list(range(20, 30))
    table = recall.countries()
    for n, name in enumerate(study.STUDIED):
        of = {table[int(i)] for i in studied[24].country[studied[24].template == n]}
        assert of == set(recall.known(lm, recall.TEMPLATES[name]))
    block = studied[24]
    fit = recall.decompose_mlp(block.mlp_out, block.head_outs)
    assert torch.allclose(fit.coefficients, block.fit.coefficients)
    assert recall.r2(fit, block.mlp_out, block.head_outs) == pytest.approx(block.r2)
    assert study.decompositions(lm) is studied


def test_a_bad_prompt_of_the_second_is_refused_and_a_text_moves_it(of_mlp):
    before = str(drawn(of_mlp).data)
    for name in ("prompt", "answer"):
        control = of_mlp.controls[name]
        kept = control.value
        assert str(drawn(of_mlp, **{name: f"{kept} and the sea"}).data) != before, name
        control.value = ""
        assert f"{name}: type " in of_mlp._error.value
        control.value = kept
        assert of_mlp._error.value == ""
    assert "<img" not in str(drawn(of_mlp, answer="<img src=x>").data)


# ------------------------------------------------------------------ static figures
def test_static_figures_draw_and_say_their_numbers():
    ranks = torch.tensor([[40000, 999], [99, 0]])
    lens = figures.lens_figure(ranks, ["<b>", " is"])
    assert np.abs(10 ** -z(lens.data[0]) - 1 - ranks.numpy()).max() < 0.1
    assert list(lens.layout.xaxis.ticktext) == ["&lt;b&gt;", "·is"]
    assert "at the last token rank 1000 before the first block" in lens.summary
    with pytest.raises(ValueError, match="one for each of the 2 positions"):
        figures.lens_figure(ranks, ["is"])
    shares = torch.zeros(30, 10)
    shares[23, 4], shares[29, 9] = 2, -1
    table = figures.attribution_figure(shares)
    assert np.allclose(z(table.data[0]), shares) and "largest L23H4 +2.00" in table.summary
    assert "smallest M29 -1.00" in table.summary and "all together +1.00" in table.summary
    course = figures.ranks_figure({"answer": [99.0, 0.0], "topic": [9.0, 4.0]})
    assert list(course.data[0].y) == [100, 1] and course.layout.yaxis.type == "log"
    swap = figures.swap_figure({"L23H4": (0.25, 0.5)})
    assert [list(t.x) for t in swap.data] == [[0.25], [0.5]]
    assert "L23H4: its own answer 25%, the donor's 50%" in swap.summary
    both = figures.two_r2_figure({"24": (0.005, 0.748)})
    assert "block 24: centred: better than the mean 0.005, uncentred: better than zero 0.748" in both.summary
    knocked = figures.knock_out_figure({"0 to 4": 1.0, "23": 0.0})
    assert list(knocked.data[0].y) == [1, 0] and "blocks 23: 0%" in knocked.summary
    for figure in (lens, table, course, swap, both, knocked):
        assert figure.layout.title.text.endswith("?") and figure.layout.width <= 760 and figure.alt
