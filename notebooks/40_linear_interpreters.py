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
# # Linear interpreters
#
# **A convolutional network is a stack of matrices with switches in between. Leave the switches as one picture sets
# them, and what is left is one matrix and one vector, which can be read.**
#
# Paper: Navarrete Michelini, Liu, Lu, Jiang, *A Tour of Convolutional Networks Guided by Linear Interpreters* (2019),
# [arXiv 1908.05168](https://arxiv.org/abs/1908.05168). · About 125 minutes with the exercises · You need: what a
# convolution and a ReLU do, matrix products, what a gradient is.
#
# Run the cells in order. Sliders are live only while the kernel runs: after a restart, run their cell again.

# %%
import time

import torch
import torch.nn.functional as F
from einops import einsum, rearrange, reduce  # noqa: F401 (for your answers)
from torch import nn

import kernels
from labkit import linear_interpreters, vision
from labkit.charts import lines
from labkit.course import Todo, check, claim, exercise, predict, progress, reveal
from labkit.linear_interpreters import Refused, figures, forms, interpret, measures, upscaling
from labkit.pictures import picture

# %% [markdown]
# ## Predict
#
# EfficientNet-Lite0 is a classifier of 4.7 million numbers, trained on ImageNet. It looks at a photograph of a cat,
# and its logit for *Egyptian cat* is 9.03. All its non-linear units are ReLU6, and so, around this very picture $x$,
# the logit is exactly a weighted sum of the pixels plus a constant: $9.03 = \sum_i F_i x_i + r$. **How much of the
# 9.03 is the weighted sum of the pixels?** Put a number in place of `None`. (A pixel's numbers go from about −1,
# black, to 1.)

# %%
predict("linear_interpreters.pixels", "what the weighted pixels give to the cat's 9.03", None)

# %% [markdown]
# Where the switches stay as they are, the weights $F_i$ are the logit's derivatives. So the split can be had in two
# lines: a row of $F$ is a gradient, and $r$ is what is left over.

# %%
net, names = vision.classifier(), vision.class_names()
cat = vision.classifier_input(picture("chelsea")).requires_grad_()
logits = net(cat)[0]
parts = {}
for c in logits.topk(3).indices:
    (row,) = torch.autograd.grad(logits[c], cat, retain_graph=True)
    Fx = (row * cat).sum()
    parts[names[c]] = (Fx.item(), (logits[c] - Fx).item())
reveal("linear_interpreters.pixels", parts["Egyptian cat"][0])
figures.split_figure(parts)

# %% [markdown]
# The pixels themselves, with their weights, give next to nothing. It is all in $r$: a constant, which would stay the
# same whatever the pixels were, as long as the switches stayed. So does the network not look? It does, but elsewhere:
# the picture sets the *switches*, and these decide which of the network's biases get through. In this lesson you take
# a network apart in this way, without any "what is left over": first a ReLU, then real networks, each checked against
# itself.
#
# ## One ReLU: a mask, then nothing but matrices
#
# $\operatorname{relu}(z) = m \odot z$ with the mask $m = [z > 0]$. The mask depends on $z$, and that is all that is
# not linear about it. Keep the mask of one $z$ and apply it to any other $u$: $u \mapsto m \odot u$ is linear, and at
# $u = z$ it is the ReLU. The paper calls a unit that does so a **LinearScope**.
#
# ### Exercise 1 · a frozen ReLU


# %% tags=["exercise"]
@exercise("linear_interpreters.freeze_relu")  # difficulty 1/5 · 4 min · about 1 line
def freeze_relu(z, u):
    """z, u (*shape) -> (*shape): what a ReLU, frozen at z, makes of u. At z = 0 its slope is 0."""
    raise Todo


# %% tags=["check"]
check("linear_interpreters.freeze_relu")

# %% [markdown]
# Now put it between two layers, $W_2 \operatorname{relu}(W_1 x + b_1) + b_2$. With the mask $m$ of $W_1 x + b_1$ kept,
# this is
#
# $$ u \;\mapsto\; \underbrace{W_2 \operatorname{diag}(m)\, W_1}_{F}\, u \;+\;
#    \underbrace{W_2 (m \odot b_1) + b_2}_{r}. $$
#
# ### Exercise 2 · F and r of two layers


