"""The two trained networks do what they were trained for, and are read the way they were written."""

from functools import cache

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from labkit import assets, vision
from labkit.pictures import picture
from labkit.vision import bicubic, class_names, classifier_input, halve, luma, psnr, waifu2x
from labkit.vision.efficientnet import Block, SameConv2d


@cache
def classifier() -> nn.Module:
    return vision.classifier()


@cache
def upscaler() -> nn.Module:
    return vision.upscaler()


def scaled(name: str) -> torch.Tensor:
    """A picture in [0, 1] (1 3 h w), with even numbers of rows and columns."""
    x = picture(name)[None] / 255
    return x[..., : x.shape[-2] // 2 * 2, : x.shape[-1] // 2 * 2]


@pytest.mark.parametrize(
    ("name", "expected", "at_least"),
    [
        ("chelsea", {"Egyptian cat", "tiger cat"}, 0.6),
        ("coffee", {"espresso"}, 0.85),
        ("camera", {"tripod"}, 0.85),
        ("motorcycle_left", {"moped", "motor scooter"}, 0.7),
    ],
)
def test_the_classifier_sees_what_is_there(name, expected, at_least):
    p = classifier()(classifier_input(picture(name))).softmax(-1)[0]
    most, which = p.topk(len(expected))
    assert {class_names()[i] for i in which.tolist()} == expected and most.sum() > at_least


def test_a_thousand_names_each_another_one_and_in_order():
    names = class_names()
    assert len(names) == len(set(names)) == 1000 and all(names)
    known = {
        0: "tench",
        134: "crane (bird)",
        282: "tiger cat",
        517: "crane (machine)",
        872: "tripod",
        999: "toilet tissue",
    }
    assert {i: names[i] for i in known} == known


def test_each_network_has_all_its_numbers_and_comes_ready_to_be_read():
    for net, count in ((classifier(), 4_652_008), (upscaler(), 552_483)):
        assert sum(p.numel() for p in net.parameters()) == count
        assert not net.training and not any(p.requires_grad or p.is_meta for p in net.parameters())
    assert all(norm.eps == 1e-3 for norm in classifier().modules() if isinstance(norm, nn.BatchNorm2d))


def test_a_network_in_double_precision_is_nobody_elses():
    vision.classifier().double()
    vision.upscaler().double()
    assert {t.dtype for make in (vision.classifier, vision.upscaler) for t in make().parameters()} == {torch.float32}


def test_one_relu6_serves_a_block_twice():
    net, calls = vision.classifier(), []
    blocks = [block for block in net.modules() if isinstance(block, Block)]
    for i, block in enumerate(blocks):
        block.relu6.register_forward_hook(lambda *_, i=i: calls.append(i))
    net(torch.zeros(1, 3, 32, 32))
    assert [calls.count(i) for i in range(len(blocks))] == [1] + [2] * 15


@pytest.mark.parametrize("size", [(7, 10), (8, 5), (1, 2)])
@pytest.mark.parametrize(("kernel", "stride"), [(3, 1), (3, 2), (5, 1), (5, 2), (1, 1)])
def test_padding_is_tensorflows_same(kernel, stride, size):
    """Output i sees inputs i·stride − before … , where before is the smaller half of what ⌈n / stride⌉ outputs lack."""
    conv, x = SameConv2d(1, 1, kernel, stride).double(), torch.randn(1, 1, *size, dtype=torch.float64)
    rows, columns = ((n + stride - 1) // stride for n in size)
    above, left = (max(0, (m - 1) * stride + kernel - n) // 2 for m, n in zip((rows, columns), size, strict=True))
    expected = torch.zeros(rows, columns, dtype=torch.float64)
    for i in range(rows):
        for j in range(columns):
            for a in range(kernel):
                for b in range(kernel):
                    y, z = i * stride - above + a, j * stride - left + b
                    if 0 <= y < size[0] and 0 <= z < size[1]:
                        expected[i, j] += conv.weight[0, 0, a, b].detach() * x[0, 0, y, z]
    torch.testing.assert_close(conv(x)[0, 0].detach(), expected)


def test_at_an_even_size_the_stem_pads_below_and_right_only():
    """The trap: torch's padding=1 gives the same shape, from windows that lie one pixel higher and further left."""
    x, stem = torch.randn(1, 3, 8, 8), SameConv2d(3, 4, 3, stride=2)
    torch.testing.assert_close(stem(x), F.conv2d(F.pad(x, (0, 1, 0, 1)), stem.weight, stride=2))
    assert not torch.allclose(stem(x), F.conv2d(x, stem.weight, stride=2, padding=1))


def test_a_picture_is_judged_alone_whatever_is_beside_it():
    x = torch.cat([classifier_input(picture(name)) for name in ("chelsea", "coffee")])
    torch.testing.assert_close(classifier()(x)[1:], classifier()(x[1:]), atol=1e-4, rtol=1e-4)
    small = torch.rand(2, 3, 12, 9)
    torch.testing.assert_close(upscaler()(small)[1:], upscaler()(small[1:]), atol=1e-5, rtol=1e-5)


def test_the_classifier_gets_the_middle_square_in_its_range():
    x = torch.zeros(3, 300, 500, dtype=torch.uint8)
    x[:, :, 100:400] = 255
    y = classifier_input(x)
    assert y.shape == (1, 3, 224, 224) and torch.allclose(y, torch.ones(()))
    assert classifier_input(picture("microaneurysms")).shape == (1, 3, 224, 224), "a small picture is enlarged"
    assert classifier_input(picture("text")).abs().max() <= 1 + 1e-6


@pytest.mark.parametrize(("name", "margin"), [("chelsea", 1.1), ("coffee", 2.3), ("astronaut", 3.3)])
def test_the_upscaler_beats_bicubic(name, margin, record_property):
    x = scaled(name)
    small = halve(x)
    gain = psnr(upscaler()(small), x) - psnr(bicubic(small), x)
    record_property(f"{name}, upscaler above bicubic, dB", f"{gain:.2f}")
    assert gain > margin


@pytest.mark.parametrize("size", [(1, 1), (5, 8), (16, 3)])
def test_the_upscaler_gives_exactly_twice_the_size(size):
    x = torch.rand(2, 3, *size)
    rows, columns = size
    assert upscaler()(x).shape == bicubic(x).shape == (2, 3, 2 * rows, 2 * columns)
    assert halve(bicubic(x)).shape == x.shape


def test_a_pixel_sees_seven_pixels_around_it_and_no_more():
    x = torch.rand(1, 3, 24, 30, dtype=torch.float64)
    net = vision.upscaler().double()
    whole, part = net(x), net(x[..., 2:20, 3:28])
    torch.testing.assert_close(part[..., 14:-14, 14:-14], whole[..., 4:40, 6:56][..., 14:-14, 14:-14])


def test_psnr_is_of_brightness_without_the_border():
    a = torch.full((1, 3, 12, 12), 0.5)
    b = a + 0.1
    b[..., :4, :], b[..., 8:, :], b[..., :4], b[..., 8:] = 1, 1, 1, 1
    assert psnr(a, b) == pytest.approx(20, abs=1e-4) and psnr(a, a) == float("inf")
    assert psnr(a, b, border=0) < 10
    assert luma(torch.eye(3)[..., None, None]).flatten().tolist() == pytest.approx([0.299, 0.587, 0.114])


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: classifier()(picture("coffee")[None]), r"torch.uint8 \(1, 3, 400, 600\).*classifier_input"),
        (lambda: classifier()(torch.rand(1, 1, 224, 224)), r"\(1, 1, 224, 224\)"),
        (lambda: upscaler()(picture("coffee")[None]), r"torch.uint8.*/ 255"),
        (lambda: upscaler()(torch.rand(3, 8, 8)), r"\(3, 8, 8\)"),
        (lambda: classifier_input(torch.rand(3, 8, 8)), r"bytes \(3 h w\), got torch.float32"),
        (lambda: classifier_input(picture("coffee")[:1]), r"\(1, 400, 600\)"),
        (lambda: halve(torch.rand(1, 3, 8, 9)), r"even .*\(1, 3, 8, 9\)"),
        (lambda: bicubic(torch.rand(1, 4, 8, 8)), r"\(1, 4, 8, 8\)"),
        (lambda: luma(torch.rand(1, 8, 8)), r"\(1, 8, 8\)"),
        (lambda: psnr(torch.rand(3, 16, 16), torch.rand(3, 16, 8)), r"\(3, 16, 16\) and \(3, 16, 8\)"),
        (lambda: psnr(torch.rand(3, 8, 8), torch.rand(3, 8, 8)), "wider than two borders of 4"),
    ],
)
def test_what_is_not_a_picture_is_refused_in_one_line(call, said):
    with pytest.raises(ValueError, match=said) as refused:
        call()
    assert "\n" not in str(refused.value)


def test_a_damaged_ncnn_file_is_refused():
    weights, _, rest = assets.path("waifu2x").read_bytes().rpartition(b"\n7767517\n")
    layers = "7767517\n" + rest.decode()
    assert len(waifu2x.parse(layers, weights)) == 13
    for spoilt_layers, spoilt_weights, said in (
        (layers, weights[:-1], "conv7_layer: .* cut short"),
        (layers, b"", "conv1_layer: .* cut short"),
        (layers, weights + b"0000", f"take {len(weights)} bytes of weights, and there are {len(weights) + 4}"),
        (layers, b"\0\0\0\0" + weights[4:], "conv1_layer: expected the mark 0x01306b47"),
        (layers.replace("Deconvolution", "Pooling"), weights, "conv7_layer: expected .*, got Pooling"),
        (layers.removeprefix("7767517\n"), weights, "begins with '8 8'"),
    ):
        with pytest.raises(ValueError, match=said):
            waifu2x.parse(spoilt_layers, spoilt_weights)
