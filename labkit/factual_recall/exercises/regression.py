"""The exercise on what an MLP makes of its heads: one number a head and one vector, by least squares."""

import torch
from einops import einsum, rearrange, reduce

from labkit.course import Exercise, Mistake


def fit_mlp(m, a):
    A = rearrange(a - a.mean(0), "n h d -> (n d) h")
    y = rearrange(m - m.mean(0), "n d -> (n d) 1")
    c = torch.linalg.lstsq(A, y).solution[:, 0]
    return c, m.mean(0) - einsum(c, a.mean(0), "h, h d -> d")


def fit_mlp_with_columns(m, a):
    """The intercept as d more unknowns, each with a column of its own."""
    n, h, d = a.shape
    ones = torch.eye(d).to(m).repeat(n, 1)
    A = torch.cat([a.transpose(1, 2).reshape(n * d, h), ones], 1)
    found = torch.linalg.lstsq(A, m.reshape(-1, 1)).solution[:, 0]
    return found[:h], found[h:]


def fit_mlp_by_normal_equations(m, a):
    mean_m, mean_a = m.mean(0), a.mean(0)
    products = torch.einsum("nhd,nkd->hk", a, a) - len(m) * mean_a @ mean_a.T
    c = torch.linalg.solve(products, torch.einsum("nhd,nd->h", a, m) - len(m) * mean_a @ mean_m)
    return c, mean_m - c @ mean_a


def solved(a, m):
    """Least squares of m (n d) by a (n h d), without an intercept: (h)"""
    A, y = rearrange(a, "n h d -> (n d) h"), rearrange(m, "n d -> (n d) 1")
    return torch.linalg.lstsq(A, y).solution[:, 0]


def with_intercept(c, m, a):
    return c, m.mean(0) - c @ a.mean(0)


def fit_mlp_without_intercept(m, a):
    return solved(a, m), torch.zeros_like(m[0])


def fit_mlp_intercept_afterwards(m, a):
    return with_intercept(solved(a, m), m, a)


def fit_mlp_scalar_intercept(m, a):
    c = solved(a - reduce(a, "n h d -> h 1", "mean"), m - m.mean())
    return c, (m.mean() - c @ a.mean((0, 2))).expand_as(m[0]).clone()


def fit_mlp_scalar_for_the_fit(m, a):
    return with_intercept(solved(a - reduce(a, "n h d -> h 1", "mean"), m - m.mean()), m, a)


def fit_mlp_for_each_dimension(m, a):
    A, y = rearrange(a - a.mean(0), "n h d -> d n h"), rearrange(m - m.mean(0), "n d -> d n 1")
    c = torch.linalg.lstsq(A, y).solution[..., 0].T
    return c, m.mean(0) - (c * a.mean(0)).sum(0)


def fit_mlp_mean_as_intercept(m, a):
    return fit_mlp(m, a)[0], m.mean(0)


def fit_mlp_on_the_sum(m, a):
    c = solved((a - a.mean(0)).sum(1, keepdim=True), m - m.mean(0))
    return with_intercept(c.expand(a.shape[1]).clone(), m, a)


def fit_mlp_out_of_order(m, a):
    c = solved(a - a.mean(0), rearrange(rearrange(m - m.mean(0), "n d -> (d n)"), "(n d) -> n d", n=len(m)))
    return with_intercept(c, m, a)


def fit_mlp_of_one_head_at_a_time(m, a):
    each = (a - a.mean(0)).unbind(1)
    c = torch.stack([solved(one[:, None], m - m.mean(0))[0] for one in each])
    return with_intercept(c, m, a)


def fit_mlp_prompt_by_prompt(m, a):
    pairs = zip(a - a.mean(0), m - m.mean(0), strict=True)
    c = torch.stack([solved(a_i[None], m_i[None]) for a_i, m_i in pairs]).mean(0)
    return with_intercept(c, m, a)


def fit_mlp_centred_by_coordinates(m, a):
    return with_intercept(solved(a - a.mean(-1, keepdim=True), m - m.mean(-1, keepdim=True)), m, a)


def fit_mlp_heads_uncentred(m, a):
    return with_intercept(solved(a, m - m.mean(0)), m, a)


def fit_mlp_wrong_sign(m, a):
    c, _ = fit_mlp(m, a)
    return c, m.mean(0) + c @ a.mean(0)


def fit_mlp_intercept_first(m, a):
    return fit_mlp(m, a)[::-1]


def fit_mlp_remainders(m, a):
    c, _ = fit_mlp(m, a)
    return c, m - einsum(c, a, "h, n h d -> n d")


def fit_mlp_backwards(m, a):
    y, A = rearrange(m - m.mean(0), "n d -> (n d)"), rearrange(a - a.mean(0), "n h d -> (n d) h")
    return with_intercept(y @ A / (y @ y), m, a)


