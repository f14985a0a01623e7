"""The exercise on reading a classifier: what each part of an image adds to a logit."""

import torch
import torch.nn.functional as F
from einops import rearrange, reduce

from labkit.course import Exercise, Mistake


def vote_map(row, x, cell):
    return reduce(row * x, "c (h i) (w j) -> h w", "sum", i=cell, j=cell)


def vote_map_by_pooling(row, x, cell):
    return cell**2 * F.avg_pool2d((row * x).sum(0, keepdim=True), cell)[0]


def vote_map_by_slices(row, x, cell):
    votes = (row * x).sum(0)
    return sum(votes[i::cell, j::cell] for i in range(cell) for j in range(cell))


def vote_map_of_sizes(row, x, cell):
    return vote_map(row.abs(), x.abs(), cell)


def vote_map_of_sizes_after(row, x, cell):
    return vote_map(row, x, cell).abs()


def vote_map_of_means(row, x, cell):
    return reduce(row * x, "c (h i) (w j) -> h w", "mean", i=cell, j=cell)


def vote_map_of_row(row, x, cell):
    return vote_map(row, torch.ones_like(x), cell)


def vote_map_of_image(row, x, cell):
    return vote_map(torch.ones_like(row), x, cell)


def vote_map_by_channel(row, x, cell):
    return reduce(row * x, "c (h i) (w j) -> c h w", "sum", i=cell, j=cell)


def vote_map_of_loudest(row, x, cell):
    return reduce(row * x, "c (h i) (w j) -> h w", "max", i=cell, j=cell)


def vote_map_of_places(row, x, cell):
    return reduce(row * x, "c (i h) (j w) -> h w", "sum", i=cell, j=cell)


def vote_map_of_supporters(row, x, cell):
    return vote_map((row * x).relu(), torch.ones_like(x), cell)


def vote_map_of_sums(row, x, cell):
    row, x = (rearrange(t, "c (h i) (w j) -> h w (c i j)", i=cell, j=cell).sum(-1) for t in (row, x))
    return row * x


def vote_map_from_mean_grey(row, x, cell):
    return vote_map(row, x - x.mean(), cell)


def vote_map_of_pixels(row, x, cell):
    return reduce(row * x, "c h w -> h w", "sum")


def vote_map_as_shares(row, x, cell):
    votes = vote_map(row, x, cell)
    return votes / votes.sum()


def vote_map_probes(seed):
    g = torch.Generator().manual_seed(seed)
    shapes = [(3, 4, 6, 2, torch.float64), (3, 6, 3, 3, torch.float32), (1, 8, 12, 4, torch.float64)]
    drawn = []
    for c, h, w, cell, dtype in shapes:
        row, x = torch.randn(2, c, h, w, generator=g, dtype=dtype)
        drawn.append((row, 0.5 + x, cell))
    return drawn


VOTE_MAP = Exercise(
    id="linear_interpreters.vote_map",
    reference=vote_map,
    alternatives=[vote_map_by_pooling, vote_map_by_slices],
    probes=vote_map_probes,
    mistakes=[
        Mistake(
            "the map of how loud the votes are",
            vote_map_of_sizes,
            "a vote against the class is a negative one; keep it so",
        ),
        Mistake(
            "the map without the signs of its cells",
            vote_map_of_sizes_after,
            "a cell may speak against the class; all cells together must sum to F x",
        ),
        Mistake("the mean vote", vote_map_of_means, "all cells together must sum to F x; do yours?"),
        Mistake(
            "the map of the weights alone",
            vote_map_of_row,
            "a large weight on a pixel that is 0 adds nothing; what does a pixel add to the logit?",
        ),
        Mistake(
            "the image in large pixels", vote_map_of_image, "what a pixel adds to the logit is its weight times itself"
        ),
        Mistake(
            "the map for each channel", vote_map_by_channel, "asked for is one (h/cell w/cell) map: the colours add up"
        ),
        Mistake(
            "the loudest vote of each cell",
            vote_map_of_loudest,
            "every pixel has a vote, and the votes of a cell add up",
        ),
        Mistake(
            "the cells made of pixels from all over the image",
            vote_map_of_places,
            "a cell is a square of neighbours; which factor of (a b) runs fast in einops?",
        ),
        Mistake(
            "the votes in favour alone",
            vote_map_of_supporters,
            "a pixel may vote against the class, and is counted too",
        ),
        Mistake(
            "the product of sums",
            vote_map_of_sums,
            "each pixel is weighed by its own weight, before anything is added up",
        ),
        Mistake(
            "the votes of another origin",
            vote_map_from_mean_grey,
            "the logit is F x + r for x as it is; from another zero, votes move into r and the map no longer sums to F x",
        ),
        Mistake(
            "the vote of each pixel", vote_map_of_pixels, "asked for is one number for each cell of cell × cell pixels"
        ),
        Mistake(
            "the share of each cell",
            vote_map_as_shares,
            "a share of a sum of positive and negative votes says nothing: all cells must sum to F x",
        ),
    ],
    hints=[
        "The logit is Σ row · x + r, a sum over all pixels and colours. Which of its terms belong to one cell?",
        "V[a, b] = Σ_c Σ_{(i, j) in cell (a, b)} row[c, i, j] x[c, i, j]",
        'row times x; `reduce` with "c (h i) (w j) -> h w" and a sum, i and j being the size of a cell',
    ],
    minutes=6,
    difficulty=2,
    lines=1,
)
