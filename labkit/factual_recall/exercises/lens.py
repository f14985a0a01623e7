"""The exercise on the logit lens: the model's own end applied early."""

import torch
import torch.nn.functional as F

from labkit.course import Exercise, Mistake


def logit_lens(x, gain, W_U, eps):
    rms = (x.square().mean(-1, keepdim=True) + eps).sqrt()
    return (x / rms * gain) @ W_U.T


def logit_lens_by_torch(x, gain, W_U, eps):
    return F.linear(F.rms_norm(x, gain.shape, gain, eps), W_U)


def logit_lens_scaled_last(x, gain, W_U, eps):
    return torch.einsum("nd,d,vd->nv", x, gain, W_U) * (x.pow(2).mean(1) + eps).rsqrt()[:, None]


def lens_divided_by(root, x, gain, W_U):
    return (x / root * gain) @ W_U.T


def logit_lens_without_norm(x, gain, W_U, eps):
    return (x * gain) @ W_U.T


def logit_lens_by_layer_norm(x, gain, W_U, eps):
    return F.layer_norm(x, gain.shape, gain, None, eps) @ W_U.T


def logit_lens_centred(x, gain, W_U, eps):
    root = (x.square().mean(-1, keepdim=True) + eps).sqrt()
    return lens_divided_by(root, x - x.mean(-1, keepdim=True), gain, W_U)


def logit_lens_without_gain(x, gain, W_U, eps):
    return logit_lens(x, torch.ones_like(gain), W_U, eps)


def logit_lens_gain_first(x, gain, W_U, eps):
    return logit_lens(x * gain, torch.ones_like(gain), W_U, eps)


def logit_lens_gain_more_than_one(x, gain, W_U, eps):
    return logit_lens(x, 1 + gain, W_U, eps)


def logit_lens_over_prompts(x, gain, W_U, eps):
    return lens_divided_by((x.square().mean(0, keepdim=True) + eps).sqrt(), x, gain, W_U)


def logit_lens_over_everything(x, gain, W_U, eps):
    return lens_divided_by((x.square().mean() + eps).sqrt(), x, gain, W_U)


def logit_lens_eps_outside(x, gain, W_U, eps):
    return lens_divided_by(x.square().mean(-1, keepdim=True).sqrt() + eps, x, gain, W_U)


def logit_lens_without_eps(x, gain, W_U, eps):
    return logit_lens(x, gain, W_U, 0)


def logit_lens_of_unit_length(x, gain, W_U, eps):
    return lens_divided_by((x.square().sum(-1, keepdim=True) + eps).sqrt(), x, gain, W_U)


def logit_lens_without_root(x, gain, W_U, eps):
    return lens_divided_by(x.square().mean(-1, keepdim=True) + eps, x, gain, W_U)


def logit_lens_normed_twice(x, gain, W_U, eps):
    return logit_lens(F.rms_norm(x, gain.shape, gain, eps), gain, W_U, eps)


def logit_lens_normed_after(x, gain, W_U, eps):
    logits = (x * gain) @ W_U.T
    return logits / (logits.square().mean(-1, keepdim=True) + eps).sqrt()


def logit_lens_in_logs(x, gain, W_U, eps):
    return logit_lens(x, gain, W_U, eps).log_softmax(-1)


def logit_lens_as_probabilities(x, gain, W_U, eps):
    return logit_lens(x, gain, W_U, eps).softmax(-1)


def logit_lens_transposed(x, gain, W_U, eps):
    return logit_lens(x, gain, W_U.T, eps)


def logit_lens_probes(seed):
    g = torch.Generator().manual_seed(seed)
    drawn = []
    for n, d, vocab, eps, dtype in [
        (2, 4, 6, 0.1, torch.float64), (3, 5, 8, 0.2, torch.float32), (4, 7, 7, 0.05, torch.float64)
    ]:  # fmt: skip
        x = 0.4 + torch.randn(n, d, generator=g, dtype=dtype)
        gain = 0.5 + 2 * torch.rand(d, generator=g, dtype=dtype)
        drawn.append((x, gain, torch.randn(vocab, d, generator=g, dtype=dtype), eps))
    return drawn


LOGIT_LENS = Exercise(
    id="factual_recall.logit_lens",
    reference=logit_lens,
    alternatives=[logit_lens_by_torch, logit_lens_scaled_last],
    probes=logit_lens_probes,
    mistakes=[
        Mistake(
            "the lens without the final norm",
            logit_lens_without_norm,
            "the model's own end begins with a norm: what does it divide each residual by?",
        ),
        Mistake(
            "the lens through a LayerNorm",
            logit_lens_by_layer_norm,
            "this model has an RMSNorm, which leaves the mean of a residual where it is",
        ),
        Mistake("the residual with its mean removed", logit_lens_centred, "an RMSNorm divides, and takes nothing away"),
        Mistake(
            "the lens without the gain",
            logit_lens_without_gain,
            "after the division each coordinate is multiplied by its own gain",
        ),
        Mistake(
            "the gain inside the norm",
            logit_lens_gain_first,
            "the rms is that of the residual itself; the gain comes after the division",
        ),
        Mistake("the gain taken for what it adds to one", logit_lens_gain_more_than_one, "here the gain is the factor"),
        Mistake(
            "the norm over the wrong axis",
            logit_lens_over_prompts,
            "each residual has an rms of its own, over its d coordinates",
        ),
        Mistake(
            "the one norm for all residuals",
            logit_lens_over_everything,
            "each residual has an rms of its own, over its d coordinates",
        ),
        Mistake("eps outside the root", logit_lens_eps_outside, "eps is added to the mean of the squares"),
        Mistake("the norm without eps", logit_lens_without_eps, "where in the rms does eps belong?"),
        Mistake(
            "the residual made of length one",
            logit_lens_of_unit_length,
            "rms is the root of the mean square; with the sum all logits shrink alike, which is another temperature",
        ),
        Mistake(
            "the division by the mean square",
            logit_lens_without_root,
            "twice the residual must give the same logits, but for eps; does it?",
        ),
        Mistake("the norm applied twice", logit_lens_normed_twice, "the model has one final norm"),
        Mistake(
            "the logits normalised", logit_lens_normed_after, "the norm is of the residual, before the unembedding"
        ),
        Mistake("the logarithms of probabilities", logit_lens_in_logs, "asked for are the logits themselves"),
        Mistake("the probabilities", logit_lens_as_probabilities, "asked for are the logits themselves"),
        Mistake(
            "the unembedding lying on its side",
            logit_lens_transposed,
            "W_U is (vocab d) and x is (n d): which axis do they share?",
        ),
    ],
    hints=[
        "What does the model do with its last residual before it names a token? Do the same with this one.",
        "logits = W_U (g ⊙ x / rms(x)),  rms(x) = √(mean_i x_i² + eps)",
        "mean of the squares over d with keepdim=True, plus eps, root; x divided by it, times gain; times W_U transposed",
    ],
    minutes=7,
    difficulty=2,
    lines=2,
)
