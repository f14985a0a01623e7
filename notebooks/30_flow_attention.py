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
# # Flow attention
#
# **Attention without the softmax costs a token the same however long the text, but treats all tokens nearly alike. Make
# it a flow network in which what flows is conserved, and the tokens have to compete.**
#
# Paper: Wu, Wu, Xu, Wang, Long, *Flowformer: Linearizing Transformers with Conservation Flows* (2022),
# [arXiv 2202.06258](https://arxiv.org/abs/2202.06258). · About 85 minutes with the exercises · You need: matrix
# products, the softmax, and what queries, keys and values are.
#
# Run the cells in order. Sliders are live only while the kernel runs: after a restart, run their cell again.

# %%
import math
import time

import torch
import torch.nn.functional as F
from einops import einsum, rearrange, repeat  # noqa: F401 (for your answers)

import kernels
import labkit
from labkit import flow_attention
from labkit.charts import dots, lines, visits
from labkit.course import Todo, check, claim, exercise, predict, progress, reveal
from labkit.flow_attention import causal, experiments, figures
from labkit.flow_attention.layer import BIDIRECTIONAL, CAUSAL, evenness
from labkit.texts import play

# %% [markdown]
# ## Predict
#
# A row of attention weights says how much one token takes from each of the others. Call a row's **evenness** its
# entropy divided by the largest entropy it could have: 1 if it takes the same from all, 0 if it takes everything from
# one. We read a hundred tokens of Hamlet with SmolLM2, a real language model, and take the queries and keys of one of
# its layers. With the softmax, their rows have a mean evenness of about 0.6. Now leave the softmax away, and take
# **linear attention**'s weights of the *same* queries and keys,
# $(\operatorname{elu}(q)+1)\cdot(\operatorname{elu}(k)+1)$. **How even are they?** Put a number between 0 and 1 in
# place of `None`.

# %%
predict("flow_attention.evenness", "evenness of linear attention's rows, same queries and keys", None)

# %% [markdown]
# ## What linear attention loses
#
# Attention compares every query with every key. Without a softmax, $(\phi(q_i)\cdot\phi(k_j))$ needs no such matrix: by
# associativity $\sum_j (\phi(q_i)\cdot\phi(k_j))\, v_j = \phi(q_i) \sum_j \phi(k_j)^\top v_j$, and the sum on the right
# is made once, for all queries. That is why a token costs the same however many there are. What is lost?

# %%
lm = labkit.lm.load()
ids = lm.encode(play("Hamlet")[2000:])[:96]
run = lm.run(ids[None], record=("15.query", "15.key"))
q_lm, k_lm = run["15.query"], repeat(run["15.key"], "b h t d -> b (h n) t d", n=3)
rows = {mechanism.name: mechanism.weights(q_lm, k_lm)[0] for mechanism in CAUSAL}
noise = torch.randn(2, *q_lm.shape, generator=torch.Generator().manual_seed(1))
so_far = torch.arange(1, len(ids) + 1)  # how many tokens a row may draw on
on_lm = {name: evenness(weights, so_far).mean().item() for name, weights in rows.items()}
on_noise = {mechanism.name: evenness(mechanism.weights(*noise), so_far).mean().item()
            for mechanism in CAUSAL}
reveal("flow_attention.evenness", on_lm["linear"])
for name, even in on_lm.items():
    print(f"{name:25} evenness {even:.3f}, on random queries and keys {on_noise[name]:.3f}")

# %%
figures.rows_figure({name: weights[4, :24, :24] for name, weights in rows.items()},
                    title="From which tokens up to its own does each token take?")

# %% [markdown]
# Nearly uniform: each token gets the mean of all values up to it. A softmax makes differences by exponentials; a product
# of positive features does not of itself. The paper calls this **degeneration**, and its idea against it is that tokens
# should *compete*. Look also at the two maps for flow attention, though: on queries and keys that were trained for a
# softmax, it is no less even. We come back to this with models that were trained for it. (SmolLM2 rotates queries and keys
# by their places before it compares them; these are the ones before the rotation, for all four alike.)
#
# ## A network
#
# Think of attention as pipes. Values flow from **sources**, one a key, to **sinks**, one a query. The pipe from source
# $j$ to sink $i$ has the **capacity** $A_{ij} = \phi(q_i)\cdot\phi(k_j)$, where $\phi$ is the sigmoid, so that no
# capacity is negative. What comes in at a sink, and what goes out of a source, are sums:
#
# $$ I_i = \sum_j A_{ij}, \qquad O_j = \sum_i A_{ij}. $$