# %% tags=["exercise"]
@exercise("linear_interpreters.two_layers")  # difficulty 2/5 · 10 min · about 2 lines
def two_layers(W1, b1, W2, b2, x):
    """W1 (h i), b1 (h), W2 (o h), b2 (o), x (i) -> F (o i), r (o).

    W2 relu(W1 u + b1) + b2 around x, as F u + r.
    """
    raise Todo


# %% tags=["check"]
check("linear_interpreters.two_layers")

# %%
g = torch.Generator().manual_seed(0)
W1, b1, W2, b2 = (torch.randn(shape, generator=g) for shape in ((50, 9), (50,), (4, 50), (4,)))
x = torch.randn(9, generator=g)
F_x, r_x = two_layers(W1, b1, W2, b2, x)
mlp = lambda u: W2 @ torch.relu(W1 @ u + b1) + b2  # noqa: E731
print("F x + r is the network:", torch.allclose(F_x @ x + r_x, mlp(x), atol=1e-4))
print("r is the network at zero:", torch.allclose(r_x, mlp(torch.zeros(9)), atol=1e-4))

# %% [markdown]
# ## A whole network: record, then replay
#
# A network with many layers need not be multiplied out. **Record**: run it on $x$ and note each mask. **Replay**: run
# it again on whatever you like, with these masks. Replayed on $u$, it says $A(u) = F u + r$; on zeros, $r$; on a
# single bright pixel, $r$ and a column of $F$. Here is a small one to try it on. It doubles the size of a picture, and
# is trained now, before your eyes, on crops of ten photographs:

# %% tags=["nbval-ignore-output"]
began = time.process_time()
small = upscaling.trained()
print(f"trained in {time.process_time() - began:.1f} s of CPU")
gains = upscaling.gains(small)
print("dB above bicubic, unseen:",
      ", ".join(f"{name.partition('_')[0]} {dB:.1f}" for name, dB in gains.items()))

# %%
print(small.layers)
print("parameters:", sum(p.numel() for p in small.parameters()))
print("better than bicubic on all six:", min(gains.values()) > 0.2)


# %%
def record(layers, x):
    """The mask of each ReLU, in the order in which they are met."""
    masks = []
    for layer in layers:
        if isinstance(layer, nn.ReLU):
            masks.append(x > 0)
        x = layer(x)
    return masks


def replay(layers, masks, u):
    """The layers on u, with each ReLU as it was."""
    masks = iter(masks)
    for layer in layers:
        u = u * next(masks) if isinstance(layer, nn.ReLU) else layer(u)
    return u


# %%
low, high = upscaling.pair("camera")
patch = F.pad(low[..., 60:84, 100:124], (4,) * 4, mode="replicate")  # the convolutions use 4 pixels up
masks = record(small.layers, patch)
y, r = small.layers(patch), replay(small.layers, masks, torch.zeros_like(patch))
print("replayed on itself, it is the network:", torch.equal(replay(small.layers, masks, patch), y))
u, v = torch.rand(2, *patch.shape, generator=g)
A_u, A_v, A_uv = (replay(small.layers, masks, z) for z in (u, v, u + v))
print("affine, A(u + v) − A(u) − A(v) + A(0) = 0:", bool((A_uv - A_u - A_v + r).abs().max() < 1e-5))

# %% [markdown]
# That is all of the idea. `interpret(net, x)` does the same for any network made of what the lab knows: it watches
# every call of torch that touches something made from $x$, freezes the units, lets affine calls pass, and refuses by
# name what is neither.

# %%
patch = low[..., 60:84, 100:124]
A = interpret(small, patch)
print("rows are pictures", tuple(A.row(0).shape), "and so are columns", tuple(A.column(0).shape))
figures.pictures_figure(
    {"x": patch, "a row: what pixel (24, 26) of the output looks at": A.row((0, 24, 26)),
     "a column: what pixel (12, 13) of the input paints": A.column((0, 12, 13)), "r": A.residual,
     "F x": A.linear(patch), "F x + r": A(patch)},
    title="What are the rows, the columns and the residual of a network?",
    signed=["a row: what pixel (24, 26) of the output looks at",
            "a column: what pixel (12, 13) of the input paints", "r"])

