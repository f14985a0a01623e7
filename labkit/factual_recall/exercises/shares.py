"""The exercise on the shares of a logit: what each part of a residual gives to it."""

import torch
import torch.nn.functional as F

from labkit.course import Exercise, Mistake


def attribute(parts, x, gain, w, eps):
    rms = (x.square().mean() + eps).sqrt()
    return parts @ (gain * w) / rms


def attribute_part_by_part(parts, x, gain, w, eps):
    scale = (parts.sum(0).pow(2).mean() + eps).rsqrt()
    return torch.stack([(part * scale * gain * w).sum() for part in parts])


def attribute_by_einsum(parts, x, gain, w, eps):
    frozen = gain / (x @ x / len(x) + eps) ** 0.5
    return torch.einsum("nd,d,d->n", parts, frozen, w)


def logit_of(x, gain, w, eps):
    """(n d) -> (n), each with its own norm."""
    return F.rms_norm(x, gain.shape, gain, eps) @ w


def attribute_own_norm(parts, x, gain, w, eps):
    return logit_of(parts, gain, w, eps)


def attribute_without_gain(parts, x, gain, w, eps):
    return attribute(parts, x, torch.ones_like(gain), w, eps)


def attribute_without_norm(parts, x, gain, w, eps):
    return parts @ (gain * w)


def attribute_without_both(parts, x, gain, w, eps):
    return parts @ w


def attribute_of_centred_parts(parts, x, gain, w, eps):
    return attribute(parts - parts.mean(1, keepdim=True), x, gain, w, eps)


def attribute_by_layer_norm(parts, x, gain, w, eps):
    return attribute(parts - parts.mean(1, keepdim=True), x - x.mean(), gain, w, eps)


def attribute_as_distribution(parts, x, gain, w, eps):
    return attribute(parts, x, gain, w, eps).softmax(0)


def attribute_of_sizes(parts, x, gain, w, eps):
    return attribute(parts, x, gain, w, eps).abs()


def attribute_as_fractions(parts, x, gain, w, eps):
    shares = attribute(parts, x, gain, w, eps)
    return shares / shares.sum()


def attribute_in_percent(parts, x, gain, w, eps):
    return 100 * attribute_as_fractions(parts, x, gain, w, eps)


def attribute_without_root(parts, x, gain, w, eps):
    return parts @ (gain * w) / (x.square().mean() + eps)


def attribute_by_length(parts, x, gain, w, eps):
    return parts @ (gain * w) / (x.square().sum() + eps).sqrt()


def attribute_gain_in_norm(parts, x, gain, w, eps):
    return attribute(parts * gain, x * gain, torch.ones_like(gain), w, eps)


def attribute_without_eps(parts, x, gain, w, eps):
    return attribute(parts, x, gain, w, 0)


def attribute_with_moving_norm(parts, x, gain, w, eps):
    return parts @ torch.autograd.functional.jacobian(lambda x: logit_of(x, gain, w, eps), x)


def attribute_by_leaving_out(parts, x, gain, w, eps):
    return logit_of(x[None], gain, w, eps) - logit_of(x - parts, gain, w, eps)


def attribute_step_by_step(parts, x, gain, w, eps):
    so_far = logit_of(parts.cumsum(0), gain, w, eps)
    return so_far - F.pad(so_far[:-1], (1, 0))


def attribute_without_embedding(parts, x, gain, w, eps):
    return attribute(parts[1:], x, gain, w, eps)


def attribute_in_all(parts, x, gain, w, eps):
    return attribute(parts, x, gain, w, eps).sum()


def attribute_by_angle(parts, x, gain, w, eps):
    return F.cosine_similarity(parts, (gain * w)[None])


