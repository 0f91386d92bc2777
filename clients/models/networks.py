"""The four network shapes: small enough that one CPU thread trains one in half a minute.

Every function takes the image's ``(height, width)`` and the number of classes and returns a
network from ``(n, 1, height, width)`` to ``(n, classes)`` logits. Pooling comes before
normalisation and rectification, which then touch a quarter of the values.
"""

from __future__ import annotations

import torch
from torch import nn

__all__ = ["convolutional", "lenet", "perceptron", "residual"]


def convolutional(shape: tuple[int, int], classes: int, *, width: int = 16) -> nn.Module:
    """Return two 5 x 5 convolutions of ``width`` and twice as many channels, and two layers."""
    height, breadth = shape[0] // 4, shape[1] // 4
    return nn.Sequential(
        *_pooled(1, width),
        *_pooled(width, 2 * width),
        nn.Flatten(),
        nn.Linear(2 * width * height * breadth, 64),
        nn.ReLU(),
        nn.Linear(64, classes),
    )


def lenet(shape: tuple[int, int], classes: int) -> nn.Module:
    """Return LeNet-5 with rectifiers; its second convolution is padded where images are small."""
    padding = 0 if min(shape) >= 20 else 2
    height, breadth = ((side // 2 + 2 * padding - 4) // 2 for side in shape)
    return nn.Sequential(
        nn.Conv2d(1, 6, 5, padding=2),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Conv2d(6, 16, 5, padding=padding),
        nn.MaxPool2d(2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(16 * height * breadth, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, classes),
    )


def residual(shape: tuple[int, int], classes: int, *, width: int = 16) -> nn.Module:
    """Return three residual blocks of ``width``, twice and four times as many channels."""
    stride = 2 if min(shape) >= 20 else 1
    return nn.Sequential(
        nn.Conv2d(1, width, 3, stride=stride, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(),
        ResidualBlock(width, width, 1),
        ResidualBlock(width, 2 * width, 2),
        ResidualBlock(2 * width, 4 * width, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4 * width, classes),
    )


def perceptron(shape: tuple[int, int], classes: int) -> nn.Module:
    """Return two hidden layers of 400 and 150 units."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(shape[0] * shape[1], 400),
        nn.ReLU(),
        nn.Linear(400, 150),
        nn.ReLU(),
        nn.Linear(150, classes),
    )


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut, projected where the channels change."""

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.path = nn.Sequential(
            nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
            nn.Conv2d(after, after, 3, padding=1, bias=False),
            nn.BatchNorm2d(after),
        )
        self.shortcut: nn.Module = nn.Identity()
        if before != after:
            self.shortcut = nn.Conv2d(before, after, 1, stride=stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the rectified sum of both ways, shape (n, after, height, width)."""
        return torch.relu(self.path(x) + self.shortcut(x))


def _pooled(before: int, after: int) -> list[nn.Module]:
    return [
        nn.Conv2d(before, after, 5, padding=2),
        nn.MaxPool2d(2),
        nn.BatchNorm2d(after),
        nn.ReLU(),
    ]
