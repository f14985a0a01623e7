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
# # The delta rule
#
# **A linear memory that only adds cannot change its mind. One that reads before it writes, and writes only the
# difference, can; and a little linear algebra trains it on all tokens at once.**
#
# Paper: Yang, Wang, Zhang, Shen, Kim, *Parallelizing Linear Transformers with the Delta Rule over Sequence Length*
# (DeltaNet, 2024), [arXiv 2406.06484](https://arxiv.org/abs/2406.06484). · About 80 minutes with the exercises · You need:
# matrix products, what a gradient is, and what queries, keys and values are.
#
# Run the cells in order. Sliders are live only while the kernel runs: after a restart, run their cell again.

# %%
import time
import warnings
from textwrap import fill

import torch
import torch.nn.functional as F
from einops import einsum, rearrange  # noqa: F401 (for your answers)

import kernels
from labkit import delta_rule
from labkit.charts import dots, lines, visits
from labkit.course import Todo, check, claim, exercise, predict, progress, reveal
from labkit.delta_rule import mqar

# %% [markdown]
# ## Predict
#
# A memory of 64 × 64 numbers takes 32 random keys of length 1, each with a random value. Then every key is written once
# more, with a **new** value. Asked for a key, the memory gives back a vector, and we look which of all 64 values is
# nearest to it. A linear memory that adds up what it is told, as linear attention does: **what share of the keys does it
# answer with the new value?** Put a number between 0 and 1 in place of `None`.

# %%
predict("delta_rule.rewriting", "share of rewritten keys that the additive memory gets right", None)

# %% [markdown]
# ## Two memories
#
# A matrix $S$ can hold pairs: write $k v^\top$ into it, and reading with the same key, $S^\top k$, gives back
# $v \lVert k\rVert^2$. **Linear attention** is this memory: $S \leftarrow S + k v^\top$ for each token, and $o = S^\top q$.
#
# It only adds. Write two values under one key, and it gives back their sum. The **delta rule** first reads what is there,
# and writes the difference to what should be there:
#
# $$ e = v - S^\top k, \qquad S \leftarrow S + \beta\, k\, e^\top, \qquad o = S^\top q. $$
#
# $\beta$ says how much of the error is corrected: nothing at 0, all of it at 1 (if $k$ has length 1).

# %%
k = F.normalize(torch.tensor([1.0, 2.0, 2.0]), dim=0)
old, new = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])
additive = torch.outer(k, old) + torch.outer(k, new)
delta = torch.outer(k, old)
delta = delta + torch.outer(k, new - delta.T @ k)
print("additive memory gives back", [round(x, 3) for x in (additive.T @ k).tolist()])
print("delta rule gives back     ", [round(x, 3) + 0.0 for x in (delta.T @ k).tolist()])

# %% [markdown]
# The same with values that one can see: pictures of handwritten digits, 196 numbers each. First a 0 is written under a
# key, then a 3.

# %%
delta_rule.draw_memories(n_keys=1, written=2)

# %% [markdown]
# ### Exercise 1 · one step


# %% tags=["exercise"]
@exercise("delta_rule.step")  # difficulty 1/5 · 6 min · about 2 lines
def step(state, k, v, beta):
    """state (d_k d_v), k (d_k), v (d_v), beta () -> the new state. Leaves `state` alone."""
    raise Todo


# %% tags=["check"]
check("delta_rule.step")

# %% [markdown]
# Now play. Each key has an axis of its own; `similarity` is the cosine between any two of them. Step through the writes:
# after one round, every key is written again, with another digit. At similarity 0 the delta rule is perfect. Raise it, and
# look at what a correction of one key does to the others (blue is ink, red is ink that was written *away*). Back at 0, raise
# β above 1: a write overshoots, and at β = 2 it misses the new value by as much as before, on the other side.

# %%
delta_rule.explore()

# %% [markdown]
# Back to the question of the beginning, with 64 memories at once. `delta_rule.chunkwise(q, k, v, beta)` runs the delta
# rule over a sequence and returns the outputs and the last state; `delta_rule.additive` is linear attention behind the same
# call, with writes of strength β.


