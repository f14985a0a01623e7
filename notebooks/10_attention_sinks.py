# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#       format_version: '1.3'
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Attention sinks
#
# **A language model parks the attention it has no use for on its first token. Keep that one token in a rolling cache, and
# the model reads on for ever; evict it, and its reading falls apart.**
#
# Paper: Xiao, Tian, Chen, Han, Lewis, *Efficient Streaming Language Models with Attention Sinks* (StreamingLLM, 2023),
# [arXiv 2309.17453](https://arxiv.org/abs/2309.17453). · About 60 minutes with the exercises · You need: softmax
# attention, and what a KV cache is (it holds the keys and values of earlier tokens, so that they need not be computed
# again).
#
# Run the cells in order. Sliders are live only while the kernel runs: after a restart, run their cell again.

# %%
import time

import torch
import torch.nn.functional as F  # noqa: F401 (for your answers)

import kernels
import labkit
from labkit import attention_sinks as sinks
from labkit.attention_sinks.excerpts import hamlet
from labkit.charts import bars, lines
from labkit.course import Todo, check, claim, exercise, predict, progress, reveal

lm = labkit.lm.load()

# %% [markdown]
# ## Predict
#
# SmolLM2, 135 million parameters, reads Hamlet with a cache of the last 128 tokens. Each new token evicts the oldest.
# Perplexity is the number of tokens that the model hesitates between, on average: with the whole text in view, it is
# about 18 here. **By what factor does it grow once the very first token of the text has been evicted?** Put your number
# in place of `None`. There is no prize for caution.

# %%
predict("attention_sinks.window", "perplexity grows by a factor of", None)

# %% [markdown]
# ## What the heads look at
#
# Two hundred tokens of Hamlet go through the model once, and we keep what flows by: every head's attention pattern, the
# values, and the residual stream. `lm.run(ids, record=…)` returns any of them by name.

# %%
ids = hamlet(lm, 640)
run = lm.run(ids[None, :200], record=("*.pattern", "*.value", "*.residual"))
layers = range(lm.config.n_layers)
on_first = torch.stack([run[f"{i}.pattern"][0, :, 1:, 0].mean(-1) for i in layers])  # (layer, head)
print("text begins:", repr(lm.decode(ids[:12])))
print(f"heads that put more than 0.3 of their weight on token 0: {(on_first > 0.3).float().mean():.0%}")

# %% [markdown]
# More than half of all heads give a third of their weight to a token that means nothing to them. Move the sliders: most
# heads from layer 12 on are one dark column. Take that column away, and a head's real work appears.

# %%
sinks.explore_map(lm)

# %% [markdown]
# ### Why the first token?
#
# Softmax weights must sum to one, so a head with nothing to say needs somewhere to put its weight. Token 0 is the one
# token that every later token can see. The model prepared it for the part: a block in the middle writes a huge vector
# into its residual stream, in two dimensions almost alone, and the heads give it small values.

# %%
norm = torch.stack([run[f"{i}.residual"][0].norm(dim=-1) for i in layers])  # (layer, t)
lines(
    {"token 0": norm[:, 0].tolist(), "median of the others": norm[:, 1:].median(1).values.tolist()},
    list(layers),
    title="How long is a token's residual vector when it enters each block?",
    x_title="block", y_title="norm", log=True,
)

# %%
start = int((norm[1:, 0] / norm[:-1, 0]).argmax())
massive = run[f"{start + 1}.residual"][0, 0]
two = massive.abs().topk(2)
print(f"block {start} multiplies the norm of token 0 by {norm[start + 1, 0] / norm[start, 0]:.3g}")
share = (two.values**2).sum() / massive.square().sum()
print(f"two of its {len(massive)} dimensions hold {share:.3%} of the squared length: "
      f"{two.indices.tolist()}")
values = torch.stack([run[f"{i}.value"][0].norm(dim=-1).mean(0) for i in layers])  # (layer, t)
late = slice(start + 1, 29)
print(f"mean norm of the values in blocks {start + 1} to 28: token 0 {values[late, 0].mean():.2f}, "
      f"others {values[late, 1:].mean():.2f}")

