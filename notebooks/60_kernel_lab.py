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
# # The kernel lab
#
# **What a GPU kernel costs can be read without a GPU: which memory every program touches, what machine code it
# becomes, and whether arithmetic or memory will hold it up.**
#
# Papers: Williams, Waterman, Patterson, *Roofline* (2009), [doi
# 10.1145/1498765.1498785](https://doi.org/10.1145/1498765.1498785), and Yang et al., *Gated Linear Attention
# Transformers with Hardware-Efficient Training* (2023), [arXiv 2312.06635](https://arxiv.org/abs/2312.06635). ·
# About 150 minutes with the exercises · You need: Python, and what a matrix product is; lesson 20 helps with the
# last puzzle.
#
# Run the cells in order. Where Triton does not exist (macOS, Windows) the pictures work, and kernels are left out.

# %%
import torch

import kernels
from labkit import kernel_lab
from labkit.charts import visits
from labkit.course import Todo, check, claim, exercise, predict, progress, reveal
from labkit.kernel_lab.mechanisms import chunkwise, recurrent
from labkit.kernel_lab.metered import score

torch.manual_seed(0)
print("kernels here run:", kernels.WHERE)
if kernels.WHERE != "nowhere":
    triton, tl = kernels.need()

# %% [markdown]
# ## Predict
#
# An H100 multiplies half-precision matrices at 989 teraflops, and its memory delivers 3.35 terabytes a second. The
# kernel that carries the delta rule's state from chunk to chunk does nothing but multiply matrices: 4096 tokens,
# chunks of 64, a head of size 64. **What share of those teraflops can it reach at most, in per cent?** Put a number
# in place of `None`.

# %%
predict("kernel_lab.roof", "per cent of the matrix peak that the kernel of states can reach", None)

# %% [markdown]
# ## A kernel is many programs
#
# A kernel is launched on a grid; each point of the grid is a **program**, and all run the same lines at once. Triton
# has an interpreter that runs them one after another on the CPU, and there every access can be watched. This kernel
# adds the rows of a matrix up in blocks:

# %%
if kernels.WHERE == "interpreted":

    @triton.jit
    def add_up(x, out, n, M: tl.constexpr, ROWS: tl.constexpr):
        row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
        column = tl.arange(0, M)[None, :]
        block = tl.load(x + row * M + column, mask=row < n, other=0.0)
        sum_so_far = tl.load(out + tl.arange(0, M))
        tl.store(out + tl.arange(0, M), sum_so_far + tl.sum(block, 0))

    x, out = torch.randn(50, 16), torch.zeros(16)
    with kernel_lab.trace() as log:
        add_up[4,](x, out, 50, M=16, ROWS=16)
    print("right:", torch.allclose(out, x.sum(0), atol=1e-5))
    for (kind, name), (times, size) in kernel_lab.traffic(log).items():
        print(f"{kind:5} {name:3} {times} times, {size:,} bytes")

# %% [markdown]
# ### Right, and wrong
#
# The result is right, because the interpreter runs one program after another. On a GPU all four read `out` before
# any has written it, and three of the four sums are lost. No result on a CPU will ever show this; the trace does.

# %%
if kernels.WHERE == "interpreted":
    for race in kernel_lab.races(log):
        print(race)

# %% [markdown]
# The second kind of error that a GPU keeps to itself: an access outside the tensor. It reads whatever lies there.
# Under `guard` the kernel stops. Here the mask is forgotten, and 50 rows are no multiple of 16:

# %%
if kernels.WHERE == "interpreted":

    @triton.jit
    def forgets_the_mask(x, out, M: tl.constexpr, ROWS: tl.constexpr):
        row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
        block = tl.load(x + row * M + tl.arange(0, M)[None, :])
        tl.store(out + tl.program_id(0) * M + tl.arange(0, M), tl.sum(block, 0))

    try:
        with kernel_lab.guard():
            forgets_the_mask[4,](x, torch.zeros(4, 16), M=16, ROWS=16)
    except IndexError as error:
        first, _, rest = str(error).partition(": ")
        print(first, rest.replace(", the first", ",\nthe first"), sep=":\n")

# %% [markdown]
# ## Tile maps
#
# Which program touches what is the plan of a kernel. Traced, sink attention on 512 tokens, with a window of 96: a
# row is a program, which owns a block of queries; a column is a block of keys.