# %% [markdown]
# A **row** is what one output looks at: a filter, made by the whole network for this one place. A **column** is what
# one input pixel paints in the output. $r$ is what the network says without looking; here it is small.
#
# Exactness can be tested, as long as $r$ does not come from a difference: `verify` takes $r$ from a replay of zeros,
# $F x$ from a replay without any biases, and compares their sum with the network. In double precision:

# %%
worst = {}
for name, made, z in [("small ×2", upscaling.trained(), patch), ("waifu2x", vision.upscaler(),
                      picture("coffee")[None, :, 100:124, 200:224] / 255),
                      ("EfficientNet-Lite0", vision.classifier(), cat.detach()[..., 60:156, 60:156])]:
    found = interpret(made.double(), z.double()).verify()
    worst[name] = max(found)
    made.float()
    print(f"{name:19} exact and affine to 1e-9: {worst[name] < 1e-9}, "
          f"in float32 to 1e-4: {max(interpret(made, z).verify()) < 1e-4}")

# %% [markdown]
# ### Exercise 3 · column by column
#
# For a network that can only be *run*, $F$ is made one column at a time. There are three tempting ways to get it
# wrong: to run the network itself on the deltas, which then set switches of their own; to forget $r$; and to take the
# network at zero for $r$.


# %% tags=["exercise"]
@exercise("linear_interpreters.columns")  # difficulty 3/5 · 15 min · about 7 lines
def columns(w1, b1, w2, b2, x):
    """w1 (c k), b1 (c), w2 (c k), b2 (), x (n) -> F (n n) of w2 ⋆ relu(w1 ⋆ u + b1) + b2 frozen at x.

    Two 1-D convolutions, 1 → c → 1 channels, zero padding "same", k odd.
    Column j comes from a delta at j, replayed.
    """
    raise Todo


# %% tags=["check"]
check("linear_interpreters.columns")

# %% [markdown]
# ## A module that is used twice
#
# It is tempting to hang a hook on every ReLU module and to keep one mask a module. But how many modules are there, and
# how many units?

# %%
modules = [m for m in net.modules() if isinstance(m, nn.ReLU6)]
steps = interpret(net, cat.detach()).steps
print(f"EfficientNet-Lite0 has {len(modules)} modules of ReLU6, and calls them {len(steps)} times")

# %% [markdown]
# One mask a module would overwrite the first of its uses with the last. Masks belong to *calls*, in their order.
# (Tools of attribution that hang on modules have stumbled over this too: see Captum's issues 199, 578 and 1104.)
#
# ### Exercise 4 · one layer, several times


# %% tags=["exercise"]
@exercise("linear_interpreters.used_twice")  # difficulty 3/5 · 10 min · about 4 lines
def used_twice(W, b, times, x, u):
    """W (d d), b (d), x (d), u (n d) -> (n d): h ← relu(W h + b), `times` times, frozen at x.

    The n rows of u are replayed, each by itself.
    Each use has its own mask. The answer is A(u) = F u + r, biases included.
    """
    raise Todo


# %% tags=["check"]
check("linear_interpreters.used_twice")

# %% [markdown]
# The other trap is what a hook on modules does not see: `F.relu(x)`, `x.relu_()`, `x * (x > 0)`. `interpret` watches
# calls, so it sees the first two. What it does not know, it refuses, and does not take for linear:

# %%
tricks = {"F.relu": F.relu, "in place": lambda x: x.clone().relu_(), "by hand": lambda x: x * (x > 0),
          "x · relu(x)": lambda x: x * F.relu(x), "layer norm": lambda x: F.layer_norm(x, x.shape[1:])}
for name, unit in tricks.items():
    try:
        print(f"{name:12} {[step.name for step in interpret(unit, patch).steps]}")
    except Refused as why:
        print(f"{name:12} refused: {str(why).partition(',')[0]}")

# %% [markdown]
# ## Other units
#
# **ReLU6** is level above 6: there its slope is 0, and it has an **offset** of 6, which goes into $r$.
#
# ### Exercise 5 · a slope and an offset


# %% tags=["exercise"]
@exercise("linear_interpreters.freeze_relu6")  # difficulty 2/5 · 6 min · about 2 lines
def freeze_relu6(z):
    """z (*shape) -> (slope, offset), both like z, with relu6(z) = slope · z + offset.

    At 0 and at 6 the slope is 0.
    """
    raise Todo


# %% tags=["check"]
check("linear_interpreters.freeze_relu6")