# %% [markdown]
# ## Reading with a cut cache
#
# How much worse does the model read when the cache is cut? We need a measure first.
#
# ### Exercise 1 · perplexity
#
# Perplexity is $\exp\big(-\frac1{t-1}\sum_i \ln p(x_{i+1}\mid x_{\le i})\big)$, and row $i$ of the logits speaks about
# token $i+1$.


# %% tags=["exercise"]
@exercise("attention_sinks.perplexity")  # difficulty 2/5 · 8 min · about 2 lines
def perplexity(logits, ids):
    """logits (t vocab), ids (t,) -> the perplexity of ids[1:], a tensor without dimensions."""
    raise Todo


# %% tags=["check"]
check("attention_sinks.perplexity")

# %%
print(f"whole text in view: perplexity {perplexity(lm(ids[None])[0], ids):.3g} over {len(ids)} tokens")

# %% [markdown]
# ### Exercise 2 · who sees whom
#
# StreamingLLM keeps the first `n_sink` tokens for ever and the last `window` tokens. Query $i$ sees key $j$ if
#
# $$ j \le i \quad\text{and}\quad (\, j < n_\text{sink} \ \text{ or } \ i - j \le \text{window} \,). $$


# %% tags=["exercise"]
@exercise("attention_sinks.window_mask")  # difficulty 1/5 · 5 min · about 2 lines
def window_mask(t, n_sink, window):
    """-> (t t) booleans: row i, column j is True where query i sees key j."""
    raise Todo


# %% tags=["check"]
check("attention_sinks.window_mask")

# %%
for row in window_mask(9, n_sink=1, window=3).int().tolist():
    print("  ".join("·■"[seen] for seen in row))

# %% [markdown]
# With that mask, a whole text takes one parallel pass instead of one pass a token. `sinks.streaming_nll` returns the loss
# of every next token; `sinks.token_by_token_nll` is the loop that it stands for, one token, one eviction at a time.

# %%
few = ids[:32]
loop = sinks.token_by_token_nll(lm, few, n_sink=1, window=12)
parallel = sinks.streaming_nll(lm, few, n_sink=1, window=12)
difference = (loop - parallel).abs().max()
print(f"largest difference over {len(loop)} tokens below 0.001 nats: {bool(difference < 1e-3)}")

# %% [markdown]
# Now the measurement. All ways see about the last 128 tokens, and we count only tokens from 192 on, when the
# cache has long been full. **Recompute** is the honest alternative to a cache: for every token, read the last 129 tokens
# afresh. It never breaks, and it costs a hundred times the work (16 tokens of it will do here).

# %%
WINDOW, FULL = 128, 192  # tokens kept; the first position that counts
loss = {"whole context": sinks.dense_nll(lm, ids)}
for n_sink in (0, 1, 4):
    loss[f"{n_sink} sinks + window"] = sinks.streaming_nll(lm, ids, n_sink=n_sink, window=WINDOW)
some = torch.linspace(FULL, len(ids) - 2, 16).long()
loss["recompute"] = sinks.recompute_nll(lm, ids, length=WINDOW + 1, at=some)


# %%
def ppl(name, at=slice(FULL, None)):
    """Perplexity over positions `at`; recompute has only `some`."""
    return loss[name][... if name == "recompute" else at].mean().exp().item()


bars(
    {name: ppl(name) for name in loss if name != "recompute"},
    title="How well does the model read on when its cache is cut?",
    axis=f"perplexity of Hamlet, tokens {FULL} to {len(ids) - 1}, window {WINDOW}",
    highlight=["1 sinks + window", "4 sinks + window"],
)

# %%
reveal("attention_sinks.window", ppl("0 sinks + window") / ppl("whole context"))
for name in loss:
    print(f"{name:>18}: {ppl(name, some):6.3g} on the {len(some)} tokens that were recomputed")

# %% [markdown]
# The paper's own figures for Llama-2-13B are 5158 (window), 5.40 (sinks), 5.43 (recompute): an explosion by a factor of a
# thousand. Here the window costs a factor of about four, and **one** sink gives nearly all of it back. Neither is a
# mistake: in the paper's table 2, two of four models lose less than a factor of two without sinks, and three of four are
# whole again with one. How much a model leans on its sink is the model's own habit.
#
# ### Exercise 3 · evict
#
# After each token the cache evicts. Of `n_slots` slots, which stay?


