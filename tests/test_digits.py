"""The handwritten digits are whole, labelled, and read once."""

import torch

from labkit.digits import digits


def test_there_are_five_hundred_pictures_of_each_digit_and_each_looks_like_its_own_kind():
    pictures, labels = digits()
    assert (pictures.shape, pictures.dtype) == ((5000, 28, 28), torch.uint8)
    assert labels.bincount().tolist() == [500] * 10
    x = pictures.flatten(1).float()
    means = torch.stack([x[labels == n][:400].mean(0) for n in range(10)])
    rest = torch.cat([(labels == n).nonzero()[400:, 0] for n in range(10)])
    nearest = torch.cdist(x[rest], means).argmin(-1)
    assert (nearest == labels[rest]).float().mean() > 0.75


def test_they_are_read_once():
    assert digits()[0] is digits()[0]
