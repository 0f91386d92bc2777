"""Estimators that torch trains: the whole private part is one tensor, warped batch by batch.

Training follows one recipe for all (Adam under a one-cycle rate); what differs is the network.
On the CPU a seed fixes the result; on a GPU torch's kernels may differ in the last bits.
"""

from __future__ import annotations

import io
import math
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from rtc_flower.clients.models import networks
from rtc_flower.clients.models.estimator import WARP, Estimator, checked, scaled, warps_images
from rtc_flower.errors import ContractError

__all__ = ["CNN", "MLP", "LeNet", "Neural", "ResNet", "warped"]

_PREDICT_BATCH = 500


class Neural(Estimator):
    """A network on images of one channel.

    Parameters
    ----------
    epochs : int
        Passes over the private part.
    rate : float
        Highest learning rate of the cycle.
    batch : int, optional
        Samples per step; what is left of an epoch's random order is skipped.
    min_steps : int, optional
        Steps taken at least, however few the samples.
    augment : bool, optional
        Whether every batch is warped anew; unless given, when images are large enough (see
        `rtc_flower.clients.models.estimator.warps_images`).
    device : str, optional
        ``"auto"`` for a GPU where there is one, or a torch device.
    seed, threads : int, optional
        See `Estimator`.
    """

    def __init__(
        self,
        *,
        epochs: int,
        rate: float,
        batch: int = 50,
        min_steps: int = 300,
        augment: bool | None = None,
        device: str = "auto",
        seed: int = 0,
        threads: int = 1,
    ) -> None:
        super().__init__(seed=seed, threads=threads)
        if epochs < 1 or batch < 1:
            raise ValueError(f"epochs is {epochs}, batch is {batch}: expected at least 1")
        self.epochs = epochs
        self.rate = rate
        self.batch = batch
        self.min_steps = min_steps
        self.augment = augment
        self.device = device
        self._shape: tuple[int, ...] = ()
        self._classes = torch.empty(0, dtype=torch.int64)
        self._centre, self._spread = 0.0, 1.0
        self._network: nn.Module | None = None

    @property
    def hyperparameters(self) -> dict[str, Any]:
        """See `Estimator.hyperparameters`."""
        return {
            "epochs": self.epochs,
            "rate": self.rate,
            "batch": self.batch,
            "min_steps": self.min_steps,
            "augment": self.augment,
        }

    def fit(self, X: NDArray[Any], y: NDArray[Any]) -> Self:
        """See `Estimator.fit`."""
        X, y = checked(X, y)
        values = scaled(X)
        warp = warps_images(self.augment, X.shape[1:])
        classes, targets = np.unique(y, return_inverse=True)
        self._shape, self._classes = X.shape[1:], torch.from_numpy(classes)
        self._centre, self._spread = float(values.mean()), float(values.std()) or 1.0
        with _threads(self.threads), _seeded(self.seed, self._torch_device()):
            self._network = self._new_network()
            images = self._images(values)
            self._train(self._network, images, torch.from_numpy(targets).to(images.device), warp)
        return self

    def predict(self, X: NDArray[Any]) -> NDArray[np.int64]:
        """See `Estimator.predict`."""
        if self._network is None:
            raise RuntimeError(f"{self.kind}: predict was called before fit")
        values = scaled(X, self._shape)
        found = torch.empty(len(values), dtype=torch.int64)
        with _threads(self.threads), torch.inference_mode():
            for start in range(0, len(values), _PREDICT_BATCH):
                images = self._images(values[start : start + _PREDICT_BATCH])
                rows = slice(start, start + len(images))
                found[rows] = self._network(self._standard(images)).argmax(dim=1).cpu()
        return self._classes[found].numpy()

    def dumps(self) -> bytes:
        """Return the weights as torch saves them, readable without running code."""
        if self._network is None:
            raise RuntimeError(f"{self.kind}: dumps was called before fit")
        payload = {
            "shape": list(self._shape),
            "classes": self._classes,
            "centre": self._centre,
            "spread": self._spread,
            "weights": self._network.state_dict(),
        }
        buffer = io.BytesIO()
        torch.save(payload, buffer)
        return buffer.getvalue()

    def loads(self, payload: bytes) -> Self:
        """Take over weights; the bytes cannot run code, so any file may be read."""
        try:
            found = torch.load(io.BytesIO(payload), map_location="cpu", weights_only=True)
            self._shape, self._classes = tuple(found["shape"]), found["classes"]
            self._centre, self._spread = found["centre"], found["spread"]
            network = self._new_network()
            network.load_state_dict(found["weights"])
        except Exception as error:  # torch raises a dozen kinds on damaged bytes
            raise ContractError(f"{self.kind}: not a model of this shape: {error}") from error
        self._network = network.eval()
        return self

    @abstractmethod
    def _build(self, shape: tuple[int, int], classes: int) -> nn.Module:
        """Return an untrained network for images of this shape."""

    def _new_network(self) -> nn.Module:
        network = self._build(self._image_shape(), len(self._classes))
        return network.to(self._torch_device(), memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

    def _image_shape(self) -> tuple[int, int]:
        """Return (height, width); a square number of features is taken as an image."""
        if len(self._shape) == 2:
            return self._shape[0], self._shape[1]
        side = math.isqrt(self._shape[0])
        if len(self._shape) > 2 or side * side != self._shape[0]:
            raise ContractError(
                f"{self.kind} takes images (height, width) or a square number of features: "
                f"samples have shape {self._shape}"
            )
        return side, side

    def _torch_device(self) -> torch.device:
        if self.device == "auto":
            return torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return torch.device(self.device)

    def _images(self, values: NDArray[np.float32]) -> torch.Tensor:
        images = torch.from_numpy(values).reshape(-1, 1, *self._image_shape())
        return images.to(self._torch_device(), memory_format=torch.channels_last)

    def _standard(self, images: torch.Tensor) -> torch.Tensor:
        return (images - self._centre) / self._spread

    def _train(
        self, network: nn.Module, images: torch.Tensor, targets: torch.Tensor, warp: bool
    ) -> None:
        batch = min(self.batch, len(images))
        per_epoch = len(images) // batch
        total = max(self.epochs * per_epoch, self.min_steps)
        optimizer = torch.optim.Adam(network.parameters(), lr=self.rate, fused=True)
        cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, self.rate, total_steps=total)
        network.train()
        for step in range(total):
            start = step % per_epoch * batch
            if start == 0:
                order = torch.randperm(len(images)).to(images.device)
            rows = order[start : start + batch]
            chosen = warped(images[rows]) if warp else images[rows]
            loss = functional.cross_entropy(network(self._standard(chosen)), targets[rows])
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            cycle.step()
        if not torch.isfinite(loss):
            raise ContractError(f"{self.description}: training diverged, its loss is {loss.item()}")
        network.eval()