# %% tags=["exercise"]
@exercise("attention_sinks.keep_slots")  # difficulty 1/5 · 5 min · about 1 line
def keep_slots(n_slots, n_sink, window):
    """-> the slots of 0 … n_slots − 1 that stay, in order, as a list: the first n_sink and the newest
    `window`."""
    raise Todo


# %% tags=["check"]
check("attention_sinks.keep_slots")

# %% [markdown]
# ## Where does a token think it is?
#
# Rotary positions give each key and query a place, and only the *distance* between the two enters the score. Once tokens
# have been evicted, the places left over have holes. Three ways to go on:
#
# - **in the cache** (the paper's): renumber the slots 0, 1, 2 … at every step. The sink is never further away than
#   `n_sink + window`, however long the text has become.
# - **in the text** (original): keep every token's place. The sink drifts away, in the end further than the model was
#   ever trained for.
# - **frozen**: give each key its slot's number when it comes in, and never again. It looks like the first; watch the
#   distances.

# %%
sinks.explore_cache(lm)

# %% [markdown]
# ### Exercise 4 · the distance that counts
#
# Token `i` of a long stream looks at its slots, itself included, with positions given anew **in the cache**. How far away
# does it believe each slot to be?


# %% tags=["exercise"]
@exercise("attention_sinks.believed_distances")  # difficulty 2/5 · 8 min · about 2 lines
def believed_distances(i, n_sink, window):
    """-> (slots,) integers: the distance to each slot that token i sees, oldest first, itself last."""
    raise Todo


# %% tags=["check"]
check("attention_sinks.believed_distances")

# %%
print("token 1000, 1 sink, window 6:", believed_distances(1000, n_sink=1, window=6).tolist())
for positions in ("original", "frozen"):
    way = dict(n_sink=1, window=WINDOW, positions=positions)
    loss[f"{positions} positions"] = sinks.streaming_nll(lm, ids, **way)
print(f"cache {ppl('1 sinks + window'):.3g}, original {ppl('original positions'):.3g}, "
      f"frozen {ppl('frozen positions'):.3g}")

# %% [markdown]
# Within the trained context the first two are as good as each other. Frozen positions break the model, sink or no sink:
# every token in the window seems to be at distance 0. An implementation that forgets to renumber produces an explosion
# that has nothing to do with sinks, so look at positions first when you see one.
#
# Play with all of it, on Hamlet, on the Book of Exodus, or on a text of your own:

# %%
sinks.explore_perplexity(lm)

# %% [markdown]
# ## What is a sink?
#
# Does the *text* of the first token matter? Replace the first four tokens by line breaks and read the rest again.

# %%
newlines = ids.clone()
newlines[:4] = lm.encode("\n")
loss["4 newlines + window"] = sinks.streaming_nll(lm, newlines, n_sink=4, window=WINDOW)
print(f"first four tokens as they are {ppl('4 sinks + window'):.3g}, "
      f"as line breaks {ppl('4 newlines + window'):.3g}")

# %% [markdown]
# It is being first that makes a sink. Now take the sink apart, with `edit`: `lm.run` lets any intermediate be replaced.
# Replace the sink's *logit* by one constant for each head; or take away its *value*, so that it only fills up the
# denominator; or both, or pretend it has logit 0 and value 0 (the "softmax-off-by-one").


# %%
def constant_logit(scores):
    """Every query but the first gives the sink its head's mean logit."""
    scores[:, :, 1:, 0] = scores[:, :, FULL:, 0].mean(-1, keepdim=True)
    return scores


def without_value(pattern):
    """The sink takes its share of the weight and gives nothing."""
    pattern[:, :, 1:, 0] = 0
    return pattern


def zero_logit(scores):
    scores[:, :, 1:, 0] = 0
    return scores