# %% [markdown]
# **Max-pooling** selects. What it selected at $z$ it goes on selecting, whatever $u$ holds there.
#
# ### Exercise 6 · a frozen max-pooling


# %% tags=["exercise"]
@exercise("linear_interpreters.pool_as")  # difficulty 3/5 · 12 min · about 2 lines
def pool_as(z, u, size):
    """z, u (c h w) -> (c h/size w/size): what a max-pooling, frozen at z, makes of u.

    Its windows are size × size, do not overlap, and fill h and w.
    """
    raise Todo


# %% tags=["check"]
check("linear_interpreters.pool_as")

# %% [markdown]
# **Instance norm** divides by a standard deviation that depends on all of its input. The paper keeps mean and variance
# as they were at $z$: an affine map, exact at $z$. It is *not* the derivative, which would know that $u$ changes them.
#
# ### Exercise 7 · a frozen instance norm


# %% tags=["exercise"]
@exercise("linear_interpreters.norm_as")  # difficulty 2/5 · 6 min · about 3 lines
def norm_as(z, u, eps):
    """z, u (c h w), eps -> (c h w): what an instance norm without weights, frozen at z, makes of u."""
    raise Todo


# %% tags=["check"]
check("linear_interpreters.norm_as")

# %% [markdown]
# ## Classification: who votes?
#
# Back to the cat, now with an $r$ that is no difference. All 1,000 classes at once, for four photographs: the
# network's choice, its logit $F x + r$, and how well each of the two parts, *alone*, goes along with the logits of all
# classes.

# %%
shown = {name: interpret(net, vision.classifier_input(picture(name)))
         for name in ("chelsea", "coffee", "camera", "motorcycle_left")}
seen, said = {}, {}  # F x and r of the 1,000 classes
for name, A in shown.items():
    c, seen[name], said[name] = A.y[0].argmax(), A.linear(A.x)[0], A.residual[0]
    along = torch.corrcoef(torch.stack([A.y[0], seen[name], said[name]]))[0]
    print(f"{names[c]:13} {A.y[0, c]:5.2f} = {seen[name][c]:5.2f} + {said[name][c]:5.2f}; correlation "
          f"of F x {along[1]:5.2f}, of r {along[2]:.2f}; r alone: {names[said[name].argmax()]}")

# %% [markdown]
# On the cat and the coffee, $r$ alone is almost the verdict; on the man with the camera it is not, and the pixels give
# more than half. "Relies on biases" is a matter of degree, and of the picture. It also depends on where **zero** is:
# $F x$ is what the pixels give *compared with a picture of zeros*, and which grey is zero was somebody's choice. Move
# it to $o$: $F x + r = F (x - o) + A(o)$.

# %%
origins = {"mid-grey": 0.0, "black": -0.498 / 0.502, "white": 1.0}
for A in shown.values():
    c = A.y[0].argmax()
    r_of = {o: A(torch.full_like(A.x, value))[0, c].item() for o, value in origins.items()}
    split = [f"zero at {o}: {A.y[0, c] - r:.2f} + {r:.2f}" for o, r in r_of.items()]
    print(f"{names[c]:13} " + ", ".join(split))

# %% [markdown]
# So where is the picture, if the pixels hardly count? In the gates. Take the interpreter of one picture, and give it
# the *pixels* of another. Whose class does it name?

# %%
print("gates of ↓, pixels of →  " + "".join(f"{name.partition('_')[0]:15}" for name in shown))
for gates, A in shown.items():
    told = [f"{names[A(other.x)[0].argmax()]:15}" for other in shown.values()]
    print(f"{gates.partition('_')[0]:25}" + "".join(told).rstrip())

# %%
by_gates = by_pixels = 0
for gates, A in shown.items():
    for pixels, other in shown.items():
        if gates != pixels:
            logits = A(other.x)[0]
            order = [(logits > logits[B.y[0].argmax()]).sum().item() for B in (A, other)]
            by_gates += order[0] < order[1]
            by_pixels += order[0] > order[1]
print(f"of {by_gates + by_pixels} pairs, the class of the gates' picture is ahead in {by_gates}")

# %% [markdown]
# ### The vote of each pixel
#
# The row of a class times the picture is what each pixel votes for that class. They nearly cancel in the sum, but
# *where* they are is worth looking at.
#
# ### Exercise 8 · a map of votes