# %%
figures.draw_network(stage="capacities")

# %% [markdown]
# ### Exercise 1 · what flows


# %% tags=["exercise"]
@exercise("flow_attention.flows")  # difficulty 1/5 · 4 min · about 1 line
def flows(capacity):
    """capacity (L S) -> (incoming (L), outgoing (S)): what flows into each sink, out of each source."""
    raise Todo


# %% tags=["check"]
check("flow_attention.flows")

# %% [markdown]
# ## Conservation
#
# So far, a source can give more by having larger features, at nobody's cost. Now fix what flows. Let **every source
# give out 1**: divide each pipe by its source's outgoing flow. What then comes in at a sink is its share of a fixed
# amount,
#
# $$ \hat I_i = \sum_j \frac{A_{ij}}{O_j}. $$
#
# And let **every sink take in 1**: what then goes out of a source says how much the sinks want *it* rather than the
# others,
#
# $$ \hat O_j = \sum_i \frac{A_{ij}}{I_i}. $$

# %%
figures.draw_network(stage="outgoing")

# %% [markdown]
# ### Exercise 2 · conserve


# %% tags=["exercise"]
@exercise("flow_attention.conserve")  # difficulty 2/5 · 8 min · about 2 lines
def conserve(capacity):
    """capacity (L S) -> (conserved_incoming (L), conserved_outgoing (S)). Leaves `capacity` alone."""
    raise Todo


# %% tags=["check"]
check("flow_attention.conserve")

# %% [markdown]
# Conservation is an identity, so it can be run. $S$ sources that give out 1 each fill the sinks with $S$ in all, and
# $L$ sinks that take in 1 each take $L$ from the sources, whatever the capacities. Here for heads of three sizes, in
# float64:

# %%
g = torch.Generator().manual_seed(0)
off = []
for L, S, d in [(50, 70, 16), (1000, 30, 64), (7, 2000, 4)]:
    q = 3 * torch.randn(1, 2, L, d, generator=g, dtype=torch.float64)
    k = 3 * torch.randn(1, 2, S, d, generator=g, dtype=torch.float64)
    flow = flow_attention.flows(q, k)
    into, out = flow.conserved_incoming.sum(-1), flow.conserved_outgoing.sum(-1)
    off += [(into / S - 1).abs().max().item(), (out / L - 1).abs().max().item()]
    print(f"{S:5} sources give {into[0, 0]:.6f}, {L:5} sinks take {out[0, 0]:.6f}")
print("exact to 1e-12:", max(off) < 1e-12)

# %% [markdown]
# ## Sources compete
#
# $\hat O_j$ is what a source is worth. Its mean is $L/S$; to be worth more, a source must take it from others. The
# paper makes of it a factor for the source's value, by a softmax over all sources:
#
# $$ c = S \operatorname{softmax}(\hat O). $$
#
# The softmax is over **one number a source**, and not over a row for each sink, so it costs almost nothing. $S$ makes the
# mean of $c$ 1. The published code also cuts $\hat O$ off above 1 before the softmax, "for stability": here, `clamp`.
#
# ### Exercise 3 · compete


# %% tags=["exercise"]
@exercise("flow_attention.compete")  # difficulty 2/5 · 5 min · about 1 line
def compete(conserved_outgoing, clamp):
    """conserved_outgoing (S), a number -> c (S), whose mean is 1. Leaves its input alone."""
    raise Todo


# %% tags=["check"]
check("flow_attention.compete")

# %% [markdown]
# What does that clamp do? As many sources as sinks have a mean worth of exactly 1, so that it cuts off all that are
# worth more than average. With more sinks than sources, it cuts off nearly all:

