"""Supervised training of any catalog network: teachers to distil from, and upper bounds for students on real data."""

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

from raydfkd.augment.levels import BatchAugmentation, Draws
from raydfkd.data.datasets import ImageDataset
from raydfkd.distillation.optimizers import build_optimizer
from raydfkd.distillation.recorded_step import NotRecordableError, RecordedStep
from raydfkd.distillation.schedule import learning_rate
from raydfkd.distillation.student_trial import require_logits
from raydfkd.errors import CheckpointError, ResourceError, RunFailedError
from raydfkd.evaluation import Evaluation, evaluate
from raydfkd.losses.positions import label_loss, mean_over_positions
from raydfkd.models.catalog import build_classifier
from raydfkd.models.features import probed_head
from raydfkd.models.moving_average import move_average, newest_share
from raydfkd.models.precision import autocast
from raydfkd.models.teachers.teacher import Normalization
from raydfkd.models.weights import load_weights, save_weights
from raydfkd.ownership import owned
from raydfkd.pipeline.teacher.config import TeacherTrainingConfig
from raydfkd.resources import use_threads
from raydfkd.tasks import build_task

logger = logging.getLogger(__name__)

Progress = Callable[[dict[str, Any]], None]
"""Receives one record per epoch: epoch, epochs, loss, train_accuracy, lr, images_per_s, elapsed_s."""


@dataclass(frozen=True)
class TeacherTrainingResult:
    """The result of a training.

    Attributes:
        evaluation: of the network in float32; None without evaluation data.
        metric_label: what its figure of merit is called.
        epochs: passes over the training images.
        seconds: wall time of training only.
        path: the safetensors file, whose metadata describe how to use it (see :func:`train_teacher`).
    """

    evaluation: Evaluation | None
    metric_label: str
    epochs: int
    seconds: float
    path: Path

    @property
    def accuracy(self) -> float | None:
        """Its figure of merit on the evaluation data, in [0,1]."""
        return None if self.evaluation is None else self.evaluation.metric

    @property
    def summary(self) -> str:
        """What people read at the end."""
        if self.evaluation is None:
            measured = ""
        else:
            measured = f", {self.metric_label} {self.evaluation.metric:.2%} on the evaluation data"
        return f"{self.epochs} epochs in {self.seconds:.0f} s{measured}"


def train_teacher(
    config: TeacherTrainingConfig, out_path: str | Path, progress: Progress | None = None
) -> TeacherTrainingResult:
    """Trains one network on labelled images, or on images with masks, and saves it.

    The file's metadata, all text: ``model``, ``num_classes``, ``image_shape``, ``mean``, ``std``, ``classes`` (JSON),
    ``task``, ``train_split``, ``epochs``, ``seed``, ``initial_weights`` (file name, if there was one) and, if measured, the
    figure of merit by its name (``accuracy``, ``miou``) and ``evaluation_split``.

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
    task = build_task(config.task_config)
    train = task.load(config.dataset)
    test = None if config.evaluation is None else task.load(config.evaluation, train.classes)
    # Forked, so that neither initialisation nor dropout changes the caller's random state.
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(config.seed)
        training = _Training(config, train, device)
        started = time.monotonic()
        training.run(progress)
        seconds = time.monotonic() - started
    evaluation = None if test is None else evaluate(training.classifier, test, device=device, measure=task.measure)
    save_weights(training.model, path, _metadata(config, train, training.normalization, evaluation))
    return TeacherTrainingResult(evaluation, task.metric_label, config.epochs, seconds, path)


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
        on_gpu = device.type == "cuda"
        self.optimizer = build_optimizer(config.optimizer, self.network.parameters(), fused=on_gpu)
        self.num_steps = 0
        self._recorded = RecordedStep(self._update, device) if on_gpu else None

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
                        "lr": learning_rate(
                            self.config.optimizer, self.num_steps - 1, self.config.epochs * self.steps_per_epoch
                        ),
                        "images_per_s": self.steps_per_epoch * self.batch_size / (now - epoch_started),
                        "elapsed_s": now - started,
                    }
                )

    def _epoch(self) -> tuple[float, float]:
        """Mean training loss and accuracy; the incomplete last batch is dropped, a different one each epoch."""
        self.network.train()
        order = torch.randperm(len(self.labels), generator=self.rng).to(self.device, non_blocking=True)
        total_loss, total_right = torch.zeros((), device=self.device), torch.zeros((), device=self.device)
        for batch in order[: self.steps_per_epoch * self.batch_size].split(self.batch_size):
            loss, right = self._step(self.images[batch], self.labels[batch])
            total_loss += loss
            total_right += right
        return float(total_loss) / self.steps_per_epoch, float(total_right) / (self.steps_per_epoch * self.batch_size)

    def _rate(self, step: int) -> float:
        return learning_rate(self.config.optimizer, step, self.config.epochs * self.steps_per_epoch)

    def _step(self, images: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        config = self.config
        lr = self._rate(self.num_steps)
        share = None if config.ema_decay is None else newest_share(config.ema_decay, self.num_steps + 1)
        _, _, height, width = images.shape
        draws = self._augment.draw(len(images), height, width, self.rng)
        done: tuple[Tensor, ...] | None = None
        if self._recorded is not None:
            try:
                done = self._recorded(torch.tensor(lr), torch.tensor(share or 0.0), draws.rows_RB, images, labels)
            except NotRecordableError as error:
                logger.info("the training step is not one CUDA graph: %s", error)
                self._recorded = None
        if done is None:
            done = self._updated(images, labels, draws.to(self.device), lr, share)
        self.num_steps += 1
        return done

    def _update(self, lr: Tensor, share: Tensor, rows: Tensor, images: Tensor, labels: Tensor) -> tuple[Tensor, ...]:
        return self._updated(images, labels, Draws(rows), lr, share)

    def _updated(
        self, images: Tensor, labels: Tensor, draws: Draws, lr: float | Tensor, share: float | Tensor | None
    ) -> tuple[Tensor, ...]:
        """One update: the same operations in every step, on the device alone."""
        config = self.config
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        if labels.ndim == 1:
            view = self._augment.apply(images, draws)
        else:
            view, labels = self._augment.apply_paired(images, labels, draws)
        view, labels = self.normalization(view), labels.long()
        self.optimizer.zero_grad(set_to_none=True)
        with autocast(self.device, config.bf16):
            logits = self.network(view)
        if self.num_steps == 0:
            shape = (len(view), config.num_classes, *config.task_config.positions)
            require_logits(logits, f"model {config.model!r}", shape)
        loss = label_loss(logits, labels, config.label_smoothing)
        loss.backward()
        if config.optimizer.max_grad_norm is not None:
            nn.utils.clip_grad_norm_(self.network.parameters(), config.optimizer.max_grad_norm)
        self.optimizer.step()
        if self.network_ema is not None and share is not None:
            move_average(self.network_ema.state_dict().values(), self.network.state_dict().values(), share)
        return loss.detach(), mean_over_positions((logits.detach().argmax(1) == labels).float(), labels).sum()


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
        "task": config.task,
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
        metadata[evaluation.metric_name] = f"{evaluation.metric:.4f}"
        metadata["evaluation_split"] = evaluation.split
    return metadata