# %% tags=["exercise"]
@exercise("linear_interpreters.vote_map")  # difficulty 2/5 · 6 min · about 1 line
def vote_map(row, x, cell):
    """row, x (c h w) -> (h/cell w/cell): sums of row · x over the channels and cell × cell pixels."""
    raise Todo


# %% tags=["check"]
check("linear_interpreters.vote_map")

# %%
A = shown["chelsea"]
maps = {"the picture": (A.x * 0.502 + 0.498).clamp(0, 1)}
for name in ("Egyptian cat", "tiger cat", "espresso"):
    row = A.row(names.index(name))[0]
    maps[f"votes for {name}"] = vote_map(row, A.x[0], 8)
    print(f"{name:13} votes for {(row * A.x[0]).clamp(min=0).sum():.1f}, against "
          f"{(row * A.x[0]).clamp(max=0).sum():.1f}, r = {A.residual[0, names.index(name)]:.2f}")
figures.pictures_figure(maps, title="Which parts of the cat vote for what?", signed=list(maps)[1:])

# %%
votes = torch.stack([maps[name].flatten() for name in list(maps)[1:]])
alike = torch.corrcoef(votes)[0]
print(f"the map for Egyptian cat goes along with that for tiger cat ({alike[1]:.2f}) "
      f"and with that for espresso ({alike[2]:.2f})")

# %% [markdown]
# Hundreds of votes for, hundreds against, and no cat to be seen. The votes are about classes: the two cats' maps are
# much alike, and that of espresso is not. This is what the paper calls a pixel-wise vote per class. But where votes
# for and against cancel so nearly, a map says how the logit would answer if a pixel changed, and not where the verdict
# came from.

# %% [markdown]
# ## Super-resolution: a filter for every place
#
# Bicubic interpolation is a linear map too: the same four filters everywhere, for every picture, and $r = 0$. A
# network makes a filter of its own for each place of each picture. Here are four patches, and what **waifu2x** looks
# at for the pixel in the middle of each. It is a network of seven layers and half a million numbers, made to double
# photographs; we run it from brightness to brightness.

# %%
large, low = upscaling.in_grey(vision.upscaler()), upscaling.pair("coffee")[0]
places = {"an edge": (86, 193), "another edge": (157, 168), "texture": (122, 166), "flat": (111, 217)}
patches = {name: low[..., i - 12 : i + 12, j - 12 : j + 12] for name, (i, j) in places.items()}
rows = {f"its row, {name}": interpret(large, x).row((0, 24, 24))[..., 4:20, 4:20]
        for name, x in patches.items()}
figures.pictures_figure({**patches, **rows}, signed=rows,
                        title="What does the middle pixel look at, in each of four patches?")

# %%
of_bicubic = {name: interpret(upscaling.bicubic, x).row((0, 24, 24)) for name, x in patches.items()}
print("bicubic's row is the same in all four:", len({tuple(row.flatten().tolist())
                                                     for row in of_bicubic.values()}) == 1)
for name, row in rows.items():
    print(f"{name:22} sums to {row.sum():.2f}, its negative weights to {row.clamp(max=0).sum():.2f} "
          f"(bicubic's {of_bicubic['flat'].clamp(max=0).sum():.2f})")

# %% [markdown]
# The weights sum to about 1, so that grey stays grey, but with much more to subtract than bicubic has: the network
# sharpens. In the flat patch the row is a small bump; at an edge it is larger and of another shape. Does each patch
# need *its own* filters? Take eight patches, and let the small network double each with the interpreter of each:

# %%
eight = [("camera", 60, 100), ("coffee", 60, 190), ("grass", 40, 40), ("coins", 50, 60),
         ("text", 20, 30), ("motorcycle_left", 100, 200), ("coffee", 74, 181), ("coffee", 145, 156)]
pairs = [(*upscaling.pair(of), i, j) for of, i, j in eight]
X = torch.cat([low[..., i : i + 24, j : j + 24] for low, _, i, j in pairs])
Y = torch.cat([high[..., 2 * i : 2 * i + 48, 2 * j : 2 * j + 48] for _, high, i, j in pairs])
dB = measures.adapts(interpret(small, X), Y, upscaling.bicubic)
print(f"PSNR, mean of eight patches: its own interpreter {dB.own.mean():.1f} dB, "
      f"bicubic {dB.fixed.mean():.1f} dB, another patch's {dB.another.mean():.1f} dB")