# %%
q, k = torch.randn(2, 1, 8, 200, 16, generator=g)
for n_sources in (400, 200, 100, 50):
    k = torch.randn(1, 8, n_sources, 16, generator=g)
    worth = flow_attention.flows(q, k).conserved_outgoing
    c = {clamp: n_sources * worth.clamp(max=clamp).softmax(-1) for clamp in (1.0, math.inf)}
    print(f"200 sinks, {n_sources} sources: {(worth > 1).float().mean():4.0%} cut off; "
          f"c from {c[1.0].min():.2f} to {c[1.0].max():.2f}; "
          f"without the clamp, {c[math.inf].min():.2f} to {c[math.inf].max():.2f}")

# %% [markdown]
# With twice as many sinks as sources, the published competition is **off** here: every $c_j$ is 1. And there is a bound.
# $\hat O$ is positive and at most 1, so no source's factor is ever more than $e \approx 2.72$ times another's. Keep
# this in mind for the end.
#
# ## Sinks are allocated
#
# $\hat I_i$ is the sink's side: how much of what the sources give reaches it. It becomes a gate,
# $a = \sigma(\hat I L/S)$, whose argument has the mean 1. ($\hat I$ is positive, so the gate lies between ½ and 1.)
# Together:
#
# $$ \text{out}_i = a_i \sum_j \frac{A_{ij}}{I_i}\, c_j\, v_j. $$
#
# ### Exercise 4 · the whole matrix


# %% tags=["exercise"]
@exercise("flow_attention.weigh")  # difficulty 3/5 · 12 min · about 5 lines
def weigh(capacity, clamp):
    """capacity (L S), a number -> weights (L S): a_i (A_ij / I_i) c_j."""
    raise Todo


# %% tags=["check"]
check("flow_attention.weigh")

# %%
q, k, v = (torch.randn(1, 1, n, 16, generator=g) for n in (9, 12, 12))
capacity = torch.sigmoid(q[0, 0]) @ torch.sigmoid(k[0, 0]).T
mine = weigh(capacity, 1.0) @ v[0, 0]
wanted = flow_attention.pairwise(q, k, v)[0, 0]
print("this is flow attention:", torch.allclose(mine, wanted, atol=1e-5))

# %% [markdown]
# How much does each part do? Without competition $c = 1$, without allocation $a = 1$; without both, what is left is plain
# linear attention with sigmoid features. Compared with the whole, over random heads: size and direction of the output.

# %%
x = torch.randn(3, 1, 64, 128, 16, generator=g)
whole = flow_attention.linear(*x)
for left in (flow_attention.without_competition, flow_attention.without_allocation,
             flow_attention.without_both):
    out = left(*x)
    alike = F.cosine_similarity(out, whole, dim=-1).mean()
    print(f"{left.__name__:20} {out.norm() / whole.norm():.2f} × as large, cosine {alike:.3f}")

# %% [markdown]
# Allocation is a common factor here, and competition turns the output by little. That is on random numbers: what trained
# models make of it comes below.
#
# Now play. Make one source strong, and see what it takes from the others, first in the capacities, then in the weights.
# Make one sink strong: does it get more? Lower the temperature until the pipes differ, and compare the three rows of
# maps below. Then take the clamp away. (The temperature divides $q$ and $k$, so the softmax's scores by its square.)

# %%
flow_attention.explore()

# %% [markdown]
# ## Linear, cell by cell
#
# All this was told with the matrix $A$, which we wanted to avoid. But $A = \phi(Q)\phi(K)^\top$ is a product, so its
# row sums are $\phi(Q)$ times the sum of all keys' features, and $\sum_j A_{ij}/O_j$ is $\phi(q_i)$ times a sum of them
# with weights.
#
# ### Exercise 5 · the flows without the matrix


# %% tags=["exercise"]
@exercise("flow_attention.linear_flows")  # difficulty 3/5 · 10 min · about 4 lines
def linear_flows(Q, K):
    """Positive features Q (L d), K (S d) -> incoming, outgoing, conserved_incoming, conserved_outgoing.

    A matrix of L × S must not be made: the check watches what torch returns.
    """
    raise Todo


# %% tags=["check"]
check("flow_attention.linear_flows")

# %% [markdown]
# The rest is associativity again: a $d \times d$ matrix that all sources write into and all sinks read from.

