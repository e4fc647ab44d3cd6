"""Supervised training of any catalog classifier: teachers to distil from, and upper bounds for students on real data."""

from __future__ import annotations

import copy
import json
import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raydfkd.augment import BatchAugmentation
from raydfkd.data.datasets import ImageDataset, load_dataset
from raydfkd.distillation.optimizers import build_optimizer
from raydfkd.distillation.schedule import learning_rate
from raydfkd.distillation.student_trial import require_logits
from raydfkd.errors import CheckpointError, ResourceError, RunFailedError
from raydfkd.evaluation import Evaluation, evaluate
from raydfkd.models.catalog import build_classifier
from raydfkd.models.features import probed_head
from raydfkd.models.moving_average import update_average
from raydfkd.models.precision import autocast
from raydfkd.models.teachers.teacher import Normalization
from raydfkd.models.weights import load_weights, save_weights
from raydfkd.ownership import owned
from raydfkd.pipeline.teacher.config import TeacherTrainingConfig
from raydfkd.resources import use_threads

logger = logging.getLogger(__name__)

Progress = Callable[[dict[str, Any]], None]
"""Receives one record per epoch: epoch, epochs, loss, train_accuracy, lr, images_per_s, elapsed_s."""


@dataclass(frozen=True)
class TeacherTrainingResult:
    """The result of a training.

    Attributes:
        accuracy: on the evaluation data, in [0,1], in float32; None without evaluation data.
        epochs: passes over the training images.
        seconds: wall time of training only.
        path: the safetensors file, whose metadata describe how to use it (see :func:`train_teacher`).
    """

    accuracy: float | None
    epochs: int
    seconds: float
    path: Path

    @property
    def summary(self) -> str:
        """What people read at the end."""
        measured = "" if self.accuracy is None else f", accuracy {self.accuracy:.2%} on the evaluation data"
        return f"{self.epochs} epochs in {self.seconds:.0f} s{measured}"


def train_teacher(
    config: TeacherTrainingConfig, out_path: str | Path, progress: Progress | None = None
) -> TeacherTrainingResult:
    """Trains one classifier on labelled images and saves it.

    The file's metadata, all text: ``model``, ``num_classes``, ``image_shape``, ``mean``, ``std``, ``classes`` (JSON),
    ``train_split``, ``epochs``, ``seed``, ``initial_weights`` (file name, if there was one) and, if measured,
    ``accuracy`` and ``evaluation_split``.

    Args:
        config: the recipe; relative paths are relative to the working directory.
        out_path: the file to write, ``*.safetensors``.
        progress: called after each epoch.

    Raises:
        RaydfkdError: the data, the model's name, the initial weights, the device or the path is wrong (before any training),
            or the training diverged.
    """
    path = _checked_path(out_path)
    with owned(path.parent, path.name, what=f"teacher file {path}"):
        return _train(config, path, progress)


def _train(config: TeacherTrainingConfig, path: Path, progress: Progress | None) -> TeacherTrainingResult:
    device = _device(config.device)
    use_threads(config.num_threads)
    train = load_dataset(config.dataset, config.image_shape, config.num_classes)
    test = (
        None
        if config.evaluation is None
        else load_dataset(config.evaluation, config.image_shape, config.num_classes, train.classes)
    )
    # Forked, so that neither initialisation nor dropout changes the caller's random state.
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(config.seed)
        training = _Training(config, train, device)
        started = time.monotonic()
        training.run(progress)
        seconds = time.monotonic() - started
    evaluation = None if test is None else evaluate(training.classifier, test, device=device)
    save_weights(training.model, path, _metadata(config, train, training.normalization, evaluation))
    return TeacherTrainingResult(None if evaluation is None else evaluation.metric, config.epochs, seconds, path)