# %%
one_sink = sinks.SinkAttention(n_sink=1, window=WINDOW)
edits = {
    "constant logit": {"*.scores": constant_logit},
    "no value": {"*.pattern": without_value},
    "off by one": {"*.scores": zero_logit, "*.pattern": without_value},
}
for name, edit in edits.items():
    loss[name] = sinks.nll(lm, ids, cache=one_sink, edit=edit)
bars(
    {"one sink": ppl("1 sinks + window")}
    | {name: ppl(name) for name in edits}
    | {"evicted": ppl("0 sinks + window")},
    title="Which part of the sink does the model need?",
    axis="perplexity", highlight=["constant logit"],
)

# %% [markdown]
# A constant does nearly as well as the real logit: what a head pays to the sink hardly depends on the query. But the
# *value* is needed, small as it is: without it the perplexity is half as high again, and the off-by-one softmax does worse
# still (though better than no sink at all). So the sink is a **learned bias**, $k'$ and $v'$ in every head (Sun et al.
# 2024, arXiv 2402.17762), hidden in a token. "The sink does nothing" is not true here.
#
# Later models make the bias explicit: gpt-oss learns one logit for each head that joins the denominator and has no value.
#
# ### Exercise 5 · a softmax with a sink logit
#
# $$ p_j = \frac{e^{s_j}}{\sum_{j'} e^{s_{j'}} + e^{\text{sink}}} $$


# %% tags=["exercise"]
@exercise("attention_sinks.softmax_with_sink")  # difficulty 3/5 · 10 min · about 3 lines
def softmax_with_sink(scores, sink):
    """scores (h i j), sink (h) -> weights (h i j); rows sum to less than 1. Stable for large scores."""
    raise Todo


# %% tags=["check"]
check("attention_sinks.softmax_with_sink")

# %%
scores = torch.tensor([[[2.0, 1.0, 0.0]]])
for logit in (-4.0, 0.0, 4.0):
    p = softmax_with_sink(scores, torch.tensor([logit]))
    weights = ", ".join(f"{x:.2f}" for x in p.flatten())
    print(f"sink logit {logit:+.0f}: weights {weights}, sum {p.sum():.2f}")

# %% [markdown]
# ## The forms agree
#
# `masked` is the definition: all $t^2$ scores, most of them masked away. `banded` computes only the band and the sinks,
# so its cost is linear in $t$. `kernel` is the same on the GPU, in Triton; on your machine, Triton's interpreter runs it.

# %%
torch.manual_seed(0)
q, k, v = torch.randn(3, 1, 2, 200, 32)
settings = dict(n_sink=2, window=40, sink_logits=torch.tensor([0.5, -1.0]))
definition = sinks.masked(q, k, v, **settings)
difference = (sinks.banded(q, k, v, **settings) - definition).abs().max()
print(f"banded equals masked to 1e-5: {bool(difference < 1e-5)}")

# %% tags=["nbval-ignore-output"]
for t in (1024, 2048, 4096):
    q, k, v = torch.randn(3, 1, 3, t, 64)
    took = {}
    for form in (sinks.masked, sinks.banded):
        began = time.perf_counter()
        form(q, k, v, n_sink=4, window=128)
        took[form.__name__] = time.perf_counter() - began
    print(f"t = {t}: masked takes {took['masked'] / took['banded']:.1f} × the time of banded")

# %% [markdown]
# ## Is it faster?
#
# The alternative that reads as well is to recompute the window for every token. The paper reports up to 22.2 × on its
# GPU. A step with a full cache against a forward pass over the same tokens, on your CPU:

# %% tags=["nbval-ignore-output"]
ratio = {}
for window in (32, 128, 384):
    cache = sinks.SinkCache(1, window)
    lm.run(ids[None, : window + 1], cache=cache, logits_at=slice(-1, None))
    steps = []
    for _ in range(3):
        began = time.perf_counter()
        lm(ids[None, :1], cache=cache)
        middle = time.perf_counter()
        lm.run(ids[None, : window + 2], logits_at=slice(-1, None))
        steps.append((time.perf_counter() - middle) / (middle - began))
    ratio[window] = sorted(steps)[1]
    print(f"cache of 1 + {window}: recomputing takes {ratio[window]:.1f} × as long as a step with it")