# %%
if kernels.WHERE == "interpreted":
    from labkit import attention_sinks

    with kernel_lab.trace() as log:
        attention_sinks.kernel(*torch.randn(3, 1, 1, 512, 32), n_sink=4, window=96)
    display(visits(kernel_lab.tile_map(log, "k", block=32), title="Which keys does each program read?",
                   program="block of 64 queries", block="block of 32 keys"))

# %% [markdown]
# The first block holds the sinks, which every program reads, and the window moves along. Below are more kernels of
# this house, with all their tensors. Choose one, then step through its programs: colour says what a program loads
# and stores. *Which of them read almost everything, which only a band?*

# %%
kernel_lab.explore()

# %% [markdown]
# A kernel with a state walks: its few programs each pass over all the tokens. A kernel without one spreads: many
# programs, each with its own tile. That is the difference between the recurrent and the chunkwise form, seen from
# the memory.

# %% [markdown]
# ## Puzzles
#
# Write these kernels. Without a GPU, Triton's interpreter runs them, and stops one that leaves its tensors. There a
# check looks at the result **and** at what the kernel moves: entries read or written beyond the least fail it. The
# last cell of a puzzle shows what was moved, tensor by tensor. Compiled on a GPU, a kernel cannot be watched: only
# its result counts.

# %% [markdown]
# ### Puzzle 1 · your first kernel
#
# A kernel is a program that runs many times at once. Every copy runs the same lines, and `tl.program_id(0)` tells it
# which copy it is. It gets **pointers**: `x` is the address of the first entry, and `x + tl.arange(0, BLOCK)` is a
# block of addresses. A block has a power of two lanes and a row has $m$ entries, so the lanes past the row must be
# masked off.

# %% tags=["exercise"]
@exercise("kernel_lab.scale_rows")  # difficulty 1/5 · 8 min · about 4 lines
def scale_rows(x, scale, out, m, BLOCK: "tl.constexpr"):
    """x (n, m), scale (n,) -> out (n, m) = scale[:, None] * x. Program i owns row i; m <= BLOCK.

    Scored: every entry of x and of scale is read once, every entry of out written once.
    """
    raise Todo


# %% tags=["check"]
check("kernel_lab.scale_rows")

# %%
score("kernel_lab.scale_rows", scale_rows)

# %% [markdown]
# ### Puzzle 2 · a grid with two axes
#
# A tile is a block of addresses with two axes: a column of row numbers and a row of column numbers, added. A matrix
# in memory is one long line, and where entry $(i, j)$ lies depends on how long a row is. A tile can leave the matrix
# on two sides.

# %% tags=["exercise"]
@exercise("kernel_lab.transpose")  # difficulty 2/5 · 10 min · about 4 lines
def transpose(x, out, n, m, BLOCK: "tl.constexpr"):
    """x (n, m) -> out (m, n) = x.T.

    Program (a, b) owns rows a * BLOCK ... and columns b * BLOCK ... of x.
    Scored: every entry is read once and written once.
    """
    raise Todo


# %% tags=["check"]
check("kernel_lab.transpose")

# %%
score("kernel_lab.transpose", transpose)

# %% [markdown]
# ### Puzzle 3 · once through memory
#
# A GPU computes far more quickly than it reads. Written in tensor operations, a softmax reads the row for its
# maximum, again for its sum, and again for the result. A kernel loads the row once: what is in registers costs
# nothing to use again. A masked lane gets what `other` says, and it must change neither the maximum nor the sum.

# %% tags=["exercise"]
@exercise("kernel_lab.softmax")  # difficulty 2/5 · 12 min · about 5 lines
def softmax(x, out, m, BLOCK: "tl.constexpr"):
    """x (n, m) -> out (n, m), the softmax of each row, which may hold large numbers.

    Program i owns row i; m <= BLOCK.
    Scored: every entry of x is read once, every entry of out written once.
    """
    raise Todo


# %% tags=["check"]
check("kernel_lab.softmax")

# %%
score("kernel_lab.softmax", softmax)

# %% [markdown]
# ### Puzzle 4 · who owns a result
#
# All rows go into every sum. Were the rows shared out among programs, several would write to the same place, and
# nobody knows which comes last: a **race**. So share out the results instead: each program owns a block of columns
# and walks down all rows.

# %% tags=["exercise"]
@exercise("kernel_lab.column_sums")  # difficulty 3/5 · 15 min · about 7 lines
def column_sums(x, out, n, m, ROWS: "tl.constexpr", COLS: "tl.constexpr"):
    """x (n, m) -> out (m,), the sum of each column.

    Program p owns columns p * COLS ... and takes ROWS rows at a time. `out` holds NaN at
    first. Scored: every entry of x is read once, every entry of out written once.
    """
    raise Todo