print(f"another's is worse than bicubic in {(dB.another < dB.fixed).sum()} of 8 patches")

# %% [markdown]
# ## What basis?
#
# $F = \sum_k s_k\, u_k v_k^\top$: the singular vectors $v_k$ are what the network picks up in a patch, and $u_k$ what
# it puts down for it. They can be had without the matrix, by products with $F$ and $F^\top$ alone: `A.singular(k)`.
# The paper says that they are wavelet-like. Here are some of waifu2x, and some of our small network, on a patch with a
# face at an edge:

# %%
def random_weights(net):
    """The network before any training."""
    torch.manual_seed(0)
    for layer in net.layers:
        if hasattr(layer, "reset_parameters"):
            layer.reset_parameters()
    return net


nets_of = {"waifu2x": large, "small ×2": small, "bicubic": upscaling.bicubic,
           "waifu2x, not trained": upscaling.in_grey(random_weights(vision.upscaler()))}
vectors = {name: interpret(made, X[:3]).singular(6, tolerance=0.01) for name, made in nets_of.items()}
at_edge = {f"{name}: v{k + 1}": vectors[name].V[0, k, 0]
           for name in ("waifu2x", "small ×2") for k in (0, 1, 2, 4)}
figures.pictures_figure(at_edge, title="Which patterns does each pick up at the edge?", signed=at_edge)

# %% [markdown]
# Those of the small network are fine waves all over the patch, and those of waifu2x are each in one place (some at the
# border, where pixels beyond it are repeats). A wavelet is oriented, of about one octave of frequencies, *and*
# somewhere. So measure all of it. `oriented` and `band_pass` are shares of the spectral energy, `localised` the share
# of the pixels that a vector is on, `wavelet` the share of its energy that the best single wavelet holds (of a single
# point it holds half, so read it beside the others). Controls: the same network before training, bicubic's vectors,
# and vectors with the same spectrum but random phases. (Means over six vectors $u_k$ of three patches.)

# %%
score = {}
for name, basis in vectors.items():
    U = basis.U[:, :, 0]
    numbers = [m(U).mean().item() for m in (measures.oriented, measures.band_pass, measures.localised)]
    score[name] = measures.wavelet(U).mean().item()
    control = measures.wavelet(measures.shuffled(U)).mean().item()
    print(f"{name:20} oriented {numbers[0]:.2f}, band-pass {numbers[1]:.2f}, "
          f"localised {numbers[2]:.2f}, wavelet {score[name]:.2f}, with random phases {control:.2f}")

# %% [markdown]
# ## How far does it hold?
#
# $A$ is the network *at* $x$. A step away, some unit decides otherwise, and from then on it is not. Add noise $d$ of a
# given size, and compare the interpreter's error with how much the network's output changed at all. At 1 the
# interpreter is as wrong as if it had said that nothing changes:

# %% tags=["nbval-ignore-output"]
sizes = [1e-4, 1e-3, 1e-2, 1e-1, 1.0]
wrong = {"classifier, cat": measures.radius(shown["chelsea"], sizes, draws=2)[:, 0].tolist(),
         "small ×2, edge": measures.radius(interpret(small, patches["an edge"]), sizes)[:, 0].tolist(),
         "small ×2, flat": measures.radius(interpret(small, patches["flat"]), sizes)[:, 0].tolist()}
lines(wrong, [f"{size:g} of x" for size in sizes], title="How wrong is the interpreter beside x?",
      x_title="size of the noise", y_title="its error / the change")

# %%
print("with 1 % of noise, the interpreter misses more than a third of the change:\n  "
      + ", ".join(f"{name} {ratio[2] > 1 / 3}" for name, ratio in wrong.items()))

# %% [markdown]
# For the classifier, one per cent of noise is already beyond it. A linear interpreter explains *one* answer, and not
# what would have been answered nearby. Walk further, and see the gates flip: the explorer goes from one picture to
# another. Click on a pixel, or move the sliders: you see what the network looks at for it (its row), what it paints
# (its column), and that $F x + r$ is the network's output all the way.

# %%
linear_interpreters.explore()