# %% [markdown]
# ## The kernel
#
# One program of the kernel owns a block of queries. It goes over blocks of keys and keeps, for each query, the running
# maximum $m$, the running sum $\ell$ and the running output: the **online softmax**. Scores live in registers and never
# reach memory.
#
# ### Exercise 6 · one step of the online softmax


# %% tags=["exercise"]
@exercise("attention_sinks.online_softmax_step")  # difficulty 3/5 · 12 min · about 4 lines
def online_softmax_step(m, l, acc, scores, v):
    """m (i), l (i), acc (i d) so far; scores (i j), v (j d) of the next block -> the new (m, l, acc).

    l and acc are sums of exp(score − m) and of exp(score − m) · v over all keys so far.
    """
    raise Todo


# %% tags=["check"]
check("attention_sinks.online_softmax_step")

# %%
scores, v = torch.randn(3, 12), torch.randn(12, 4)
m, l, acc = torch.full((3,), -torch.inf), torch.zeros(3), torch.zeros(3, 4)
for block in range(0, 12, 4):
    m, l, acc = online_softmax_step(m, l, acc, scores[:, block : block + 4], v[block : block + 4])
once = scores.softmax(-1) @ v
print("three blocks equal one softmax:", torch.allclose(acc / l[:, None], once, atol=1e-6))

# %% [markdown]
# ### Exercise 7 · what may be skipped
#
# Most blocks of keys hold nothing that a block of queries may see, and a good kernel never loads them. Which blocks must
# query block `n` visit? (Queries and keys have blocks of the same size; the text goes on past this block.)


# %% tags=["exercise"]
@exercise("attention_sinks.blocks_to_visit")  # difficulty 4/5 · 12 min · about 4 lines
def blocks_to_visit(n, block, n_sink, window):
    """-> the sorted list of key blocks that queries n·block … (n+1)·block − 1 need, each once."""
    raise Todo


# %% tags=["check"]
check("attention_sinks.blocks_to_visit")

# %%
for n in range(8):
    visited = blocks_to_visit(n, block=16, n_sink=1, window=24)
    print(" ".join("■" if j in visited else "·" for j in range(8)))

# %% [markdown]
# ### The real one
#
# `kernels/attention_sinks.py` is the whole kernel, forward and backward, in about a hundred lines; `key_blocks` in it is
# your exercise 7, and the loop below it exercise 6. Without a GPU, Triton's interpreter runs it here, tile by tile, and
# `kernel_lab` watches what it reads.

# %%
if kernels.WHERE == "nowhere":
    print("Triton does not exist on this platform: read on, and run this section on Linux.")
else:
    from labkit import kernel_lab

    q, k, v = torch.randn(3, 1, 2, 200, 32)
    settings = dict(n_sink=2, window=40, sink_logits=torch.tensor([0.5, -1.0]))
    with kernel_lab.trace() as log:
        out = sinks.kernel(q, k, v, **settings)
    same = (out - sinks.masked(q, k, v, **settings)).abs().max() < 1e-5
    print("the kernel equals the definition:", bool(same))

# %%
if kernels.WHERE == "interpreted":
    visits = kernel_lab.tile_map(log, "k", block=32)
    display(sinks.draw_visits(visits, block_q=64, block_k=32))

# %% [markdown]
# Every row is a program (a block of queries), every column a block of keys: the first one holds the sinks, and the band
# moves along. The lower left of the square, most of it in a long text, is never read.
#
# What does the code become on a GPU? Triton compiles ahead of time, without one: registers for each thread, bytes spilled
# because registers ran out, and instructions that multiply matrices on tensor cores.

# %%
if kernels.WHERE != "nowhere":
    from kernels.attention_sinks import CASES

    case = next(case for case in CASES if "forward" in case.name and "bfloat16 d=64" in case.name)
    report = kernel_lab.compile_report(case, "sm_90")
    print(f"{report.name} on {report.target}: {report.spills} bytes spilled, "
          f"tensor-core instructions: {report.tensor_core > 0}")

# %% [markdown]
# ## Where it breaks: a sink is not a memory
#
# The stream reads fluently for ever, but what has left the window is gone. Put a number at the beginning, Hamlet in
# between, and ask for the number at the end.

