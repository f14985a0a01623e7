"""What is said of a linear interpreter is measured, and each measure knows an image, or a network, whose answer we know."""

import copy
import math

import pytest
import torch
from torch import Generator, nn

from labkit.linear_interpreters import interpret, measures, upscaling

SIDES = [24, 48]
PLACES = [("camera", 150, 110), ("coffee", 158, 79), ("coins", 48, 45), ("text", 20, 100), ("motorcycle_left", 102, 64)]


def grid(side):
    steps = torch.arange(side, dtype=torch.float64) - side / 2
    return torch.meshgrid(steps, steps, indexing="ij")


def waves(side, frequency, spread=math.inf):
    """Waves (5 h w) in five directions, under a hill of the given standard deviation."""
    y, x = grid(side)
    turn = torch.tensor([0, 0.3, 0.8, 1.2, 2.5], dtype=torch.float64)[:, None, None]
    hill = torch.exp(-(x**2 + y**2) / (2 * spread**2))
    return hill * torch.cos(2 * math.pi * frequency * (x * turn.cos() + y * turn.sin()) + 0.7)


def gabor(side, frequency=0.2):
    return waves(side, frequency, spread=0.5 / frequency)


def noise(n, side, seed=0):
    return torch.randn(n, side, side, dtype=torch.float64, generator=Generator().manual_seed(seed))