# %% [markdown]
# ## Smooth units: now it is a choice
#
# A ReLU has a slope at each $z$. SiLU, $z\,\sigma(z)$, has two candidates: the **gate** $\sigma(z)$, the mask by which
# $z$ is multiplied, with nothing left over; or the **tangent**, its derivative, with an offset. Both lines go through
# $(z, \operatorname{silu}(z))$, so both interpreters are exact at $x$, and they do not agree on what the rows are. For
# its smooth unit, a sigmoid, the paper takes a mask. `interpret` wants to be told.
#
# ### Exercise 9 · two lines through one point


# %% tags=["exercise"]
@exercise("linear_interpreters.smooth_unit")  # difficulty 3/5 · 8 min · about 3 lines
def smooth_unit(z):
    """z (*shape) -> ((slope, offset), (slope, offset)), like z: SiLU as a gate, then as its tangent."""
    raise Todo


# %% tags=["check"]
check("linear_interpreters.smooth_unit")


# %%
def with_silu(x):
    """The small network with each ReLU replaced: the same weights."""
    for layer in small.layers:
        x = F.silu(x) if isinstance(layer, nn.ReLU) else layer(x)
    return x


# %%
wide = F.pad(patch, (4,) * 4, mode="replicate")
choices = {choice: interpret(with_silu, wide, smooth=choice) for choice in ("gate", "tangent")}
for choice, B in choices.items():
    exact = max(interpret(with_silu, wide, smooth=choice).verify()) < 1e-4
    print(f"{choice:8} exact at x: {exact}, |r| / |y| = {B.residual.norm() / B.y.norm():.2f}")
one, other = (B.row((0, 24, 26)) for B in choices.values())
print(f"their rows differ by {(one - other).norm() / other.norm():.0%}")
try:
    interpret(with_silu, wide)
except Refused as why:
    print("refused:", why)

# %% [markdown]
# ## The kernel
#
# What has to be kept of a picture? A slope and an offset for every unit: for the classifier, more numbers than it has
# weights. But a unit of ReLU6 is on one of three pieces, and two bits say which. `kernels/linear_interpreters.py` has
# two kernels: one packs sixteen units into a word of 32 bits, the other applies them to any $u$, forward and, since it
# is linear, backward too. Both do little but read and write memory, so what need not be read is what is gained.