# %%
Q, K = torch.sigmoid(q[0, 0]), torch.sigmoid(k[0, 0])
incoming, outgoing, conserved_incoming, conserved_outgoing = linear_flows(Q, K)
c = len(K) * conserved_outgoing.clamp(max=1).softmax(0)  # sources compete
a = torch.sigmoid(conserved_incoming * len(Q) / len(K))  # sinks are allocated
memory = K.T @ (c[:, None] * v[0, 0])  # (d d_v)
out = (a / incoming)[:, None] * (Q @ memory)
print("the matrix was not needed:", torch.allclose(out, mine, atol=1e-5))

# %% [markdown]
# `flow_attention.linear` is this, for batches and heads. What it costs a token, against torch's own softmax attention:


# %% tags=["nbval-ignore-output"]
def seconds(form, x):
    """The shorter of two passes of form(*x)."""
    took = []
    for _ in range(2):
        began = time.perf_counter()
        form(*x)
        took.append(time.perf_counter() - began)
    return min(took)


lengths = [128, 256, 512, 1024, 2048, 4096, 8192]
texts = {t: torch.randn(3, 1, 4, t, 64) for t in lengths}
micro = {name: [1e6 / t * seconds(form, x) for t, x in texts.items()]
         for name, form in [("flow attention", flow_attention.linear),
                            ("softmax", F.scaled_dot_product_attention)]}
lines(micro, lengths, title="What does a token cost, forward, on this CPU?",
      x_title="tokens", y_title="µs a token", log=True)

# %% [markdown]
# ## Text: the future is not known yet
#
# In a language model a token may only draw on tokens up to it. Sums over all become sums so far, and where a sum over
# all was wanted, the published code puts a mean over the $n$ tokens so far:
#
# $$ I_n = \phi(q_n)\cdot\sum_{j\le n}\phi(k_j), \quad O_n = \phi(k_n)\cdot\sum_{i\le n}\phi(q_i), \quad
#    \hat I_n = \tfrac1n\, \phi(q_n)\cdot\sum_{j \le n}\phi(k_j)\tfrac{j}{O_j}, \quad
#    \hat O_n = \tfrac1n\, \phi(k_n)\cdot\sum_{i \le n}\phi(q_i)\tfrac{i}{I_i}. $$
#
# Look at $O_n$. Source $n$ will flow to the sinks *after* it. But what they want is not known when its factor $c_n$ has
# to be fixed, so its flow is counted to the sinks **before** it, which can never draw on it:

# %%
figures.triangles_figure()

# %% [markdown]
# So there is nothing left that is conserved exactly. What remains is that both flows are about 1 a token:

# %%
q, k = torch.randn(2, 1, 8, 512, 16, generator=g, dtype=torch.float64)
whole, so_far = flow_attention.flows(q, k), causal.flows(q, k)
for name, flow in (("bidirectional", whole), ("causal", so_far)):
    print(f"{name:13}: mean Ô {flow.conserved_outgoing.mean():.6f}, "
          f"mean Î {flow.conserved_incoming.mean():.6f}")

# %% [markdown]
# The softmax over all sources becomes one with a running sum, $c_n = n\, e^{\hat O_n} / \sum_{j\le n} e^{\hat O_j}$.
# Once again: when later sources come, $c_n$ stays what it was.
#
# ### Exercise 6 · the running competition
#
# Without a clamp, $\hat O$ can be large, and $e^{1000}$ is not a number a computer knows.


# %% tags=["exercise"]
@exercise("flow_attention.running_compete")  # difficulty 3/5 · 8 min · about 2 lines
def running_compete(conserved_outgoing):
    """conserved_outgoing (t) -> c (t), c_n = n exp(Ô_n) / Σ_{j≤n} exp(Ô_j), for ±1000 too."""
    raise Todo


# %% tags=["check"]
check("flow_attention.running_compete")

# %% [markdown]
# All sums so far can be carried from token to token. That is a **state** of fixed size, and with it flow attention is a
# recurrent network: $\sum\phi(q)$, $\sum\phi(k)$, the same two with their weights, $\log\sum e^{\hat O}$, and the memory
# $\sum \phi(k_j)^\top c_j v_j$.
#
# ### Exercise 7 · one token of a stream


# %% tags=["exercise"]
@exercise("flow_attention.stream")  # difficulty 4/5 · 20 min · about 10 lines
def stream(Q, K, V, state):
    """One token: features Q, K (d_k), V (d_v), the state before it -> (out (d_v), the new state).

    state: a tuple (n, queries, keys, conserved_queries, conserved_keys, competition, memory), as in
    `causal.State`; n is an int. No clamp here. Leaves `state` alone.
    """
    raise Todo


