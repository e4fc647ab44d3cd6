"""Students tried in training mode: one sentence for each thing that would end the run at its first step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from raydfkd.distillation.config import StudentConfig
from raydfkd.distillation.distiller import Distiller
from raydfkd.distillation.student_trial import try_student
from raydfkd.errors import ConfigError
from raydfkd.models import precision
from raydfkd.models.catalog import build_classifier
from raydfkd.models.classifiers import ImageShape
from raydfkd.models.precision import require_compiler
from raydfkd.models.teachers.frozen_teacher import FrozenTeacher

SHAPE: ImageShape = (1, 8, 8)


class Student(nn.Module):
    """A convolution and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 4, 3), nn.Linear(4, 3)

    def features(self, x: Tensor) -> Tensor:
        return self.conv(x).relu().mean((2, 3))

    def forward(self, x: Tensor) -> Any:
        return self.fc(self.features(x))


def distiller_of(student: nn.Module, **settings: Any) -> Distiller:
    config = StudentConfig(**{"model": "x", "batch_size": 4, **settings})
    teacher = FrozenTeacher(build_classifier("small_cnn_4", 3, SHAPE), 3, SHAPE, (0.3,), (0.4,))
    return Distiller(config, teacher, student, 1, torch.device("cpu"), bf16=False)


def try_out(student: nn.Module, opponent: bool = False, **settings: Any) -> list[str]:
    return try_student(distiller_of(student, **settings), "small", opponent)


class Pooled(Student):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(4)

    def features(self, x: Tensor) -> Tensor:
        return self.norm(super().features(x))


class OnePixel(Student):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(1, 4, 8), nn.BatchNorm2d(4))


@pytest.mark.parametrize("student", [Pooled, OnePixel])
@pytest.mark.parametrize(
    "settings", [{"batch_size": 1}, {"accumulation_steps": 4}, {"num_workers": 4}, {"num_workers": 2, "accumulation_steps": 2}]
)
def test_batch_norm_with_one_image(student: type[nn.Module], settings: dict[str, int]) -> None:
    with pytest.raises(
        ConfigError, match=r"with 1 image.*ValueError: Expected more than 1 value.*raise batch_size, or use fewer"
    ):
        try_out(student(), **settings)
    try_out(student())
    try_out(student(), accumulation_steps=2)


class Fours(Student):
    def forward(self, x: Tensor) -> Any:
        assert not self.training or len(x) % 4 == 0, "a multiple of four"
        return super().forward(x)


def test_the_batch_is_a_workers() -> None:
    try_out(Fours(), batch_size=16, num_workers=2)
    with pytest.raises(ConfigError, match=r"with 6 images.*AssertionError: a multiple of four \(.*test_student_trial.py:\d+\)"):
        try_out(Fours(), batch_size=12, accumulation_steps=2)


class Auxiliary(Student):
    def forward(self, x: Tensor) -> Any:
        y = super().forward(x)
        return (y, y) if self.training else y


class Named(Student):
    def forward(self, x: Tensor) -> Any:
        y = super().forward(x)
        return {"out": y, "aux": y} if self.training else y


class Loss(Student):
    def forward(self, x: Tensor, targets: Tensor | None = None) -> Any:
        y = super().forward(x)
        return nn.functional.cross_entropy(y, targets) if self.training else y


class Embedding(Student):
    def forward(self, x: Tensor) -> Any:
        return self.features(x) if self.training else super().forward(x)


@pytest.mark.parametrize(
    ("student", "words"),
    [
        (Auxiliary, r"gives a tuple with the tensors 0 \[4, 3\], 1 \[4, 3\] for 4 images; it must give logits \[4,3\] alone"),
        (Named, r"gives a dict with the tensors out \[4, 3\], aux \[4, 3\]"),
        (Embedding, r"gives \[4, 4\] for 4 images"),
        (Loss, r"TypeError: cross_entropy_loss.*test_student_trial.py"),
    ],
)
def test_what_training_mode_gives(student: type[nn.Module], words: str) -> None:
    with pytest.raises(ConfigError, match=f"students.small cannot be trained: .*{words}") as told:
        try_out(student())
    assert "\n" not in str(told.value)


class NoGrad(Student):
    def forward(self, x: Tensor) -> Any:
        with torch.no_grad():
            return super().forward(x)


class NoBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 1


class CustomOp(Student):
    def features(self, x: Tensor) -> Tensor:
        return NoBackward.apply(super().features(x))


class CustomImages(Student):
    def features(self, x: Tensor) -> Tensor:
        return super().features(NoBackward.apply(x))


class InPlace(Student):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x.sub_(0.5))


def test_a_student_may_change_its_images_in_place() -> None:
    try_out(InPlace(), opponent=True)


def test_a_student_whose_weights_get_no_gradient() -> None:
    with pytest.raises(ConfigError, match="none of its network's weights gets a gradient"):
        try_out(NoGrad())
    with pytest.raises(ConfigError, match=r"its backward pass ends with NotImplementedError"):
        try_out(CustomOp())
    with pytest.raises(ConfigError, match="no weight that learns: requires_grad is False"):
        try_out(Student().requires_grad_(False))
    try_out(CustomImages())
    with pytest.raises(ConfigError, match=r"its backward pass ends with NotImplementedError"):
        try_out(CustomImages(), opponent=True)


def test_weights_that_take_no_part_are_refused_where_workers_would_wait_for_their_gradients() -> None:
    student = Student()
    student.aux = nn.Linear(4, 3)
    try_out(student)
    with pytest.raises(ConfigError, match=r"2 weights take no part in its logits, such as 'aux.weight'"):
        try_out(student, num_workers=2)
    student.aux.requires_grad_(False)
    try_out(student, num_workers=2)


def test_nothing_is_drawn_from_the_global_generator() -> None:
    class Dropping(Student):
        def features(self, x: Tensor) -> Tensor:
            return nn.functional.dropout(super().features(x), 0.5)

    distiller = distiller_of(Dropping())
    before = torch.get_rng_state()
    try_student(distiller, "small")
    assert torch.equal(torch.get_rng_state(), before)


def test_a_missing_compiler_is_said_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def compile(function: Any, dynamic: bool) -> Any:
        def failing(x: Tensor) -> Tensor:
            raise RuntimeError("Failed to find C compiler. Please specify via CC environment variable.")

        return failing

    monkeypatch.setattr(precision.torch, "compile", compile)
    with pytest.raises(ConfigError, match=r"students.a.compile is on.*Failed to find C compiler.*install a C\+\+ compiler"):
        require_compiler(torch.device("cpu"), "students.a.compile")


class AlwaysDropping(Student):
    def features(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(super().features(x), 0.5)


def test_a_dropout_that_is_always_on_is_warned_of_and_one_that_heeds_the_mode_is_not() -> None:
    (warning,) = try_out(AlwaysDropping())
    assert warning.startswith("students.small gives other logits for the same images from call to call, in evaluation mode too")
    heeding = nn.Sequential(Student(), nn.Dropout(0.5))
    assert try_out(heeding) == []