class _Training:
    """One training in progress. All images stay on the device as uint8; a batch is gathered and augmented there."""

    def __init__(self, config: TeacherTrainingConfig, train: ImageDataset, device: torch.device) -> None:
        self.config = config
        self.device = device
        self.network = _initial_network(config)
        self.network.to(device).to(memory_format=torch.channels_last)
        self.network_ema = copy.deepcopy(self.network).eval() if config.ema_decay is not None else None
        self.normalization = Normalization(*_mean_std(config, train)).to(device)
        self.images = torch.from_numpy(train.images).to(device)
        self.labels = torch.from_numpy(train.labels).to(device)
        self.rng = torch.Generator().manual_seed(config.seed)
        self._augment = BatchAugmentation(config.augmentations, self.normalization.mean)
        self.batch_size = min(config.batch_size, len(train))
        self.steps_per_epoch = len(train) // self.batch_size
        self.optimizer = build_optimizer(config.optimizer, self.network.parameters())
        self.num_steps = 0

    @property
    def model(self) -> nn.Module:
        """The network to save."""
        return self.network if self.network_ema is None else self.network_ema

    @property
    def classifier(self) -> nn.Module:
        """The network to save, taking images in [0,1]."""
        return nn.Sequential(self.normalization, self.model)

    def run(self, progress: Progress | None) -> None:
        started = time.monotonic()
        for epoch in range(1, self.config.epochs + 1):
            epoch_started = time.monotonic()
            loss, accuracy = self._epoch()
            now = time.monotonic()
            if not math.isfinite(loss):
                raise RunFailedError(f"training diverged in epoch {epoch} (loss {loss}): lower optimizer.lr")
            if progress is not None:
                progress(
                    {
                        "epoch": epoch,
                        "epochs": self.config.epochs,
                        "loss": loss,
                        "train_accuracy": accuracy,
                        "lr": self.optimizer.param_groups[0]["lr"],
                        "images_per_s": self.steps_per_epoch * self.batch_size / (now - epoch_started),
                        "elapsed_s": now - started,
                    }
                )

    def _epoch(self) -> tuple[float, float]:
        """Mean training loss and accuracy; the incomplete last batch is dropped, a different one each epoch."""
        self.network.train()
        order = torch.randperm(len(self.labels), generator=self.rng).to(self.device)
        total_loss, total_right = torch.zeros((), device=self.device), torch.zeros((), device=self.device)
        for batch in order[: self.steps_per_epoch * self.batch_size].split(self.batch_size):
            loss, right = self._step(self.images[batch], self.labels[batch])
            total_loss += loss
            total_right += right
        return float(total_loss) / self.steps_per_epoch, float(total_right) / (self.steps_per_epoch * self.batch_size)

    def _step(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        config = self.config
        lr = learning_rate(config.optimizer, self.num_steps, config.epochs * self.steps_per_epoch)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        view = self.normalization(self._augment(images, self.rng))
        self.optimizer.zero_grad(set_to_none=True)
        with autocast(self.device, config.bf16):
            logits = self.network(view)
        if self.num_steps == 0:
            require_logits(logits, f"model {config.model!r}", len(view), config.num_classes)
        loss = F.cross_entropy(logits.float(), labels, label_smoothing=config.label_smoothing)
        loss.backward()
        if config.optimizer.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), config.optimizer.max_grad_norm)
        self.optimizer.step()
        self.num_steps += 1
        if self.network_ema is not None and config.ema_decay is not None:
            averaged, current = self.network_ema.state_dict().values(), self.network.state_dict().values()
            update_average(averaged, current, config.ema_decay, self.num_steps)
        return loss.detach(), (logits.detach().argmax(1) == labels).sum()


def _checked_path(out_path: str | Path) -> Path:
    path = Path(out_path).expanduser()
    if path.suffix != ".safetensors":
        raise CheckpointError(f"{path} cannot hold the teacher: give a file name that ends in .safetensors")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        probe = path.with_name(f".{path.name}.writable")
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise CheckpointError(f"{path} cannot be written ({error.strerror}): choose another path") from error
    return path


def _initial_network(config: TeacherTrainingConfig) -> nn.Module:
    network = build_classifier(config.model, config.num_classes, config.image_shape)
    if config.initial_weights is None:
        return network
    kept = load_weights(network, config.initial_weights, probed_head(network, None, config.num_classes, config.image_shape))
    random = f"; {' and '.join(kept)} are randomly initialised, for {config.num_classes} classes" if kept else ""
    logger.info("the network starts from %s%s", config.initial_weights, random)
    return network


def _device(name: str) -> torch.device:
    if name == "cuda" and not torch.cuda.is_available():
        raise ResourceError("device cuda is requested but this machine has no CUDA device: set device to auto or cpu")
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def _mean_std(config: TeacherTrainingConfig, train: ImageDataset) -> tuple[list[float], list[float]]:
    """Per channel, of pixels in [0,1], to four digits; from a histogram, to avoid a float copy of the data set."""
    if config.normalization != "auto":
        return config.normalization.mean, config.normalization.std
    levels = np.arange(256) / 255
    mean, std = [], []
    for channel in range(train.images.shape[1]):
        shares = np.bincount(train.images[:, channel].ravel(), minlength=256) / train.images[:, channel].size
        mean.append(round(float(shares @ levels), 4))
        std.append(round(max(float(np.sqrt(shares @ (levels - shares @ levels) ** 2)), 1e-3), 4))
    return mean, std


def _metadata(
    config: TeacherTrainingConfig, train: ImageDataset, normalization: Normalization, evaluation: Evaluation | None
) -> dict[str, str]:
    metadata = {
        "model": config.model,
        "num_classes": str(config.num_classes),
        "image_shape": json.dumps(list(config.image_shape)),
        "mean": json.dumps([round(float(m), 6) for m in normalization.mean]),
        "std": json.dumps([round(float(s), 6) for s in normalization.std]),
        "classes": json.dumps(train.classes),
        "train_split": f"{train.name}/{train.split}",
        "epochs": str(config.epochs),
        "seed": str(config.seed),
    }
    if config.initial_weights is not None:
        metadata["initial_weights"] = config.initial_weights.name
    if evaluation is not None:
        metadata["accuracy"] = f"{evaluation.metric:.4f}"
        metadata["evaluation_split"] = evaluation.split
    return metadata