# %%
secret = lm.encode("The pass key is 71432. Remember it: 71432.\n\n")
question = lm.encode("\n\nThe pass key is 71432")
filler = hamlet(lm, 400)
ways = {"whole context": {}, "1 sink + window": dict(cache=one_sink)}
asked = {}
for between in (40, 240):
    text = torch.cat([secret, filler[:between], question])
    for name, way in ways.items():
        asked[f"{name}, {between} tokens later"] = sinks.nll(lm, text, **way)[-5:].mean().item()
bars(
    asked | {"guessing a digit": torch.tensor(10.0).log().item()},
    title="What does the pass key cost, after some Hamlet?", axis="nats for each of its five digits",
)

# %% [markdown]
# Once the pass key has left the window, the stream does worse than guessing. A million tokens of streaming are not a
# million tokens of context.
#
# ## What the paper claims, what we measured

# %%
paper, on = "StreamingLLM, arXiv 2309.17453", f"SmolLM2-135M, Hamlet, window {WINDOW}"
ratio_of = {
    "recompute": ppl("recompute") / ppl("4 sinks + window", some),
    "one": ppl("1 sinks + window") / ppl("4 sinks + window"),
    "none": ppl("0 sinks + window") / ppl("4 sinks + window"),
    "newlines": ppl("4 newlines + window") / ppl("4 sinks + window"),
    "frozen": ppl("frozen positions") / ppl("1 sinks + window"),
    "constant": ppl("constant logit") / ppl("1 sinks + window"),
}

# %%
r = ratio_of["recompute"]
claim("attention_sinks.sinks_equal_recompute", paper=paper, on=on, holds=abs(r - 1) < 0.1,
      says="5.40 with sinks, 5.43 recomputed (Figure 1)",
      measured=f"perplexity recomputed / with sinks: {r:.2f}")
r = ratio_of["one"]
claim("attention_sinks.one_sink_is_enough", paper=paper, on=on, holds=abs(r - 1) < 0.03,
      says="one sink restores three of four models (Table 2)",
      measured=f"perplexity with 1 sink / with 4: {r:.2f}")
r = ratio_of["newlines"]
claim("attention_sinks.newlines_do_as_well", paper=paper, on=on, holds=r < 1.05,
      says="line breaks as sinks: 5.60 against 5.40 (Table 1)",
      measured=f"perplexity with line breaks / with the original first tokens: {r:.2f}")

# %%
r = ratio_of["none"]
claim("attention_sinks.collapse_without_sinks", paper=paper, on=on, holds=r > 100,
      says="without sinks 5158 against 5.40 (Table 1)",
      measured=f"perplexity without / with sinks: {r:.2f}",
      why="This model leans less on its sink; so do Falcon and Pythia in Table 2.")
r = ratio_of["frozen"]
claim("attention_sinks.frozen_positions_break_it", paper=paper, on=on, holds=r > 5,
      says="positions are those within the cache (§3.2)",
      measured=f"perplexity frozen / in the cache, with a sink: {r:.2f}")
r = ratio_of["constant"]
claim("attention_sinks.a_sink_is_a_bias", paper="Sun et al., arXiv 2402.17762", on=on,
      says="massive activations act as a bias", holds=r < 1.05,
      measured=f"perplexity with a constant sink logit / with the real one: {r:.2f}")

# %% tags=["nbval-ignore-output"]
grows = ratio[32] < ratio[128] < ratio[384]
claim("attention_sinks.decode_beats_recomputation", paper=paper, holds=grows,
      says="up to 22.2 × faster than recomputing, on a GPU", on="SmolLM2-135M, CPU",
      measured=", ".join(f"{r:.2g} × at {w}" for w, r in ratio.items()),
      why="" if grows else "Timings on a busy machine: run the cell again.")

# %% [markdown]
# ## Recap
#
# - Softmax must spend its weight; the model spends what is left over on token 0, which it prepares for that.
# - Keep that one token and a window, renumber the slots, and the model reads on at a constant cost for each token.
# - The sink is a learned bias. Its value is small, and needed.
# - What has left the window is forgotten.

# %%
progress("attention_sinks")