def point(side):
    v = torch.zeros(1, side, side, dtype=torch.float64)
    v[0, side // 3, side // 2] = -2
    return v


def blob(side):
    y, x = grid(side)
    return torch.exp(-(x**2 + y**2) / (2 * 4**2))[None]


@pytest.fixture(scope="module")
def small():
    return upscaling.trained()


@pytest.fixture(scope="module")
def patches():
    """(5 1 24 24) of pictures that the network was not trained on, and what they should become (5 1 48 48)."""
    cut = [
        [z[..., m * i : m * (i + 24), m * j : m * (j + 24)] for m, z in zip((1, 2), upscaling.pair(name), strict=True)]
        for name, i, j in PLACES
    ]
    return tuple(map(torch.cat, zip(*cut, strict=True)))


# ------------------------------------------------------------------ images
@pytest.mark.parametrize("side", SIDES)
def test_a_wavelet_is_oriented_band_pass_and_localised(side):
    v = gabor(side)
    assert measures.oriented(v).min() > 0.85
    assert measures.band_pass(v).min() > 0.85
    assert measures.localised(v).max() < 0.06
    assert measures.wavelet(v).min() > 0.85


@pytest.mark.parametrize("side", SIDES)
def test_a_wave_is_everywhere(side):
    v = waves(side, 0.2)
    assert measures.oriented(v).min() > 0.9
    assert measures.band_pass(v).min() > 0.9
    assert (measures.localised(v) - 2 / 3).abs().max() < 0.05
    assert measures.wavelet(v).max() < 0.25


@pytest.mark.parametrize("side", SIDES)
def test_a_point_is_localised_and_nothing_else(side):
    v = point(side)
    assert abs(measures.oriented(v).item() - 0.3) < 0.01
    assert abs(measures.band_pass(v).item() - 0.7) < 0.05
    assert measures.localised(v).item() == pytest.approx(1 / side**2)
    assert 0.5 < measures.wavelet(v).item() < 0.65


@pytest.mark.parametrize("side", SIDES)
def test_white_noise_is_none_of_them(side):
    v = noise(16, side)
    assert abs(measures.oriented(v).mean() - 0.31) < 0.02
    assert abs(measures.band_pass(v).mean() - 0.67) < 0.02
    assert abs(measures.localised(v).mean() - 1 / 3) < 0.02
    assert measures.wavelet(v).mean() < 0.05


def test_a_blob_of_one_sign_is_localised_but_not_band_pass():
    assert measures.band_pass(blob(48)).item() < 0.55
    assert measures.localised(blob(48)).item() < 0.06
    assert measures.wavelet(blob(48)).item() < 0.4


def test_a_chessboard_is_two_waves():
    y, x = grid(24)
    board = torch.cos(2 * math.pi * x / 6) * torch.cos(2 * math.pi * y / 6)
    assert abs(measures.oriented(board).item() - 0.5) < 0.03


def test_the_same_at_every_pixel_is_the_least_localised():
    assert measures.localised(torch.full((2, 8, 12), -3.0)).tolist() == [1, 1]


@pytest.mark.parametrize("measure", [measures.oriented, measures.band_pass, measures.localised, measures.wavelet])
def test_images_are_measured_each_by_itself_and_whatever_their_scale(measure):
    v = torch.cat([gabor(24), noise(1, 24)]).view(2, 3, 24, 24)
    found = measure(v)
    assert found.shape == (2, 3)
    torch.testing.assert_close(measure(-7 * v), found)
    torch.testing.assert_close(measure(v[1, 2]), found[1, 2])
    torch.testing.assert_close(measure(v.mT), found, atol=0.02, rtol=0)
    assert ((found > 0) & (found <= 1)).all()


def test_no_image_holds_more_than_itself_in_a_wavelet():
    """Re g and Im g are orthogonal, so that the two shares add: a wavelet of the family gives 1 and nothing gives more."""
    like = torch.zeros(1, dtype=torch.float64)
    for g in measures.wavelets([48, 48], like):
        assert (g.real * g.imag).sum((-2, -1)).abs().max() < 1e-9 * g.real.square().sum((-2, -1)).max()
        assert g.real.sum((-2, -1)).abs().max() < 1e-9
        placed = g.roll((12, 12), (-2, -1))[..., :24, :24].real
        assert measures.wavelet(placed[:2]).min() > 0.97
        assert measures.wavelet(placed[:2]).max() < 1 + 1e-9


def test_random_phases_leave_the_spectrum_and_spread_the_image():
    v = gabor(48)
    control = measures.shuffled(v)
    torch.testing.assert_close(torch.fft.fft2(control).abs(), torch.fft.fft2(v).abs())
    assert measures.oriented(control).min() > 0.85
    assert measures.localised(control).min() > 0.2
    assert measures.wavelet(control).max() < 0.3


# ------------------------------------------------------------------ interpreters
def test_a_gate_is_flipped_where_its_slope_is_another():
    net = nn.Sequential(nn.ReLU(), nn.Flatten(), nn.Linear(4, 2), nn.LeakyReLU(0.1)).eval()
    net[2].weight.data = torch.tensor([[1.0, 1, 1, 1], [-1, -1, -1, -1]])
    net[2].bias.data.zero_()
    a = interpret(net, torch.tensor([[[1.0, 1, 1, -1]]]))
    b = interpret(net, torch.tensor([[[1.0, -1, 2, 1]]]))
    c = interpret(net, torch.tensor([[[-1.0, -1, -1, -1]]]))
    assert measures.flipped(a, a).flatten().tolist() == [0, 0]
    assert measures.flipped(a, b).flatten().tolist() == [0.5, 0]
    assert measures.flipped(a, c).flatten().tolist() == [0.75, 0.5]


def test_a_pooling_is_flipped_where_it_selects_another():
    a, b = (interpret(nn.MaxPool1d(2), torch.tensor([[x]])) for x in ([1.0, 2, 4, 3], [1.0, 2, 3, 4]))
    assert measures.flipped(a, b).item() == 0.5


def test_an_affine_network_has_no_gates():
    a = interpret(upscaling.bicubic, torch.rand(2, 1, 8, 8))
    assert measures.flipped(a, a).shape == (0, 2)


def test_two_networks_are_not_compared(small, patches):
    with pytest.raises(ValueError, match="b: expected an interpreter of a's network"):
        measures.flipped(interpret(small, patches[0]), interpret(small, patches[0][..., :20]))


def test_other_patches_open_other_gates(small, patches):
    a, b = interpret(small, patches[0]), interpret(small, patches[0].roll(1, 0))
    assert not measures.flipped(a, a).any()
    found = measures.flipped(a, b)
    assert found.shape == (2, 5)
    assert (found > 0.005).all() and (found < 0.5).all()


def test_an_interpreter_holds_near_and_not_far(small, patches):
    net = copy.deepcopy(small).double()
    found = measures.radius(interpret(net, patches[0].double()), [1e-9, 1e-4, 1e-2, 1, 100])
    assert found.shape == (5, 5)
    assert found[0].max() < 1e-3 and found[1].max() < 0.02
    assert (found[1:].diff(dim=0) > 0).all()
    assert found[-1].min() > 0.3


def test_an_interpreter_that_knows_nothing_of_the_change_is_off_by_all_of_it():
    """All gates are shut at x, so that A(u) = r, while u = x + d opens half of them."""
    a = interpret(nn.ReLU(), torch.full((1, 100), -1e-3, dtype=torch.float64))
    assert measures.radius(a, [1e-6])[0].isnan().all()  # nothing changes, and nothing is missed
    assert measures.radius(a, [1e6]).item() == pytest.approx(1)


def test_an_affine_map_holds_everywhere():
    a = interpret(upscaling.bicubic, torch.rand(1, 1, 8, 8, dtype=torch.float64, generator=Generator().manual_seed(0)))
    assert measures.radius(a, [1e-3, 1, 1e3]).max() < 1e-9


def test_an_interpreter_given_its_own_input_is_the_network(small, patches):
    a = interpret(small, patches[0])
    said = measures.exchanged(a)
    assert said.shape == (5, 5, 1, 48, 48)
    torch.testing.assert_close(torch.stack([said[i, i] for i in range(5)]), small(patches[0]))
    one = interpret(small, patches[0][3:4])
    torch.testing.assert_close(said[1, 3], one(patches[0][1:2])[0])


def test_the_filters_of_another_patch_are_worse_than_one_for_all(small, patches):
    x, wanted = patches
    found = measures.adapts(interpret(small, x), wanted, upscaling.bicubic)
    assert found.own.mean() > found.fixed.mean() + 0.2
    assert (found.own > found.another).all() and (found.another < found.fixed).all()
    assert found.another.mean() < found.fixed.mean() - 2
    of_itself = measures.adapts(interpret(small, x), small(x), upscaling.bicubic)
    assert (of_itself.own > 80).all()
    assert (of_itself.another < of_itself.fixed).all()


def test_nothing_adapts_in_bicubic(patches):
    x, wanted = patches
    found = measures.adapts(interpret(upscaling.bicubic, x), wanted, upscaling.bicubic)
    torch.testing.assert_close(found.own, found.another)
    torch.testing.assert_close(found.own, found.fixed)
    alone = upscaling.likeness(upscaling.bicubic(x[:1]), wanted[:1])
    assert found.own[0].item() == pytest.approx(alone, abs=1e-3)