# %% tags=["check"]
check("kernel_lab.column_sums")

# %%
score("kernel_lab.column_sums", column_sums)

# %% [markdown]
# ### Puzzle 5 · a row longer than the block
#
# Now the row does not fit. Three passes would do: maximum, sum, result. Two are enough, if maximum and sum are found
# in the same pass: whenever the maximum rises from $\text{top}$ to $\text{higher}$, the sum so far is multiplied by
# $e^{\text{top} - \text{higher}}$. FlashAttention rests on this line.

# %% tags=["exercise"]
@exercise("kernel_lab.online_softmax")  # difficulty 3/5 · 20 min · about 12 lines
def online_softmax(x, out, m, BLOCK: "tl.constexpr"):
    """x (n, m), finite and perhaps large -> out (n, m), the softmax of each row.

    Program i owns row i, BLOCK entries at a time; a row may be longer.

    Scored: every entry of x is read twice, every entry of out written once.
    """
    raise Todo


# %% tags=["check"]
check("kernel_lab.online_softmax")

# %%
score("kernel_lab.online_softmax", online_softmax)

# %% [markdown]
# ## What the code becomes
#
# Triton compiles for a GPU that is not there. A **warp** is 32 threads; each has at most 255 registers, and what
# does not fit is **spilled** to memory. More warps share the work of a program, so each thread holds less. Lesson 20
# met a kernel of a peer that runs with two warps on Hopper. With two and with four:

# %%
if kernels.WHERE != "nowhere":
    from labkit import delta_rule

    for warps in (2, 4):
        report = kernel_lab.compile_report(delta_rule.peer_case(warps), "sm_90")
        print(f"{warps} warps: {report.registers} registers a thread, "
              f"{report.spills} bytes of each spilled, "
              f"{report.tensor_core} matrix instructions;")
        print(f"         {report.occupancy:.0%} of the warps that fit run at once, "
              f"limited by {report.limit}")

# %% [markdown]
# What does spilling cost? On paper: every spilled byte is written and read again, by every thread. A kernel of ours
# that is launched with eight warps, forced into two, at a head size of 128 on an A100:

# %%
if kernels.WHERE == "interpreted":
    from kernels.delta_rule import case, delta_backward_keys

    for warps in (2, 8):
        made = case(delta_backward_keys, torch.float16, 128, num_warps=warps)
        report = kernel_lab.compile_report(made, "sm_80")
        cost = str(kernel_lab.spilling(report, kernel_lab.work(made)))
        print(f"{warps} warps:", cost.replace(" and reads", "\n         and reads"))

# %% [markdown]
# ## The roofline
#
# A kernel needs time for its arithmetic and time for its memory, and the longer of the two counts. With $I$ FLOPs
# for each byte moved,
# $$ \text{attainable} = \min(\text{peak},\; I \cdot \text{bandwidth}). $$
# Where the two meet is the ridge. Left of it a kernel is **memory-bound**: faster arithmetic would not help. Work is
# counted by running the kernel in the interpreter; peaks are from the data sheets. Nothing here was timed on a GPU.

# %%
if kernels.WHERE == "interpreted":
    states = next(c for c in kernels.delta_rule.CASES if c.name == "delta_states bfloat16 d=64")
    counted = kernel_lab.work(states)
    landing = kernel_lab.land(counted, "H100")
    reveal("kernel_lab.roof", 100 * landing.attainable / landing.peak)
    print(f"{counted.flops / 1e6:.0f} MFLOP, {counted.distinct / 1e6:.1f} MB: "
          f"{landing.intensity:.0f} FLOP a byte, ridge {landing.ridge:.0f}: {landing.bound}-bound")

# %% [markdown]
# It multiplies matrices all the time and still waits for memory. *Move the sliders: which mechanism ever reaches the
# flat part of the roof, and what would you have to change for linear attention to get there?*

# %%
kernel_lab.explore_roofline()

# %% [markdown]
# Softmax attention reads each key once for a whole block of queries, so its FLOPs a byte grow with the text. Linear
# attention does a fixed number of FLOPs for each token it reads: in the recurrent form with a launch a token, it
# moves the whole state for each of them; in chunks, a token's share of the work grows with the chunk and no further.