def fit_mlp_standardised(m, a):
    c = solved((a - a.mean(0)) / a.std(0), (m - m.mean(0)) / m.std(0))
    return with_intercept(c, m, a)


def fit_mlp_probes(seed):
    g = torch.Generator().manual_seed(seed)
    drawn = []
    for n, h, d, dtype in [(6, 2, 4, torch.float64), (7, 3, 5, torch.float32), (9, 4, 6, torch.float64)]:
        a = torch.randn(n, h, d, generator=g, dtype=dtype) + torch.randn(h, d, generator=g, dtype=dtype)
        a += 0.5 * a.sum(1, keepdim=True)  # heads have something in common
        c, b, error = (torch.randn(size, generator=g, dtype=dtype) for size in [(h,), (d,), (n, d)])
        drawn.append((einsum(c, a, "h, n h d -> n d") + 2 + b + 0.5 * error, a))
    return drawn


FIT_MLP = Exercise(
    id="factual_recall.fit_mlp",
    reference=fit_mlp,
    alternatives=[fit_mlp_with_columns, fit_mlp_by_normal_equations],
    probes=fit_mlp_probes,
    mistakes=[
        Mistake(
            "the fit without an intercept",
            fit_mlp_without_intercept,
            "an MLP also says something that no head of this block brought: the vector b",
        ),
        Mistake(
            "the intercept fitted after the coefficients",
            fit_mlp_intercept_afterwards,
            "without b beside them the coefficients try to explain the mean as well; what must be removed from m and a first?",
        ),
        Mistake(
            "the intercept that is one number",
            fit_mlp_scalar_intercept,
            "b is a vector (d): each coordinate has a mean of its own, over the prompts",
        ),
        Mistake(
            "the coefficients beside an intercept of one number",
            fit_mlp_scalar_for_the_fit,
            "each coordinate has a mean of its own, over the prompts, and it is removed before the fit",
        ),
        Mistake(
            "one coefficient for each head and coordinate",
            fit_mlp_for_each_dimension,
            "c_h is one number for the whole vector: that is what makes it say amplified or erased",
        ),
        Mistake(
            "the mean output as the intercept",
            fit_mlp_mean_as_intercept,
            "the heads have a mean too, and c_h of it is in the mean output already",
        ),
        Mistake(
            "the fit to the sum of the heads",
            fit_mlp_on_the_sum,
            "each head has its own coefficient; yours are all alike",
        ),
        Mistake(
            "the fit of coordinates out of order",
            fit_mlp_out_of_order,
            "a row of the system is one prompt and one coordinate; are m and a flattened in the same order?",
        ),
        Mistake(
            "the fit of one head at a time",
            fit_mlp_of_one_head_at_a_time,
            "heads say similar things, and a fit of one alone gives it what belongs to others: all at once",
        ),
        Mistake(
            "the mean of one fit for each prompt",
            fit_mlp_prompt_by_prompt,
            "there is one fit, over all prompts and coordinates; a mean of fits is another thing",
        ),
        Mistake(
            "the centring over the coordinates",
            fit_mlp_centred_by_coordinates,
            "b is the same for all prompts, so the mean that goes is that over the prompts",
        ),
        Mistake(
            "the fit to the deviations of m by heads with their means",
            fit_mlp_heads_uncentred,
            "if the mean leaves m, what has to leave a?",
        ),
        Mistake(
            "the intercept with the wrong sign",
            fit_mlp_wrong_sign,
            "mean m = Σ c_h mean a_h + b; what is b?",
        ),
        Mistake("the intercept before the coefficients", fit_mlp_intercept_first, "asked for is (c, b)"),
        Mistake(
            "the remainder of each prompt in place of the intercept",
            fit_mlp_remainders,
            "b is one vector (d), the same for all prompts",
        ),
        Mistake(
            "the heads explained by the MLP",
            fit_mlp_backwards,
            "which is to be explained, and by which: m by the heads, all at once",
        ),
        Mistake(
            "the fit in units of spread",
            fit_mlp_standardised,
            "c_h multiplies what the head wrote as it is, so nothing is divided by its spread",
        ),
    ],
    hints=[
        "Each prompt and coordinate gives one equation. What do the unknowns c_h multiply in it, and how can b be got out of the way?",
        "c = argmin Σ_{n, i} (m̃_{n i} − Σ_h c_h ã_{n h i})², m̃ = m − mean m, ã = a − mean a over n;  b = mean m − Σ_h c_h mean a_h",
        'means over axis 0 removed; rearrange a to "(n d) h" and m to "(n d) 1"; torch.linalg.lstsq(A, y).solution, a column; the intercept from the two means',
    ],
    minutes=15,
    difficulty=4,
    lines=4,
)