# %% tags=["check"]
check("flow_attention.stream")

# %%
q, k, v = torch.randn(3, 1, 1, 40, 8, generator=g)
zero = torch.zeros(8)
state, out = (0, zero, zero, zero, zero, torch.tensor(-math.inf), torch.zeros(8, 8)), []
for q_n, k_n, v_n in zip(*(x[0, 0] for x in (q, k, v)), strict=True):
    o, state = stream(torch.sigmoid(q_n), torch.sigmoid(k_n), v_n, state)
    out.append(o)
wanted, _ = causal.recurrent(q, k, v, clamp=math.inf)
print("your stream is the causal form:", torch.allclose(torch.stack(out), wanted[0, 0], atol=1e-4))

# %% [markdown]
# `causal.recurrent` is that loop, `causal.chunkwise` takes a chunk of tokens at a time: one matrix of capacities, of
# which the lower triangle serves the sinks and the upper one the sources, and sums for all that lies before the chunk.

# %%
q, k, v = torch.randn(3, 1, 2, 200, 32, generator=g)
out, end = causal.recurrent(q, k, v)
other, _ = causal.chunkwise(q, k, v)
print("chunkwise is the definition to 1e-5:", bool((other - out).abs().max() < 1e-5))
_, middle = causal.chunkwise(*(x[:, :, :77] for x in (q, k, v)))
later, _ = causal.chunkwise(*(x[:, :, 77:] for x in (q, k, v)), state=middle)
print("cut after token 77 and continued:", bool((later - out[:, :, 77:]).abs().max() < 1e-5))
size = sum(part[0, 0].numel() for part in end[1:])
print(f"the state of a head is {size:,} numbers; a cache of keys and values after 200 tokens, "
      f"{2 * 32 * 200:,}")

# %% [markdown]
# ### What the published code keeps
#
# The same formula as it was published, with one memory for **every** token, $d \times d$ numbers each:


# %%
def published(q, k, v):
    """The causal formula, with the sums of outer products of all tokens at once."""
    n, Q, K = torch.arange(1, q.shape[2] + 1), torch.sigmoid(q), torch.sigmoid(k)
    u = n / (Q * K.cumsum(2)).sum(-1)
    w = n / (K * Q.cumsum(2)).sum(-1)
    conserved_incoming = (Q * (K * w[..., None]).cumsum(2)).sum(-1) / n
    conserved_outgoing = (K * (Q * u[..., None]).cumsum(2)).sum(-1) / n
    strength = conserved_outgoing.clamp(-1, 1).exp()
    c = n * strength / strength.cumsum(-1)
    memory = einsum(K, c[..., None] * v, "b h t i, b h t j -> b h t i j").cumsum(2)
    out = einsum(Q, memory, "b h t i, b h t i j -> b h t j")
    return (conserved_incoming.sigmoid() * u / n)[..., None] * out


# %%
def kept(form, x):
    """MiB that autograd keeps for the backward pass of form(*x)."""
    found = {}

    def keep(tensor):
        found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        out = form(*(y.clone().requires_grad_() for y in x))
    return out, sum(found.values()) / 2**20


# %%
x = torch.randn(3, 1, 1, 4096, 64, generator=g)
theirs, as_published = kept(published, x)
(ours, _), in_chunks = kept(causal.chunkwise, x)
_, half = kept(causal.chunkwise, x[:, :, :, :2048])
print("the same to 1e-4:", bool((ours - theirs).abs().max() < 1e-4))
print(f"4,096 tokens, one head of 64: {as_published:.0f} MiB as published, "
      f"{in_chunks:.0f} MiB in chunks; 2,048 tokens in chunks: {half:.0f} MiB")

# %% tags=["nbval-ignore-output"]
times = {form.__name__: seconds(form, x) for form in (published, causal.chunkwise)}
faster = times["published"] / times["chunkwise"]
print(f"and {faster:.0f} × as fast on this CPU")

