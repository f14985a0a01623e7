"""What the model would say if it stopped after each block."""

import torch
from jaxtyping import Float
from torch import Tensor

from labkit.lm import LanguageModel


def lens(lm: LanguageModel, text: str) -> Float[Tensor, "layers vocab"]:
    """Probabilities of the token after `text`, read off the residual stream at the embedding and after every block.

    Returns (n_layers + 1, vocab); the last row is the model's own answer.
    """
    run = lm.run(lm.encode(text)[None], record=("*.residual", "final"), logits_at=slice(-1, None))
    streams = [*(run[f"{i}.residual"] for i in range(lm.config.n_layers)), run["final"]]
    logits = lm.unembed(torch.cat([x[:, -1] for x in streams])[None])[0]
    return logits.double().softmax(-1)  # double: early on, the later answer has 1e-12 and less