# %% [markdown]
# ### Puzzle 6 · tiles of a product
#
# A program owns a tile of the product. It walks along the axis that is summed over, and in each step loads one tile
# of $A$ and one of $B$ and multiplies them with `tl.dot`. The larger the tile, the fewer times each entry is read.
# The total stays in registers, in float32 even where the inputs are float16: 4096 + 1 is 4096 in float16.

# %% tags=["exercise"]
@exercise("kernel_lab.matmul")  # difficulty 4/5 · 25 min · about 9 lines
def matmul(a, b, out, n, m, k, ROWS: "tl.constexpr", COLS: "tl.constexpr", DEPTH: "tl.constexpr"):
    """a (n, k), b (k, m), float32 or float16 -> out (n, m) = a @ b.

    Program (p, r) owns rows p * ROWS ... and columns r * COLS ..., and sums over k in
    float32, DEPTH at a time.
    On a GPU, tl.dot(..., input_precision="ieee") keeps float32 inputs from being rounded.
    Scored: each program reads its rows of a and its columns of b once; every entry of out is
    written once.
    """
    raise Todo


# %% tags=["check"]
check("kernel_lab.matmul")

# %%
score("kernel_lab.matmul", matmul)

# %% [markdown]
# ### Puzzle 7 · a chunk of linear attention
#
# The last puzzle is a mechanism. A head of linear attention holds a state $S$; a chunk of tokens reads it, each
# token reads the tokens of the chunk up to itself, and together they leave a new state:
# $$ O = Q S + \operatorname{tril}(Q K^\top)\, V, \qquad S' = S + K^\top V. $$
# Both results need the same tiles. Load each of them once.

# %% tags=["exercise"]
@exercise("kernel_lab.linear_attention")  # difficulty 5/5 · 25 min · about 12 lines
def linear_attention(
    q, k, v, state, out, new_state, t, D_K: "tl.constexpr", D_V: "tl.constexpr", CHUNK: "tl.constexpr"
):
    """q, k (h, t, D_K), v (h, t, D_V), state (h, D_K, D_V) -> out (h, t, D_V), new_state (h, D_K, D_V).

    Program h owns head h. t <= CHUNK; CHUNK, D_K and D_V are powers of two, at least 16. Queries are
    not scaled.
    Leaves `state` alone.
    Scored: every input is read once, every result written once.
    """
    raise Todo


# %% tags=["check"]
check("kernel_lab.linear_attention")

# %%
score("kernel_lab.linear_attention", linear_attention)

# %% [markdown]
# ## What the papers claim, what we measured

# %%
if kernels.WHERE == "interpreted":
    h100 = kernel_lab.GPUS["H100"]
    one, many = recurrent(4096, 64, 2), chunkwise(4096, 64, 2, chunk=64)
    token, chunks = one.land(h100), many.land(h100)
    claim("kernel_lab.recurrent_is_memory_bound", paper="Gated Linear Attention, arXiv 2312.06635",
          says="the recurrent form works element by element and leaves matrix units idle (§2)",
          measured=f"{sum(one.matrix.values()):.0f} matrix FLOPs, {token.intensity:.1f} FLOP a byte",
          holds=not one.matrix and token.bound == "memory",
          on="closed formula, equal to the counted kernel; H100's data sheet")
    claim("kernel_lab.chunks_raise_it", paper="Gated Linear Attention, arXiv 2312.06635",
          says="chunks bring matrix products back at linear cost (§2)",
          measured=f"{chunks.intensity:.0f} FLOP a byte with chunks of 64",
          holds=chunks.intensity > 10 * token.intensity,
          why="Still memory-bound by this count." if chunks.bound == "memory" else "",
          on="t = 4096, head size 64, half precision, H100's data sheet")

# %% [markdown]
# ## Where it breaks
#
# - The interpreter finds the races of *this* launch. A race that needs another size stays hidden: trace ragged
#   sizes.
# - Registers and spills are facts of the compiler of this version. How long a kernel takes is not among them.
# - The roofline counts every byte once or every program's own; a real cache lies between.
# - A data sheet's peak is seldom reached. The roof says what is impossible, not what will happen.
#
# ## Recap
#
# - A trace shows what a result hides: races, accesses past the end, memory read twice.
# - Registers, spills and shared memory are in the machine code, and set how many programs run at once.
# - FLOPs a byte against the ridge: memory or arithmetic. Linear attention is on the side of memory.

# %%
progress("kernel_lab")