# %% [markdown]
# ## The kernel
#
# On a GPU, each of these sums is a small program over a block of rows. The second step of the flows, for instance:
# given the total of the other side, compute the flow of each row, and at once the sum of rows divided by their flows,
# which is what the conserved flows of the *other* side are made of. The features are read once.
#
# ### Exercise 8 · pour, in Triton
#
# Program $n$ takes `ROWS` rows of `x`. The last block may be short: mask what you load and store, and mind what you
# divide by. Without a GPU, Triton's interpreter runs your kernel, and stops it should it leave its tensors.

# %%
if kernels.WHERE != "nowhere":
    triton, tl = kernels.need()


# %% tags=["exercise"]
@exercise("flow_attention.pour")  # difficulty 4/5 · 20 min · about 7 lines
def pour(x, total, flow, partial, t, D: "tl.constexpr", ROWS: "tl.constexpr"):
    """A program for ROWS rows of x (t D), tl.program_id(0): their flow (t), its row of partial (n D).

    flow_i = x_i · total, and partial_n = Σ x_i / flow_i over program n's rows, n < ⌈t / ROWS⌉.
    D and ROWS are powers of two, at least 16.
    """
    raise Todo


# %% tags=["check"]
check("flow_attention.pour")

# %% [markdown]
# ### The real ones
#
# `kernels/flow_attention/` holds fourteen: seven for all tokens at once, seven for text, forward and backward. Nothing
# in them walks through the text: each chunk's sums are made by a program of their own, running sums of these by
# `torch.cumsum`, and then all chunks go on at once. Here they run in Triton's interpreter, and `kernel_lab` watches.

# %%
if kernels.WHERE == "nowhere":
    print("Triton does not exist on this platform: read on, and run this section on Linux.")
else:
    from labkit import kernel_lab

    with kernel_lab.trace() as log:
        other, _ = causal.kernel(q, k, v)
    print("the kernels equal the definition:", bool((other - out).abs().max() < 1e-4))

# %%
if kernels.WHERE == "interpreted":
    reads = kernel_lab.tile_map(log, "k", block=64, kernel="causal_read")
    display(visits(reads, title="causal_read: which chunks of K does each program read?",
                   program="chunk of 64 queries", block="64 keys"))

# %% [markdown]
# A program reads its own chunk and a $d \times d$ memory, however far into the text it is. What the code becomes on a
# GPU can be read without one:

# %%
if kernels.WHERE != "nowhere":
    from kernels.flow_attention import case, causal_backward_read, causal_flows, causal_read

    for made in (causal_flows, causal_read, causal_backward_read):
        report = kernel_lab.compile_report(case(made, torch.bfloat16, 64), "sm_90")
        print(f"{report.name.split()[0]:24} {report.warps} warps, {report.registers} registers, "
              f"{report.spills} bytes spilled, tensor cores: {report.tensor_core > 0}")

# %% [markdown]
# ## Does it help?
#
# Everything above is arithmetic. Whether a model learns better with it is another question, and here is a small answer
# on real data. Two tasks: name a **digit** whose 100 pixels are read as a sequence (no causality), and guess the next
# **character** of the Bible. Each model has one layer of attention and some thousand parameters, and learns for about a
# second. The four mechanisms have the same parameters, begin with the same weights and read the same batches; three
# seeds each.

# %% tags=["nbval-ignore-output"]
digits = {mechanism.name: experiments.digits(mechanism) for mechanism in BIDIRECTIONAL}
dots({name: trained.scores for name, trained in digits.items()},
     title="How often is a digit it never saw named right?", axis="share of digits, a dot a seed")

# %% tags=["nbval-ignore-output"]
text = {mechanism.name: experiments.characters(mechanism) for mechanism in CAUSAL}
print(f"who only knows which character follows which needs {experiments.bigram():.2f} bits")
dots({name: trained.scores for name, trained in text.items()},
     title="How well is the next character guessed?", axis="bits a character, a dot a seed")

# %%
for results in (digits, text):
    print("parameters:", {trained.parameters for trained in results.values()})
print("flow attention learned: digits above 0.7:", min(digits["flow"].scores) > 0.7,
      "· text below the bigram:", max(text["flow"].scores) < experiments.bigram())


# %% tags=["nbval-ignore-output"]
def spread(scores):
    """Mean, least and most."""
    return f"{sum(scores) / len(scores):.3f} ({min(scores):.3f} to {max(scores):.3f})"


