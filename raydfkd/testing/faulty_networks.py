"""Networks that fail only during a run. Named in experiments as ``raydfkd.testing.faulty_networks:NAME``."""

from __future__ import annotations

import os
import time
from pathlib import Path

import torch

from raydfkd.errors import DataError
from raydfkd.models.classifiers.small import SmallCNN

NUM_GOOD_CALLS = 6
GATE = "RAYDFKD_TEST_GATE"
SLEEP_S = "RAYDFKD_TEST_SLEEP_S"


class _TeacherWithABug(SmallCNN):
    """Fails in synthesis only, where its input images require a gradient."""

    num_calls = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.num_calls += images.requires_grad
        if self.num_calls > NUM_GOOD_CALLS:
            raise ZeroDivisionError("this teacher has a bug")
        return super().forward(images)


class _StudentThatRefuses(SmallCNN):
    """Rejects its images in training."""

    num_calls = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.num_calls += self.training
        if self.num_calls > NUM_GOOD_CALLS:
            raise DataError("these images are not what this student takes: give it others")
        return super().forward(images)


def teacher_with_a_bug(num_classes: int, image_shape: tuple[int, int, int]) -> SmallCNN:
    return _TeacherWithABug(8, num_classes, image_shape[0])


def student_that_refuses(num_classes: int, image_shape: tuple[int, int, int]) -> SmallCNN:
    return _StudentThatRefuses(4, num_classes, image_shape[0])


class _StudentThatExits(SmallCNN):
    """Kills its process in training, as a crash in native code would."""

    num_calls = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.num_calls += self.training
        if self.num_calls > NUM_GOOD_CALLS:
            os._exit(1)
        return super().forward(images)


def student_that_exits(num_classes: int, image_shape: tuple[int, int, int]) -> SmallCNN:
    return _StudentThatExits(4, num_classes, image_shape[0])


class _GatedStudent(SmallCNN):
    """Stops before its n-th training step, n being the number in the file that the environment variable names.

    The copy that is tried before a run (see ``student_trial``), first without gradient, passes.
    """

    num_calls = 0
    tried = False

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.tried |= self.training and not torch.is_grad_enabled()
        if self.training and not self.tried:
            while self.num_calls >= float(Path(os.environ[GATE]).read_text() or "0"):
                time.sleep(0.01)
            self.num_calls += 1
        return super().forward(images)


def gated_student(num_classes: int, image_shape: tuple[int, int, int]) -> SmallCNN:
    return _GatedStudent(4, num_classes, image_shape[0])


class _SlowTeacher(SmallCNN):
    """Sleeps in synthesis only, where its input images require a gradient, for the time in the environment variable.

    So generators take a fixed time per batch without using a CPU, and a few CPUs can run many of them.
    """

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if images.requires_grad:
            time.sleep(float(os.environ[SLEEP_S]))
        return super().forward(images)


def slow_teacher(num_classes: int, image_shape: tuple[int, int, int]) -> SmallCNN:
    return _SlowTeacher(8, num_classes, image_shape[0])


class _SlowStudent(SmallCNN):
    """Sleeps in each training step for the time in the environment variable."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.training:
            time.sleep(float(os.environ[SLEEP_S]))
        return super().forward(images)


def slow_student(num_classes: int, image_shape: tuple[int, int, int]) -> SmallCNN:
    return _SlowStudent(4, num_classes, image_shape[0])