def attribute_probes(seed):
    g = torch.Generator().manual_seed(seed)
    drawn = []
    for n, d, eps, dtype in [(3, 4, 0.1, torch.float64), (5, 7, 0.3, torch.float32), (4, 9, 0.2, torch.float64)]:
        parts = 0.2 + torch.randn(n, d, generator=g, dtype=dtype)
        gain = 0.5 + 2 * torch.rand(d, generator=g, dtype=dtype)
        drawn.append((parts, parts.sum(0), gain, torch.randn(d, generator=g, dtype=dtype), eps))
    return drawn


ATTRIBUTE = Exercise(
    id="factual_recall.attribute",
    reference=attribute,
    alternatives=[attribute_part_by_part, attribute_by_einsum],
    probes=attribute_probes,
    mistakes=[
        Mistake(
            "each part divided by its own rms",
            attribute_own_norm,
            "the model divides the whole residual once; do your shares sum to the logit?",
        ),
        Mistake("the shares without the gain", attribute_without_gain, "the final norm multiplies by its gain as well"),
        Mistake(
            "the shares without the final norm",
            attribute_without_norm,
            "the model divides its residual by the rms before the unembedding; do your shares sum to the logit?",
        ),
        Mistake(
            "the parts held straight against the unembedding",
            attribute_without_both,
            "between the residual and the unembedding stands the final norm, with a division and a gain",
        ),
        Mistake(
            "the parts with their means removed",
            attribute_of_centred_parts,
            "an RMSNorm leaves the mean where it is; what is centred here is w, over the vocabulary",
        ),
        Mistake(
            "the shares under a LayerNorm",
            attribute_by_layer_norm,
            "an RMSNorm leaves the mean where it is, in the parts and in the rms",
        ),
        Mistake(
            "the shares made a distribution",
            attribute_as_distribution,
            "shares are logits: together they make the logit, and some may be negative",
        ),
        Mistake("the size of each share", attribute_of_sizes, "a part can speak against the answer; keep its sign"),
        Mistake(
            "the fraction of each share",
            attribute_as_fractions,
            "the whole may be near zero or change its sign, and then a fraction of it says nothing; asked for are logits",
        ),
        Mistake(
            "the shares in percent",
            attribute_in_percent,
            "parts that speak for and against can each be more than the whole; asked for are logits",
        ),
        Mistake("the division by the mean square", attribute_without_root, "the norm divides by the root of it"),
        Mistake(
            "the division by the length of x",
            attribute_by_length,
            "rms is the root of the mean square, and not of the sum",
        ),
        Mistake(
            "the gain inside the norm",
            attribute_gain_in_norm,
            "the rms is that of the residual itself; the gain comes after the division",
        ),
        Mistake("the norm without eps", attribute_without_eps, "where in the rms does eps belong?"),
        Mistake(
            "the norm that moves with each part",
            attribute_with_moving_norm,
            "this is the derivative of the logit; freeze the rms at that of x, and the logit is linear in the parts",
        ),
        Mistake(
            "each part taken away",
            attribute_by_leaving_out,
            "without the part x has another rms; freeze it at that of the whole, and the shares add up",
        ),
        Mistake(
            "the gain of the lens at each part",
            attribute_step_by_step,
            "a lens on a sum that is not complete divides by the rms of that sum; freeze it at that of the whole",
        ),
        Mistake(
            "the shares without the embedding's",
            attribute_without_embedding,
            "the embedding is a part like the others, and where W_U is tied to it, it can name the answer by itself",
        ),
        Mistake("the whole in place of its shares", attribute_in_all, "asked for is one number for each part"),
        Mistake(
            "the angle between part and direction",
            attribute_by_angle,
            "a long part gives more than a short one; asked for are logits",
        ),
    ],
    hints=[
        "The logit is w · (g ⊙ x / rms(x)). If rms(x) is held fixed, how does it depend on x, and x is a sum of what?",
        "share_i = parts_i · (g ⊙ w) / rms(x),  rms(x) = √(mean x² + eps), the same for all parts",
        "rms of x, one number; parts times (gain times w), which is (n); divided by rms",
    ],
    minutes=8,
    difficulty=3,
    lines=2,
)