for name in digits:
    ahead = [a - b for a, b in zip(text[name].scores, text["softmax"].scores, strict=True)]
    print(f"{name:25} digits {spread(digits[name].scores)}, text {spread(text[name].scores)}, "
          f"{sum(ahead) / 3:+.3f} to softmax")

# %% [markdown]
# Read it with care. On digits, the four are as close together as the seeds. On text, when we ran it, every seed gave the
# same order: the softmax, linear attention, flow attention without competition, flow attention. The steps between them are
# about as large as those between seeds, the models have not finished learning, and it depends on the learning rate: at twice
# ours, `experiments.characters(mechanism, lr=0.04)`, the softmax ends up worse than counting pairs, and the others do not.
# The paper's models are far larger; what it says of them cannot be seen here, nor refuted.
#
# ### And the evenness?
#
# Before training and after, on what was held out:

# %% tags=["nbval-ignore-output"]
for name in text:
    for task, trained in (("digits", digits[name]), ("text", text[name])):
        print(f"{name:25} {task:6} {spread(trained.evenness_before)} → {spread(trained.evenness)}")

# %% tags=["nbval-ignore-output"]
figures.rows_figure({name: trained.weights(0)[0, 0] for name, trained in text.items()},
                    title="What did one head of each model of text learn to take?")

# %% [markdown]
# Training does sharpen the rows of all three linear ones, and by much: the near-uniform rows of SmolLM2's queries and
# keys are what a mechanism does with numbers it never learned from. But flow attention's rows come out no sharper than
# those of plain linear attention, and its competition does not make them so. On our models, the remedy does not show.
#
# ## Where it breaks
#
# **The clamp** you have seen: with $\hat O \le 1$ no source can have more than $e$ times another's factor, and with
# more sinks than sources the competition is off.
#
# **Long copying.** The matrix of all weights is a product of $\phi(Q)$ and $\phi(K)^\top$, with factors for rows
# and columns. Its rank is at most $d$. So how well could a layer *copy*, each token taking from one other and from
# nobody else, if it could choose its queries and keys freely? Let gradient descent choose them, for heads of $d = 8$:


# %%
def best_copy(weights, n, d=8, steps=200):
    """n tokens, each meant to take from one other alone: the mean share that it gets, at best."""
    g = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, 1, n, d, generator=g).requires_grad_() for _ in range(2))
    optimizer = torch.optim.Adam([q, k], lr=0.3)
    for _ in range(steps):
        rows = F.normalize(weights(q, k)[0, 0], p=1, dim=-1)
        optimizer.zero_grad()
        rows.diagonal().clamp(min=1e-9).log().mean().neg().backward()
        optimizer.step()
    return rows.diagonal().mean().item()


# %% tags=["nbval-ignore-output"]
counts = [4, 8, 16, 32]
copied = {mechanism.name: [best_copy(mechanism.weights, n) for n in counts]
          for mechanism in BIDIRECTIONAL[:3]}
lines({**copied, "d / n": [min(1, 8 / n) for n in counts]}, counts,
      title="How sharply can a head with 8 features point at one of n tokens?", x_title="n, tokens",
      y_title="share that the right token gets")

# %%
last = {name: shares[-1] for name, shares in copied.items()}
print("of 32 tokens, softmax points at one:", last["softmax"] > 0.9,
      "· linear and flow attention give it no more than d / n:",
      max(last["linear"], last["flow"]) < 8 / 32 + 1e-4)

# %% [markdown]
# Eight features hold eight tokens apart, and no more: the mean share is **at most** $d/n$. For if rows sum to 1, the
# matrix is $UV$ with positive $U$ $(n \times d)$ and $V$ $(d \times n)$ that can be scaled so that all their rows sum
# to 1 too, and its trace is $\sum_{ik} U_{ik} V_{ki} \le \sum_{ik} V_{ki} = d$. Neither competition nor allocation can
# change that, since they are factors of whole columns and rows. The softmax's exponential makes a matrix of full rank
# of the same eight numbers. A long copy, or a look-up in a long text, is what linear attention pays with.
#
# **Longer texts than trained on.** Our models of text read 24 characters at a time in training. Let them read on (a place
# that was never trained gets the vector of the last one that was):

