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
# # Start here
#
# **This is a lab for the mechanisms inside language models and their kin: you watch one happen in a real model, turn its
# knobs, read it as ten lines of tensor code and again as a GPU kernel, check what the paper claims, and write it
# yourself.** No GPU is needed, and nothing is fetched while a lesson runs.
#
# About 10 minutes · You need: Python, and an idea of what a tensor is.
#
# Click into a cell and press **Shift+Enter** to run it, or run all of them from the *Run* menu.

# %%
import torch

import labkit
from labkit import start_here
from labkit.course import Todo, check, exercise, hint, predict, progress, reveal, solve  # noqa: F401

lm = labkit.lm.load()
weights = sum(W.numel() for W in lm.weights()) / 1e6
print(f"SmolLM2: {lm.config.n_layers} blocks, {weights:.0f} million parameters")

# %% [markdown]
# ## Predict
#
# Lessons begin with a question to which you commit a number, before you see it measured. The model reads "The capital of
# France is" through 30 blocks, one after another. **After how many of them does it first put "Paris" above every other
# token?** Put your number in place of `None`.

# %%
predict("start_here.paris", "blocks until Paris comes first", None)

# %% [markdown]
# ## Watch it happen
#
# A language model adds to one running vector for each token, block after block. We need not wait for the last block: ask
# what the model would say if it stopped here. Move the slider (with the mouse, or Tab and the arrow keys), then type a
# prompt of your own and press Enter.

# %%
start_here.explore(lm)

# %% [markdown]
# Grey bars are other candidates, the blue one is the final answer. For most of the way Paris is one candidate among
# thousands; on the right, on a logarithmic scale, its probability climbs in the last blocks. (This reading is called the
# *logit lens*. That it cannot read an answer early does not prove that the model has none yet.)

# %%
p = start_here.lens(lm, "The capital of France is")  # (blocks + 1, vocabulary)
paris = lm.encode(" Paris")[0]
first = int((p.argmax(-1) == paris).int().argmax())
reveal("start_here.paris", first)
print(f"after {first} of {lm.config.n_layers} blocks; at the end it has probability {p[-1, paris]:.2f}")

# %% [markdown]
# ## How exercises work
#
# An exercise is a cell with a function that ends in `raise Todo`. Replace that line, run the cell, run the check below.
# Until you do, the reference answers in your place, so you can skip any exercise and the lesson still runs. A wrong
# answer is told what is wrong by name; `hint("…")` gives three hints, one after another; `solve("…")` shows a solution.
#
# ### Your first exercise, in one line
#
# `lm(ids[None])[0]` is a matrix of logits (t, vocabulary): row *i* rates every candidate for place *i + 1*. Which token
# comes next?


# %% tags=["exercise"]
@exercise("start_here.next_token")  # difficulty 1/5 · 2 min · about 1 line
def next_token(logits):
    """logits (t vocab) -> the id of the likeliest next token, an int."""
    raise Todo


# %% tags=["check"]
check("start_here.next_token")

# %% [markdown]
# With your function, a few steps of greedy decoding:

# %%
ids = lm.encode("The three primary colours are")
for _ in range(12):
    ids = torch.cat([ids, torch.tensor([next_token(lm(ids[None])[0])])])
print(lm.decode(ids))

# %% [markdown]
# ## The map
#
# Times include the exercises. Your copies of the lessons are in `work/`, and nothing overwrites them. Figures and sliders
# need a running kernel: after a restart, run their cell again.

# %% tags=["nbval-ignore-output"]
start_here.course_map()

# %% tags=["nbval-ignore-output"]
progress()

# %% [markdown]
# ## What was checked
#
# Every lesson ends with what its paper claims and what was measured on a model that runs here. Some claims do not show
# at this size; they stay in the table, with the reason.

# %% tags=["nbval-ignore-output"]
start_here.claims_table()
