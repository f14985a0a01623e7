"""Each picture is the one its name says, whole and in colour."""

import pytest
import torch

from labkit import assets, pictures
from labkit.pictures import names, picture

DOCUMENTED = {  # rows and columns, as scikit-image's own documentation of each picture says
    "astronaut": (512, 512), "brick": (512, 512), "camera": (512, 512), "cell": (660, 550), "chelsea": (300, 451),
    "chessboard_GRAY": (200, 200), "clock_motion": (300, 400), "coffee": (400, 600), "coins": (303, 384), "color": (370, 371),
    "grass": (512, 512), "gravel": (512, 512), "horse": (328, 400), "ihc": (512, 512), "logo": (500, 500), "microaneurysms": (102, 102),
    "moon": (512, 512), "motorcycle_left": (500, 741), "motorcycle_right": (500, 741), "page": (191, 384), "phantom": (400, 400), "text": (172, 448),
}  # fmt: skip
COLOURED = {"astronaut", "chelsea", "coffee", "color", "ihc", "logo", "motorcycle_left", "motorcycle_right"}


def test_every_picture_has_its_documented_size_and_a_grey_one_has_three_equal_channels():
    assert names() == sorted(names()) and set(names()) == {*DOCUMENTED, "chessboard_RGB"}
    for name in names():
        x = picture(name)
        assert x.dtype == torch.uint8 and x.is_contiguous() and len(x.unique()) > 1
        assert x.shape == (3, *DOCUMENTED.get(name, (200, 200))), name
        assert (name in COLOURED) == bool((x != x[:1]).any()), name


def test_red_comes_first():
    r, g, b = picture("chelsea").float().mean((1, 2))
    assert r > g > b, "the cat is ginger"


def test_what_is_transparent_shows_white_paper():
    for name in ("horse", "logo"):
        x = picture(name)
        assert (x[:, [0, 0, -1, -1], [0, -1, 0, -1]] == 255).all(), name
        assert x.min() < 30, name


def test_a_picture_may_be_painted_over_and_is_fresh_the_next_time():
    before = picture("coins").clone()
    picture("coins").zero_()
    assert torch.equal(picture("coins"), before)


def test_a_name_that_is_not_there_is_answered_with_those_that_are():
    with pytest.raises(LookupError, match=r"'cat'; there are astronaut, brick, .*, text$"):
        picture("cat")


def test_a_file_with_a_picture_too_few_or_too_many_is_refused():
    joined = assets.path("pictures").read_bytes()
    assert list(pictures.split(joined)) == names()
    last = joined.rindex(pictures.SIGNATURE)
    for wrong, count in ((joined[:last], 22), (joined + joined[last:], 24), (b"?" + joined, 23), (b"", 0)):
        with pytest.raises(ValueError, match=f"expected 23 PNG files.* got {count}"):
            pictures.split(wrong)