# %% tags=["nbval-ignore-output"]
beyond = {name: experiments.bits_by_place(trained).mean(0) for name, trained in text.items()}
places = [(0, 12), (12, 24), (24, 36), (36, 60), (60, 96)]
lines({name: [bits[a:b].mean().item() for a, b in places] for name, bits in beyond.items()},
      [b for _, b in places], title="What happens past the 24 characters of training?",
      x_title="up to this place in the text", y_title="bits a character")

# %%
worse = {name: (bits[36:].mean() > experiments.bigram()).item() for name, bits in beyond.items()}
print("worse than counting pairs past the trained length:",
      ", ".join(name for name in worse if worse[name]))

# %% [markdown]
# None of them reads on. The softmax falls furthest, flow attention least, but all end up worse than a table of which
# character follows which. A state of fixed size lets a stream *continue* for ever; it does not make what was learned
# hold there.
#
# ## What the paper claims, what we measured

# %%
paper = "Flowformer, arXiv 2202.06258"
claim("flow_attention.conservation_is_exact", paper=paper, on="three shapes of random heads, float64",
      says="conserving the incoming flow of sinks and the outgoing flow of sources (abstract)",
      measured=f"sums off by less than 1e-12: {max(off) < 1e-12}", holds=max(off) < 1e-12)
lost = on_lm["flow"] - on_lm["linear"]

# %%
informative = "inherently informative attentions, no degeneration to a trivial distribution (abstract)"
said = [f"{name} {on_lm[name]:.3f}" for name in ("flow", "linear", "softmax")]
claim("flow_attention.weights_are_informative_untrained", paper=paper, says=informative,
      on="queries and keys of SmolLM2's block 15, 96 tokens",
      measured="evenness: " + ", ".join(said), holds=lost < -0.05,
      why="These were trained for a softmax, and competition is a factor of at most e.")
claim("flow_attention.causal_memory", paper=paper,
      on="4,096 tokens, a head of 64, kept for the backward pass",
      says="linear complexity (abstract); its causal code keeps d × d numbers a token, linear too",
      measured=f"{as_published:.0f} MiB as published, {in_chunks:.0f} MiB in chunks, "
               f"{half:.0f} MiB for half the text",
      holds=in_chunks < 2.2 * half)

# %% tags=["nbval-ignore-output"]
even = {name: sum(trained.evenness) / 3 for name, trained in text.items()}
sharper = max(text["flow"].evenness) < min(text["linear"].evenness)
claim("flow_attention.weights_are_informative_trained", paper=paper, says=informative,
      on="our models of text, 3 seeds",
      measured=", ".join(f"{name} {value:.2f}" for name, value in even.items()), holds=sharper,
      why="" if sharper else "All learn to be less even; the competition adds nothing we can see here.")

# %% tags=["nbval-ignore-output"]
better = max(text["flow"].scores) < min(text["linear"].scores)
claim("flow_attention.strong_performance", paper=paper,
      on="the Bible, against linear attention, 3 seeds",
      says="strong performance in linear time for wide areas (abstract)",
      measured="bits " + ", ".join(f"{name} {sum(t.scores) / 3:.2f}" for name, t in text.items()),
      holds=better, why="" if better else "Models of one layer, trained for about a second.")
per_token = micro["flow attention"]
claim("flow_attention.linear_time", paper=paper,
      on="1,024 and 8,192 tokens, four heads of 64, this CPU",
      says="linear complexity (abstract)", holds=per_token[-1] < 2 * per_token[3],
      measured=f"{per_token[-1] / per_token[3]:.1f} × as much a token with 8 × the tokens; "
               f"softmax {micro['softmax'][-1] / micro['softmax'][3]:.1f} ×")

# %% [markdown]
# ## Recap
#
# - Flow attention normalises twice: every source gives out 1, every sink takes in 1, and what is left over makes
#   sources compete and sinks share. The two sums are identities.
# - All of it is sums over tokens and products with sums: linear in time, a state of fixed size for text.
# - For text it is an analogy: a source's flow is counted to sinks that never draw on it.
# - With the published clamp the competition is a factor of at most $e$; rank $d$ stays rank $d$; and on our models the
#   rows come out as even as those of plain linear attention.

# %%
progress("flow_attention")