# %%
def recalled(memory, keys, values, candidates):
    """For what share of the keys the right one of `candidates` is nearest to what comes back."""
    n = len(keys[0, 0])
    k = keys.repeat(1, 1, values.shape[2] // n, 1)
    _, S = memory(k, k, values, torch.ones(k.shape[:3]))
    distance = torch.cdist(keys @ S, candidates)
    return (distance.argmin(-1) == torch.arange(n)).float().mean().item()


# %%
g = torch.Generator().manual_seed(0)
keys = F.normalize(torch.randn(1, 64, 32, 64, generator=g), dim=-1)
old, new = torch.randn(2, 1, 64, 32, 64, generator=g)
rewritten = {
    name: recalled(memory, keys, torch.cat([old, new], 2), torch.cat([new, old], 2))
    for name, memory in [("additive", delta_rule.additive), ("delta", delta_rule.chunkwise)]
}
reveal("delta_rule.rewriting", rewritten["additive"])
for name, share in rewritten.items():
    print(f"{name:>8}: the new value comes back for {share:.2f} of the keys")

# %% [markdown]
# A coin toss against near certainty: to the additive memory, the old value and the new one are equally true.
#
# ## One step of gradient descent
#
# Where does the rule come from? Ask of a memory that $S^\top k$ be $v$, and call $\frac12\lVert S^\top k - v\rVert^2$ its loss.
#
# ### Exercise 2 · the gradient
#
# Work it out on paper first: it is an outer product.


# %% tags=["exercise"]
@exercise("delta_rule.gradient")  # difficulty 2/5 · 6 min · about 2 lines
def gradient(state, k, v):
    """-> the gradient of ½‖stateᵀ k − v‖² with respect to state, (d_k d_v), in closed form."""
    raise Todo


# %% tags=["check"]
check("delta_rule.gradient")

# %%
S, k, v = torch.randn(4, 3).requires_grad_(), torch.randn(4), torch.randn(3)
(autograd,) = torch.autograd.grad(0.5 * (S.T @ k - v).square().sum(), S)
print("as autograd has it:", torch.allclose(gradient(S, k, v), autograd, atol=1e-5))
print("S − β · gradient is the delta rule:",
      torch.allclose(S - 0.3 * gradient(S, k, v), step(S, k, v, torch.tensor(0.3)), atol=1e-5))

# %% [markdown]
# So the state is a set of fast weights that learns while it reads, one step of gradient descent a token, and β is its
# learning rate. Linear attention is the same with the loss $-v^\top S^\top k$, which has no minimum: it never stops adding.
#
# ## How large may β be?
#
# After the step, the error on the same token is $v - S_\text{new}^\top k = (1 - \beta\lVert k\rVert^2)\, e$. As long as
# $\beta\lVert k\rVert^2 \le 2$ nothing grows. Beyond that, every write overshoots by more than it corrects.
#
# ### Exercise 3 · the largest learning rate


# %% tags=["exercise"]
@exercise("delta_rule.largest_beta")  # difficulty 2/5 · 5 min · about 1 line
def largest_beta(k):
    """k (t d_k) -> (): the largest β, one for all tokens, with which no step enlarges its error."""
    raise Todo


# %% tags=["check"]
check("delta_rule.largest_beta")

# %% [markdown]
# Watch it. Random keys, no values ($v = 0$: each step only erases), and the norm of the state as tokens go by.


# %%
def norms(length, t=256):
    """The norm of a state that began as the identity, after every eighth token; β = 1."""
    g = torch.Generator().manual_seed(1)
    k = length * F.normalize(torch.randn(1, 1, t, 16, generator=g), dim=-1)
    S, found = torch.eye(16)[None, None], []
    for part in k.split(8, dim=2):
        nothing, beta = torch.zeros_like(part), torch.ones(part.shape[:3])
        _, S = delta_rule.chunkwise(part, part, nothing, beta, state=S)
        found.append(S.norm().item())
    return found


size = {f"β‖k‖² = {square}": norms(square**0.5) for square in (1.0, 1.9, 2.0, 2.2)}
lines(size, range(8, 257, 8), title="When does the memory explode?",
      x_title="token", y_title="norm of the state", log=True)

# %% [markdown]
# At exactly 2 the norm stays what it was; at 2.2 it explodes. That is why the paper's layer gives keys the length 1, and
# why β comes from a sigmoid. Nothing in `delta_rule` normalises keys for you, but it warns (once) of such a β:

# %%
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    x = torch.randn(1, 1, 4, 8)
    delta_rule.chunkwise(x, F.normalize(x, dim=-1), x, torch.full((1, 1, 4), 2.5))
print(fill(str(said[0].message), 100) if said else "it has warned already")

# %% [markdown]
# ## A step is a reflection, or part of one
#
# Write the step as a matrix product: $S \leftarrow (I - \beta k k^\top)\, S + \beta k v^\top$. For a key of length 1,
# $I - \beta k k^\top$ leaves alone what is orthogonal to $k$, and multiplies what lies along $k$ by $1-\beta$: erase it at
# $\beta = 1$, reflect it at $\beta = 2$ (then it is a **Householder** matrix).

# %%
k = F.normalize(torch.randn(5, generator=torch.Generator().manual_seed(2)), dim=0)
for beta in (0.5, 1.0, 2.0):
    eigenvalues = torch.linalg.eigvalsh(torch.eye(5) - beta * torch.outer(k, k))
    print(f"β = {beta}: eigenvalues", [round(x, 3) + 0.0 for x in eigenvalues.tolist()])

# %% [markdown]
# ## The product collapses
#
# The first state comes through $t$ tokens as $P_t S_0$ with $P_t = (I-\beta_t k_t k_t^\top)\cdots(I-\beta_1 k_1 k_1^\top)$.
# A product of $t$ matrices, one after the other: that looks hopeless on a GPU. But multiply two of them by hand:
#
# $$ (I-\beta_2 k_2 k_2^\top)(I-\beta_1 k_1 k_1^\top) = I - k_1\,\beta_1 k_1^\top - k_2\,\beta_2\big(k_2 - \beta_1 (k_2^\top k_1)\, k_1\big)^\top. $$
#
# It is still $I$ minus one outer product a token: $P_t = I - \sum_i k_i w_i^\top$. This is the **WY representation**
# (Bischof and Van Loan 1985), and the $w_i$ need only vectors.
#
# ### Exercise 4 · the WY representation


# %% tags=["exercise"]
@exercise("delta_rule.householder_weights")  # difficulty 3/5 · 15 min · about 4 lines
def householder_weights(k, beta):
    """k (t d_k), beta (t) -> w (t d_k): (I − β_t k_t k_tᵀ) … (I − β_1 k_1 k_1ᵀ) = I − Σ k_i w_iᵀ."""
    raise Todo


# %% tags=["check"]
check("delta_rule.householder_weights")

# %%
k, beta = F.normalize(torch.randn(40, 8), dim=-1), 2 * torch.rand(40)
product = torch.eye(8)
for k_t, beta_t in zip(k, beta, strict=True):
    product = (torch.eye(8) - beta_t * torch.outer(k_t, k_t)) @ product
collapsed = torch.eye(8) - k.T @ householder_weights(k, beta)
print("40 matrices in one:", torch.allclose(collapsed, product, atol=1e-5))
largest = torch.linalg.matrix_norm(product, 2)
print("no singular value of the product is above 1:", bool(largest < 1 + 1e-5))

# %% [markdown]
# ## All errors at once
#
# That still is a loop. But look at it from the errors' side. Token $t$ is compared with what the tokens before it have
# written, $\beta_j k_j e_j^\top$ each. With a row a token, $K$, $V$, $E$, and $W = \operatorname{diag}(\beta) K$,
#
# $$ e_t = v_t - S_0^\top k_t - \sum_{j<t} (k_t\!\cdot\!\beta_j k_j)\, e_j
#    \qquad\text{or}\qquad (I + M)\,E = V - K S_0, \quad M = \operatorname{tril}(K W^\top, -1). $$
#
# A triangular system: one call. (The paper writes $T = \operatorname{diag}(\beta)(I+M')^{-1}$, the **UT transform**, and
# $U - W S$ where we have $\operatorname{diag}(\beta) E$. It is the same; the error itself is easier to think of.)
#
# ### Exercise 5 · one triangular solve


# %% tags=["exercise"]
@exercise("delta_rule.errors")  # difficulty 3/5 · 15 min · about 3 lines
def errors(k, v, beta):
    """k (t d_k), v (t d_v), beta (t) -> E (t d_v): v_t − Sᵀ k_t with S the memory before token t.

    The memory is empty at first. No loop: torch.linalg.solve_triangular.
    """
    raise Todo


# %% tags=["check"]
check("delta_rule.errors")

# %% [markdown]
# With the errors, the rest is attention without a softmax: what a query reads is what was there before, and what the
# tokens up to its own have written.
#
# $$ O = Q S_0 + \operatorname{tril}(Q W^\top)\, E, \qquad S_t = S_0 + W^\top E. $$
#
# ### Exercise 6 · a chunk


# %% tags=["exercise"]
@exercise("delta_rule.chunk_step")  # difficulty 4/5 · 15 min · about 5 lines
def chunk_step(q, k, v, beta, state):
    """q, k (c d_k), v (c d_v), beta (c), state (d_k d_v) -> (out (c d_v), the new state). No loop."""
    raise Todo


# %% tags=["check"]
check("delta_rule.chunk_step")

# %% [markdown]
# Over a whole sequence at once the system is $t \times t$, and solving it costs $t^3$. So cut the sequence into chunks, solve
# within each, and hand the state on: that is the paper's **chunkwise** form.
#
# ### Exercise 7 · find the bug
#
# Here is the chunkwise form as the paper writes it, with $A = \operatorname{tril}(\operatorname{diag}(\beta) K K^\top, -1)$,
# $U = (I+A)^{-1}\operatorname{diag}(\beta) V$ and so on. One thing in it is wrong. It gets the first chunk right, so a
# careless test lets it pass. Remove `raise Todo`, run the check, and mend it.


# %% tags=["exercise"]
@exercise("delta_rule.continued")  # difficulty 4/5 · 15 min · one line is wrong
def continued(q, k, v, beta, chunk):
    """q, k (t d_k), v (t d_v), beta (t) -> out (t d_v), from an empty memory, for any t."""
    raise Todo
    state, out = k.new_zeros(k.shape[1], v.shape[1]), torch.zeros_like(v)
    for start in range(0, len(k), chunk):
        rows = slice(start, start + chunk)
        Q, K, V, B = q[rows], k[rows], v[rows], beta[rows, None]
        system = torch.eye(len(K)).to(K) + (B * K @ K.T).tril(-1)
        u = torch.linalg.solve_triangular(system, B * V, upper=False)
        w = torch.linalg.solve_triangular(system, K, upper=False)
        u = u - w @ state
        out[rows] = Q @ state + (Q @ K.T).tril() @ u
        state = state + K.T @ u
    return out


# %% tags=["check"]
check("delta_rule.continued")

# %% [markdown]
# ## The forms agree
#
# `recurrent` is the definition, a token at a time. `parallel` is the whole sequence at once, with the inverse written out,
# to be read. `chunkwise` is the one to use. All take the same arguments, and a sequence may be cut anywhere: the state that
# comes back goes in again.

# %%
torch.manual_seed(0)
q, k, v = torch.randn(3, 1, 2, 200, 32)
k, beta = F.normalize(k, dim=-1), torch.rand(1, 2, 200)
out, state = delta_rule.recurrent(q, k, v, beta)
for form in (delta_rule.parallel, delta_rule.chunkwise):
    other, end = form(q, k, v, beta)
    print(f"{form.__name__} is the definition to 1e-4:", bool((other - out).abs().max() < 1e-4))
_, middle = delta_rule.chunkwise(*(x[:, :, :77] for x in (q, k, v, beta)))
later, _ = delta_rule.chunkwise(*(x[:, :, 77:] for x in (q, k, v, beta)), state=middle)
print("cut after token 77 and continued:", bool((later - out[:, :, 77:]).abs().max() < 1e-4))

# %% [markdown]
# ## What it costs
#
# In every form, a token multiplies with the state three times (to compare, to write, to read): $6d^2$ floating-point
# operations a head. Chunks of $C$ tokens add $8Cd + C^2/3$: they cost **more** arithmetic than the definition. But the
# definition is $t$ small steps that wait for each other, and chunks are $t/C$ steps of large matrix products.

# %%
d = 64
print(f"definition: {6 * d * d / 1e3:.0f} thousand a token, 2,048 steps for 2,048 tokens")
for C in (16, 32, 64, 128, 256):
    print(f"C = {C:3}: {(6 * d * d + 8 * C * d + C * C / 3) / 1e3:.0f} thousand a token, "
          f"{2048 // C:3} steps for 2,048 tokens")


# %%
def tokens(t, train=False):
    """q, k, v and beta of t tokens, four heads of 64."""
    q, k, v = torch.randn(3, 1, 4, t, 64)
    return [x.requires_grad_(train) for x in (q, F.normalize(k, dim=-1), v, torch.rand(1, 4, t))]


def seconds(form, x, train=False):
    """How long one pass of form(*x) takes; with `train`, forward and backward."""
    began = time.perf_counter()
    out, _ = form(*x)
    if train:
        out.sum().backward()
    return time.perf_counter() - began


# %% tags=["nbval-ignore-output"]
x = tokens(1024, train=True)
seconds(delta_rule.chunkwise, x, train=True)  # the first pass does not count
slow, fast = (seconds(form, x, train=True) for form in (delta_rule.recurrent, delta_rule.chunkwise))
print(f"training on 1,024 tokens: the definition takes {slow / fast:.0f} × as long as chunkwise")

# %% [markdown]
# And against softmax attention, whose cost a token grows with the text:


# %% tags=["nbval-ignore-output"]
def softmax(q, k, v, beta):
    """torch's own attention, which has no beta and no state."""
    return F.scaled_dot_product_attention(q, k, v, is_causal=True), None


lengths = [1024, 2048, 4096, 8192]
micro = {
    name: [1e6 / t * min(seconds(form, tokens(t)) for _ in range(2)) for t in lengths]
    for name, form in [("chunkwise delta rule", delta_rule.chunkwise), ("softmax attention", softmax)]
}
lines(micro, lengths, title="What does a token cost, forward, on this CPU?",
      x_title="tokens", y_title="µs a token")

# %% [markdown]
# ## The kernel
#
# On a GPU the chunkwise form becomes a few kernels. What belongs to one chunk alone is computed for all chunks at once, a
# program each: the inverse of $I + M$, and in the end the outputs. Only the state goes from chunk to chunk, in one program
# for each few columns of it, and stays in registers on the way.
#
# ### Exercise 8 · the output kernel, in Triton
#
# Program $n$ computes $O = Q S_n + \operatorname{tril}(Q W^\top) E$ for chunk $n$ of one head. `q`, `w`, `errors` and `out`
# point to $(t, D)$ matrices, `states` to $(n, D, D)$; the last chunk may be short, so mask what you load and store.
# Without a GPU, Triton's interpreter runs your kernel, and stops it should it leave its tensors.

# %%
if kernels.WHERE != "nowhere":
    triton, tl = kernels.need()


# %% tags=["exercise"]
@exercise("delta_rule.read_chunk")  # difficulty 4/5 · 25 min · about 10 lines
def read_chunk(q, w, errors, states, out, t, D: "tl.constexpr", CHUNK: "tl.constexpr"):
    """A program a chunk, tl.program_id(0). D and CHUNK are powers of two, at least 16."""
    raise Todo


# %% tags=["check"]
check("delta_rule.read_chunk")

# %% [markdown]
# ### The real ones
#
# `kernels/delta_rule/` holds seven kernels, three forward and four backward, in about 240 lines. Here they run in Triton's
# interpreter, and `kernel_lab` watches which rows each program reads.

# %%
if kernels.WHERE == "nowhere":
    print("Triton does not exist on this platform: read on, and run this section on Linux.")
else:
    from labkit import kernel_lab

    with kernel_lab.trace() as log:
        other, end = delta_rule.kernel(q, k, v, beta)
    print("the kernels equal the definition:", bool((other - out).abs().max() < 1e-4))

# %%
if kernels.WHERE == "interpreted":
    inverse = kernel_lab.tile_map(log, "k", block=64, kernel="delta_inverse")
    display(visits(inverse, title="delta_inverse: which chunks of K does each program read?",
                   program="chunk", block="64 keys"))

# %%
if kernels.WHERE == "interpreted":
    states = kernel_lab.tile_map(log, "k", block=64, kernel="delta_states")
    display(visits(states, title="delta_states: which chunks of K does each program read?",
                   program="32 columns", block="64 keys"))

# %% [markdown]
# Every inverse is a program of its own. The states are one program that walks through all chunks: a long text runs no faster
# there, however large the GPU. That is why so little is left in it: three products a chunk.
#
# **A trap.** `bfloat16`, the usual type on GPUs, is silently wrong in this Triton's interpreter, which computes with the
# bits as if they were integers:

# %%
if kernels.WHERE == "interpreted":
    @triton.jit
    def one_plus_one(x, out):
        tl.store(out, tl.load(x) + tl.load(x))

    one, answer = torch.ones(1, dtype=torch.bfloat16), torch.zeros(1, dtype=torch.bfloat16)
    one_plus_one[(1,)](one, answer)
    print(f"1 + 1 = {answer.item():.1e}")
    try:
        delta_rule.kernel(*(x.bfloat16() for x in (q, k, v, beta)))
    except TypeError as error:
        print(fill(str(error), 100))

# %% [markdown]
# ### Two warps or four?
#
# What the code becomes on a GPU can be read without one: Triton compiles ahead of time. A *warp* is 32 threads, and a
# thread has at most 255 registers; what does not fit is *spilled* to memory. Two warps have half the registers of four. And
# Hopper's large matrix instructions need four warps.
#
# Our kernel of the inverses, and the peer's kernel for the backward pass of the same representation: flash-linear-attention
# 0.6.0 runs it with two warps on Hopper, since with four Triton made wrong code of it there (its issue 984).

# %%
if kernels.WHERE != "nowhere":
    from kernels.delta_rule import case, delta_inverse

    reports = []
    for num_warps in (2, 4):
        ours = case(delta_inverse, torch.bfloat16, 64, num_warps=num_warps)
        for made in (ours, delta_rule.peer_case(num_warps)):
            report = kernel_lab.compile_report(made, "sm_90")
            reports.append(report)
            name = report.name.split()[0].strip(",")
            print(f"{name:28} {num_warps} warps: {report.registers} registers, {report.spills} bytes "
                  f"spilled, {report.tensor_core} tensor-core instructions")

# %% [markdown]
# The workaround has its price, and it stands in the machine code. Ours has not been run on a Hopper GPU either: that it
# compiles without spills says nothing about whether *its* machine code is right there.

# %%
if kernels.WHERE != "nowhere":
    chosen = [made for made in kernels.delta_rule.CASES if made.name.endswith("bfloat16 d=64")]
    for made in chosen:
        report = kernel_lab.compile_report(made, "sm_90")
        print(f"{report.name.split()[0]:24} {report.warps} warps, {report.spills} bytes spilled, "
              f"tensor cores: {report.tensor_core > 0}")

# %% [markdown]
# ## Does it learn to?
#
# So far we chose the keys. In a model, they are learned. **Multi-query associative recall** (MQAR) is the paper's test: a
# text of keys and values, then queries, each a key whose value is the right next token. We ask for more: some keys are bound
# a second time, to another value, and the last one counts. For example:

# %%
g = torch.Generator().manual_seed(3)
ids, targets = mqar.mqar(1, n_pairs=3, t=16, vocab=20, generator=g, rewrites=1)
print("reads  ", " ".join(f"{token:2}" if token else " ·" for token in ids[0].tolist()))
print("answers", " ".join(f"{token:2}" if token >= 0 else " ·" for token in targets[0].tolist()))

# %% [markdown]
# `delta_rule.DeltaNet` is the paper's layer: a short convolution and SiLU on $q$, $k$ and $v$, keys and queries of length 1,
# $\beta$ from a sigmoid, an RMSNorm on what is read. One such layer between an embedding and a readout is trained from
# nothing, on your CPU; then the same with the additive memory in its place (whose writes get the strength $\beta$ too). Both
# states hold 256 numbers. Eight keys, all bound once, or four of them twice; three seeds each.

# %% tags=["nbval-ignore-output"]
memories = {"additive": delta_rule.additive, "delta rule": delta_rule.chunkwise}
once_each = {name: mqar.train(memory, rewrites=0).kept for name, memory in memories.items()}
twice = {name: mqar.train(memory, rewrites=4).rewritten for name, memory in memories.items()}
dots({f"{name}, all keys bound once": shares for name, shares in once_each.items()}
     | {f"{name}, keys bound twice": shares for name, shares in twice.items()},
     title="How often does a memory of 256 numbers recall the right value?",
     axis="share of unseen queries answered right, a dot a seed")

# %%
least, most = min(twice["delta rule"]), max(twice["additive"])
print("bound twice: the delta rule's worst seed is better than the additive one's best:", least > most)

# %% [markdown]
# While every key is bound once, both solve it. Between an old value and a new one, though, the additive memory can do
# little better than guess. That is said of **one** layer: two additive layers, trained four times as long, do answer with
# the new value (`mqar.train(delta_rule.additive, layers=2, steps=1200)`, half a minute; 1.00 when we ran it, and 0.69 to
# 0.77 with one layer trained as long). We have not looked how: the first could read the old value for the second to
# subtract.
#
# ## Where it breaks
#
# Is the delta rule then simply the better memory? Write 128 random keys into 64 dimensions, each **once**, and ask which of
# the 128 values is nearest.

# %%
keys = F.normalize(torch.randn(1, 64, 128, 64, generator=g), dim=-1)
values = torch.randn(1, 64, 128, 64, generator=g)
once = {}
for name, memory in [("additive", delta_rule.additive), ("delta", delta_rule.chunkwise)]:
    once[name] = recalled(memory, keys, values, values)
    _, S = memory(keys, keys, values, torch.ones(1, 64, 128))
    off = ((keys @ S - values).norm(dim=-1) / values.norm(dim=-1)).mean()
    print(f"{name:>8}: nearest value right for {once[name]:.2f} of the keys; mean error {off:.2f}")

# %% [markdown]
# The additive memory wins, by far, though its read-outs are further off. To write a key without error, the delta rule
# disturbs all keys that resemble it, and those written first have been disturbed 127 times; the sum treats all alike. The
# delta rule is not a larger memory. It is one that can be *corrected*, and its newest entries are exact.
#
# ## What the paper claims, what we measured

# %%
paper = "DeltaNet, arXiv 2406.06484"
claim("delta_rule.rewriting", paper=paper, on="64 memories of 64 × 64, 32 random keys written twice",
      says="the old value of a key is replaced by the new one; linear attention only adds (§2.2)",
      measured=", ".join(f"{name} {share:.2f} of the new values" for name, share in rewritten.items()),
      holds=rewritten["delta"] > 0.9 > 0.7 > rewritten["additive"])
shrinks = [size[name][-1] / 4.0 for name in size]  # the identity of 16 dimensions has norm 4
claim("delta_rule.eigenvalue_bound", paper=paper, on="256 random keys in 16 dimensions",
      says="keys of length 1 keep the eigenvalues of a step within [−1, 1] (§3)",
      measured=f"norm after / before: {shrinks[2]:.2f} at β‖k‖² = 2, {shrinks[3]:.0f} at 2.2",
      holds=abs(shrinks[2] - 1) < 0.01 and shrinks[3] > 10)

# %% tags=["nbval-ignore-output"]
said = {name: f"{name} {sum(shares) / 3:.2f}" for name, shares in once_each.items()}
better = min(once_each["delta rule"]) > max(once_each["additive"])
claim("delta_rule.recall_at_equal_state", paper=paper,
      on="MQAR, 8 keys bound once, 256 numbers of state, 3 seeds",
      says="more effective at associative recall than linear attention, which adds (abstract)",
      measured=", ".join(said.values()), holds=better,
      why="" if better else "Both solve it at this size.")
said = {name: f"{name} {sum(shares) / 3:.2f}" for name, shares in twice.items()}
claim("delta_rule.recall_of_rewritten_keys", paper=paper, on="the same, keys bound twice",
      says="more effective at associative recall than linear attention, which adds (abstract)",
      measured=", ".join(said.values()), holds=least > most)

# %% tags=["nbval-ignore-output"]
claim("delta_rule.chunkwise_trains_faster", paper=paper, on="1,024 tokens, four heads of 64, this CPU",
      says="training in parallel over the sequence, in place of a loop over tokens (abstract)",
      measured=f"the definition takes {slow / fast:.0f} × as long, forward and backward",
      holds=slow > 10 * fast)

# %% [markdown]
# ## Recap
#
# - A linear memory that adds gives back the sum of all it was told; the delta rule writes the error, and so replaces.
# - A write is one step of gradient descent; it is stable while $\beta\lVert k\rVert^2 \le 2$.
# - The errors of a chunk solve one triangular system, and only the state goes from chunk to chunk.
# - What it gains is correction, not capacity: keys that are written once, a sum holds as well.

# %%
progress("delta_rule")
