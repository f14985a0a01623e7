"""The exercise on R²: how much better a fit is than saying the mean."""

import torch
import torch.nn.functional as F

from labkit.course import Exercise, Mistake


def r2(y, fit):
    error = (y - fit).square().sum()
    return 1 - error / (y - y.mean(0)).square().sum()


def r2_by_variances(y, fit):
    return 1 - F.mse_loss(fit, y) / y.var(0, unbiased=False).mean()


def r2_as_a_difference(y, fit):
    around_mean = torch.linalg.norm(y - y.mean(0, keepdim=True)) ** 2
    return (around_mean - torch.linalg.norm(fit - y) ** 2) / around_mean


def squares(x):
    return x.square().sum()


def r2_uncentred(y, fit):
    return 1 - squares(y - fit) / squares(y)


def r2_around_one_mean(y, fit):
    return 1 - squares(y - fit) / squares(y - y.mean())


def r2_around_each_samples_mean(y, fit):
    return 1 - squares(y - fit) / squares(y - y.mean(1, keepdim=True))


def correlation(y, fit):
    return (y * fit).sum() / (squares(y) * squares(fit)).sqrt()


def r2_as_correlation(y, fit):
    return correlation(y - y.mean(), fit - fit.mean()) ** 2


def r2_as_centred_correlation(y, fit):
    return correlation(y - y.mean(0), fit - fit.mean(0)) ** 2


def r2_mean_of_coordinates(y, fit):
    return (1 - (y - fit).square().sum(0) / (y - y.mean(0)).square().sum(0)).mean()


def r2_each_coordinate(y, fit):
    return 1 - (y - fit).square().sum(0) / (y - y.mean(0)).square().sum(0)


def r2_of_roots(y, fit):
    return 1 - (squares(y - fit) / squares(y - y.mean(0))).sqrt()


def r2_swapped(y, fit):
    return r2(fit, y)


def r2_what_is_left(y, fit):
    return squares(y - fit) / squares(y - y.mean(0))


def r2_spread_of_the_fit(y, fit):
    return squares(fit - fit.mean(0)) / squares(y - y.mean(0))


def r2_fit_around_the_mean(y, fit):
    return squares(fit - y.mean(0)) / squares(y - y.mean(0))


def r2_of_centred_errors(y, fit):
    error = y - fit
    return 1 - squares(error - error.mean(0)) / squares(y - y.mean(0))


def r2_with_another_divisor(y, fit):
    return 1 - F.mse_loss(fit, y) / y.var(0).mean()


def r2_of_sizes(y, fit):
    return 1 - (y - fit).abs().sum() / (y - y.mean(0)).abs().sum()


def r2_never_negative(y, fit):
    return r2(y, fit).clamp(min=0)


def r2_in_percent(y, fit):
    return 100 * r2(y, fit)


def r2_probes(seed):
    g = torch.Generator().manual_seed(seed)
    drawn = []
    for n, d, noise, dtype in [
        (4, 3, 0.4, torch.float64), (6, 5, 0.5, torch.float32), (5, 7, 0.5, torch.float64), (7, 4, 3.0, torch.float64)
    ]:  # fmt: skip
        mean, spread = 2 * torch.randn(d, generator=g, dtype=dtype), 0.5 + torch.rand(d, generator=g, dtype=dtype)
        y = mean + spread * torch.randn(n, d, generator=g, dtype=dtype)
        fit = 0.2 + y + noise * torch.randn(n, d, generator=g, dtype=dtype)
        drawn.append((y, fit))
    return drawn


R2 = Exercise(
    id="factual_recall.r2",
    reference=r2,
    alternatives=[r2_by_variances, r2_as_a_difference],
    probes=r2_probes,
    mistakes=[
        Mistake(
            "the R² that a constant already earns",
            r2_uncentred,
            "always saying the mean must give 0; yours gives more, the further the mean is from zero",
        ),
        Mistake(
            "the R² around one mean for all coordinates",
            r2_around_one_mean,
            "a fit that says the mean vector explains nothing, so the mean is that over the samples, for each coordinate",
        ),
        Mistake(
            "the R² around the mean of each sample",
            r2_around_each_samples_mean,
            "the mean is that over the samples, for each coordinate",
        ),
        Mistake(
            "the square of the correlation",
            r2_as_correlation,
            "twice the fit has the same correlation but another error; which of them is asked for?",
        ),
        Mistake(
            "the square of the correlation of the deviations",
            r2_as_centred_correlation,
            "twice the fit has the same correlation but another error; which of them is asked for?",
        ),
        Mistake(
            "the mean of one R² for each coordinate",
            r2_mean_of_coordinates,
            "sum over all entries first, then divide: a coordinate that hardly varies should hardly count",
        ),
        Mistake("the R² of each coordinate", r2_each_coordinate, "asked for is one number, over all entries"),
        Mistake("the ratio of roots", r2_of_roots, "R² compares squared errors, as its name says"),
        Mistake(
            "the fit explained by what it should explain",
            r2_swapped,
            "around whose mean is the denominator: that of y or that of the fit?",
        ),
        Mistake("the share that is left", r2_what_is_left, "a perfect fit must give 1"),
        Mistake(
            "the spread of the fit",
            r2_spread_of_the_fit,
            "a fit can vary as much as y and be wrong everywhere; where is its error?",
        ),
        Mistake(
            "the spread of the fit around the mean of y",
            r2_fit_around_the_mean,
            "a fit can vary as much as y and be wrong everywhere; where is its error?",
        ),
        Mistake(
            "the R² that forgives a constant error",
            r2_of_centred_errors,
            "a fit that is off by the same vector everywhere is off; the errors are not centred",
        ),
        Mistake(
            "the two sums divided by unlike numbers",
            r2_with_another_divisor,
            "var divides by n − 1 and a mean by n; always saying the mean must give 0",
        ),
        Mistake("the error without squares", r2_of_sizes, "R² compares squared errors, as its name says"),
        Mistake(
            "the R² that is never negative",
            r2_never_negative,
            "a fit that is worse than the mean has a negative R², and that is worth knowing",
        ),
        Mistake("the R² in percent", r2_in_percent, "a perfect fit must give 1"),
    ],
    hints=[
        "How large is the squared error of the fit beside that of somebody who says the mean every time?",
        "R² = 1 − Σ (y − fit)² / Σ (y − ȳ)²,  ȳ = mean of y over the samples, a vector (d)",
        "sum of the squares of y − fit; sum of the squares of y less its mean over axis 0; one less their ratio",
    ],
    minutes=4,
    difficulty=2,
    lines=2,
)