# %%
gates = sum(step.shape.numel() for step in steps)
as_lines, as_bits = 8 * gates, sum(-(-step.shape.numel() // 16) * 4 for step in steps)
print(f"{gates / 1e6:.2f} million gates: {as_lines / 2**20:.0f} MiB as slopes and offsets in float32, "
      f"{as_bits / 2**20:.1f} MiB as two bits each")

# %% [markdown]
# ### Exercise 10 · replay, in Triton
#
# Program $i$ takes `BLOCK` elements. Without a GPU, Triton's interpreter runs your kernel, and stops it should it
# leave its tensors.

# %%
if kernels.WHERE != "nowhere":
    triton, tl = kernels.need()


# %% tags=["exercise"]
@exercise("linear_interpreters.replay_gates")  # difficulty 4/5 · 15 min · about 6 lines
def replay_gates(u, pieces, y, n, below, high, BLOCK: "tl.constexpr"):
    """u, y (n) float32; pieces (⌈n/16⌉) int32: sixteen codes of two bits a word, the first the lowest.

    Code 0: y = below · u; code 1: y = u; code 2: y = high. n may end within a block.
    """
    raise Todo


# %% tags=["check"]
check("linear_interpreters.replay_gates")

# %% [markdown]
# The small network, recorded and replayed through the real kernels, and what they become on a GPU:

# %%
if kernels.WHERE == "nowhere":
    print("Triton does not exist on this platform: read on, and run this section on Linux.")
else:
    tiny, u = patch[..., :10, :10], torch.rand(1, 1, 10, 10, generator=g)
    B = interpret(small, tiny, piecewise=forms.packed)
    same = torch.allclose(B(u), interpret(small, tiny)(u), atol=1e-5)
    print("the kernels' interpreter is ours:", same)

# %%
if kernels.WHERE != "nowhere":
    from labkit import kernel_lab

    for case in kernels.linear_interpreters.CASES[:2]:
        report = kernel_lab.compile_report(case, "sm_90")
        print(f"{report.name:20} {report.warps} warps, {report.registers} registers, "
              f"{report.spills} bytes spilled, tensor cores: {report.tensor_core > 0}")

# %% [markdown]
# No tensor cores: nothing is multiplied with a matrix here.
#
# ## Where it breaks
#
# - **It explains one answer.** Beyond a per cent of noise the classifier is another affine map, and so a row is no
#   promise of what a change of the picture would do.
# - **$F x$ and $r$ depend on where zero is**, and $r$ is not "the biases": which of them get through was decided by
#   the picture.
# - **For smooth units it is a choice**, and for instance norms too: frozen statistics are not the derivative.
# - **Products of two things that are made from the input**, as in attention or in squeeze-and-excitation, have no such
#   interpreter; `interpret` refuses them.
# - **The small network is no better than its training.** On a picture much smoother than the ten it learned from,
#   bicubic wins, as the next line shows.
# - **Image-to-image networks**, in which the paper finds that pixels are copied and moved, and templates made, are not
#   here: we found no such network that may be had as a package, so nothing is said of it.

# %% tags=["nbval-ignore-output"]
smooth, whole = upscaling.pair("cell")
behind = upscaling.likeness(small(smooth), whole) - upscaling.likeness(upscaling.bicubic(smooth), whole)
print(f"the picture of a cell, very smooth: {behind:.1f} dB to bicubic")

# %% [markdown]
# ## What the paper claims, what we measured

# %%
paper = "Linear interpreters, arXiv 1908.05168"
claim("linear_interpreters.exact", paper=paper,
      on="small ×2, waifu2x, EfficientNet-Lite0, one picture each, float64",
      says="replay the whole system back and forth as if it was always linear (abstract)",
      measured=f"F x + r, its transpose and its linearity to 1e-9: {max(worst.values()) < 1e-9}",
      holds=max(worst.values()) < 1e-9)
main = [abs(r[A.y[0].argmax()]) > abs(Fx[A.y[0].argmax()])
        for A, Fx, r in zip(shown.values(), seen.values(), said.values(), strict=True)]
claim("linear_interpreters.relies_on_biases", paper=paper,
      on="EfficientNet-Lite0, four photographs, zero = mid-grey",
      says="popular networks heavily rely on bias parameters (abstract)", holds=sum(main) > 2,
      measured=f"r is larger than F x for the class named in {sum(main)} of {len(main)}",
      why="For the camera it is not so, and with another zero the parts are others.")

# %%
claim("linear_interpreters.gates_carry_the_class", paper=paper, on="12 pairs of photographs",
      says="non-linear units allow the network to adapt to the input (abstract)",
      measured=f"one picture's gates, another's pixels: the gates' class is ahead in {by_gates}",
      holds=by_gates >= 9)
claim("linear_interpreters.filters_adapt", paper=paper, on="small ×2, eight patches of 24 × 24",
      says="the resulting linear system depends on the input image (abstract)",
      measured=f"own {dB.own.mean():.1f} dB, bicubic {dB.fixed.mean():.1f}, "
               f"another's {dB.another.mean():.1f}",
      holds=bool(dB.own.mean() > dB.fixed.mean() > dB.another.mean()))

# %%
control = max(score["bicubic"], score["waifu2x, not trained"])
for name in ("waifu2x", "small ×2"):
    found = score[name] > control + 0.1
    claim(f"linear_interpreters.wavelets_{name.split()[0]}", paper=paper,
          on=f"{name}, 6 vectors of each of 3 patches", holds=found,
          says="for super-resolution, CNNs use a wavelet-type basis (abstract)",
          measured=f"one wavelet holds {score[name]:.2f} of a vector; "
                   f"of bicubic's {score['bicubic']:.2f}, "
                   f"of an untrained waifu2x's {score['waifu2x, not trained']:.2f}",
          why="" if found else "Its vectors are oriented waves, but all over the patch.")

# %% [markdown]
# ## Recap
#
# - Record what each non-linear unit decides, *call by call*; replay it on anything: $A(u) = F u + r$, exact at $x$.
# - A row is what an output looks at, a column what an input paints, $r$ what is said without looking.
# - A classifier's verdict is mostly not in the weighted pixels, but in what the gates let through.
# - A super-resolution network makes a filter for every place; a trained one of some depth picks up oriented waves,
#   each in one place.
# - It holds at $x$, and hardly beyond.

# %%
progress("linear_interpreters")
