"""The small network beats bicubic on pictures it never saw, trains alike each time, and is what it is measured against."""

import pytest
import torch
import torch.nn.functional as F
from torch import Generator

from labkit import vision
from labkit.linear_interpreters import interpret, upscaling


@pytest.fixture(scope="module")
def small():
    return upscaling.trained()


@pytest.fixture(scope="module")
def patches():
    """(2 1 24 24) of pictures that the network was not trained on, and what they should become (2 1 48 48)."""
    places = [("camera", 150, 110), ("coffee", 158, 79)]
    cut = [
        [z[..., m * i : m * (i + 24), m * j : m * (j + 24)] for m, z in zip((1, 2), upscaling.pair(name), strict=True)]
        for name, i, j in places
    ]
    return tuple(map(torch.cat, zip(*cut, strict=True)))


def test_the_network_beats_bicubic_on_every_picture_held_out(small):
    gains = upscaling.gains(small)
    assert len(gains) == 6 and not set(gains) & set(upscaling.LEARNED_FROM)
    assert min(gains.values()) > 0.2
    assert sum(gains.values()) / 6 > 0.5


def test_an_untrained_network_does_not():
    assert max(upscaling.gains(upscaling.untrained()).values()) < -5


def test_training_is_the_same_whatever_is_around_it():
    before, threads = torch.random.get_rng_state(), torch.get_num_threads()
    first = upscaling.train(20)
    torch.set_num_threads(2)
    torch.rand(3)
    second, other = upscaling.train(20), upscaling.train(20, seed=1)
    torch.set_num_threads(threads)
    torch.random.set_rng_state(before)
    assert all(torch.equal(p, q) for p, q in zip(first.parameters(), second.parameters(), strict=True))
    assert not any(torch.equal(p, q) for p, q in zip(first.parameters(), other.parameters(), strict=True))


def test_the_network_is_for_reading_only(small):
    assert not small.training and not any(p.requires_grad for p in small.parameters())
    assert 11_000 < sum(p.numel() for p in small.parameters()) < 13_000
    assert upscaling.trained() is small


def test_pictures_of_any_size_are_doubled(small):
    assert small(torch.rand(2, 1, 7, 10)).shape == (2, 1, 14, 20)


def test_a_piece_lies_over_what_it_should_become():
    """Where the small one is a ramp, the middle of it, doubled, is the large one."""
    y, x = torch.meshgrid(*[torch.arange(60, dtype=torch.float64)] * 2, indexing="ij")
    low = (x + 100 * y)[None, None]
    high = F.interpolate(low, scale_factor=2, mode="bilinear")
    small, large = upscaling.piece([(low, high)], Generator().manual_seed(0))
    inside = small[..., upscaling.REACH : -upscaling.REACH, upscaling.REACH : -upscaling.REACH]
    assert small.shape[-1] == upscaling.CROP + 2 * upscaling.REACH and large.shape[-1] == 2 * upscaling.CROP
    torch.testing.assert_close(F.avg_pool2d(large, 2), inside)


def test_training_sees_what_the_network_does_inside(small, patches):
    x = patches[0]
    whole, inner = small(x), small.layers(x)
    edge = 2 * upscaling.REACH
    torch.testing.assert_close(whole[..., edge:-edge, edge:-edge], inner)


def test_a_patch_within_its_picture_has_no_border(small):
    low, _ = upscaling.pair("camera")
    picture = low[..., 100:140, 100:140]
    whole, u = small(picture), picture[..., 8:32, 8:32]
    middle = upscaling.within(small, picture, 8)
    torch.testing.assert_close(middle(u), whole[..., 16:64, 16:64])
    interpret(middle, u).verify()
    assert picture[..., 8:32, 8:32].std() > 0  # the picture is left alone


def test_bicubic_is_one_matrix_for_every_picture(patches):
    x = patches[0][..., :8, :8]
    both = interpret(upscaling.bicubic, x).matrix()
    assert torch.equal(both[0], both[1])
    torch.testing.assert_close(both[0].sum(1), torch.ones(256))
    assert not interpret(upscaling.bicubic, x).residual.any()


def test_likeness_is_that_of_the_room_of_vision(patches):
    x, wanted = patches
    as_colours = [z.expand(-1, 3, -1, -1) for z in (F.interpolate(x, scale_factor=2), wanted)]
    assert upscaling.likeness(F.interpolate(x, scale_factor=2), wanted) == vision.psnr(*as_colours)


def test_a_network_of_colours_in_grey_is_its_brightness():
    x = torch.rand(2, 1, 9, 8)
    net = vision.upscaler()
    torch.testing.assert_close(upscaling.in_grey(net)(x)[:, 0], vision.luma(net(x.repeat(1, 3, 1, 1))))
    interpret(upscaling.in_grey(net), x).verify()