class CNN(Neural):
    """Two convolutions and two layers (`networks.convolutional`)."""

    kind = "cnn"

    def __init__(self, *, epochs: int = 20, rate: float = 2e-3, **options: Any) -> None:
        super().__init__(epochs=epochs, rate=rate, **options)

    def _build(self, shape: tuple[int, int], classes: int) -> nn.Module:
        return networks.convolutional(shape, classes)


class LeNet(Neural):
    """LeNet-5 with rectifiers (`networks.lenet`)."""

    kind = "lenet"

    def __init__(self, *, epochs: int = 25, rate: float = 2e-3, **options: Any) -> None:
        super().__init__(epochs=epochs, rate=rate, **options)

    def _build(self, shape: tuple[int, int], classes: int) -> nn.Module:
        return networks.lenet(shape, classes)


class ResNet(Neural):
    """Three residual blocks (`networks.residual`)."""

    kind = "resnet"

    def __init__(self, *, epochs: int = 12, rate: float = 5e-3, **options: Any) -> None:
        super().__init__(epochs=epochs, rate=rate, **options)

    def _build(self, shape: tuple[int, int], classes: int) -> nn.Module:
        return networks.residual(shape, classes)


class MLP(Neural):
    """Two hidden layers (`networks.perceptron`)."""

    kind = "mlp"

    def __init__(self, *, epochs: int = 36, rate: float = 2e-3, **options: Any) -> None:
        super().__init__(epochs=epochs, rate=rate, **options)

    def _build(self, shape: tuple[int, int], classes: int) -> nn.Module:
        return networks.perceptron(shape, classes)


def warped(images: torch.Tensor) -> torch.Tensor:
    """Return every image randomly rotated, scaled and shifted, within `estimator.WARP`.

    Parameters
    ----------
    images : Tensor of float32, shape (n, 1, height, width)

    Returns
    -------
    Tensor of float32, shape (n, 1, height, width)
        Drawn from torch's global generator; outside an image is zero.
    """
    n, _, height, width = images.shape
    turn, scale, down, right = torch.rand(4, n, device=images.device) * 2 - 1
    angle, factor = math.radians(WARP.degrees) * turn, 1 + WARP.scale * scale
    cos, sin = torch.cos(angle) / factor, torch.sin(angle) / factor
    # affine_grid measures an image from -1 to 1, so that a pixel is 2 / side.
    x, y = right * 2 * WARP.pixels / width, down * 2 * WARP.pixels / height
    matrix = torch.stack([cos, -sin, x, sin, cos, y], dim=1).reshape(n, 2, 3)
    grid = functional.affine_grid(matrix, [n, 1, height, width], align_corners=False)
    return functional.grid_sample(images, grid, align_corners=False)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Draw from a seed of our own, and leave torch's generators as they were."""
    devices = [] if device.type == "cpu" else [device]
    with torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        yield
