"""Teachers as people bring them: what a forward pass does not call does not count, and whatever form its output has."""

from __future__ import annotations

import copy
import pickle
from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.ao.quantization import quantize_dynamic
from torch.nn import functional as F

from raydfkd.errors import TeacherError
from raydfkd.models.catalog import build_classifier
from raydfkd.models.classifiers import ImageShape
from raydfkd.models.features import probed_head
from raydfkd.models.teachers.bn_statistics import BatchNormStatistics
from raydfkd.models.teachers.frozen_teacher import FrozenTeacher
from raydfkd.models.teachers.teacher_audit import audit_teacher, require_batch_norm, require_input_gradient

SHAPE: ImageShape = (3, 8, 8)


class Net(nn.Module):
    """Two convolutions, each with a normalising layer, and a head; ``after`` turns its logits into what it gives."""

    def __init__(self, norm: Callable[[int], nn.Module] = nn.BatchNorm2d, num_classes: int = 4, after: Any = None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv1, self.norm1 = nn.Conv2d(3, 6, 3, bias=False), norm(6)
        self.conv2, self.norm2 = nn.Conv2d(6, 8, 3, bias=False), norm(8)
        self.fc = nn.Linear(8, num_classes)
        self.after = after

    def features(self, x: Tensor) -> Tensor:
        return F.relu(self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))).mean((2, 3))

    def forward(self, x: Tensor) -> Any:
        logits = self.fc(self.features(x))
        return logits if self.after is None else self.after(logits)


def frozen(model: nn.Module, num_classes: int = 4) -> FrozenTeacher:
    return FrozenTeacher(model, num_classes, SHAPE, (0.0,) * 3, (1.0,) * 3)


@pytest.fixture
def images() -> Tensor:
    return torch.rand(5, *SHAPE, generator=torch.Generator().manual_seed(1))


@dataclass
class Output:
    logits: Tensor
    loss: None = None


Outputs = namedtuple("Outputs", ["logits", "aux_logits"])


@pytest.mark.parametrize(
    "after",
    [
        Output,
        lambda y: Outputs(y, y + 1),
        lambda y: (y, y[:, :2]),
        lambda y: [y],
        lambda y: {"logits": y, "aux": y + 1},
        lambda y: y[..., None, None],
        lambda y: {"pred": y, "hidden": None, "features": y[:, :2]},
        lambda y: SimpleNamespace(scores=y, loss=None),
    ],
)
def test_logits_are_found_in_whatever_a_network_gives(after: Any, images: Tensor) -> None:
    teacher = frozen(Net(after=after))
    expected = frozen(Net())(images)
    assert torch.equal(teacher(images), expected)
    assert torch.equal(copy.deepcopy(teacher)(images), expected)
    assert torch.equal(teacher.feature_reader(frozenset({"embedding"}))(images).logits, expected)
    assert audit_teacher(teacher).feature_dim == 8


def test_logits_that_cannot_be_told_from_other_tensors_are_asked_for() -> None:
    with pytest.raises(TeacherError, match=r"gives a tuple with the tensors 0 \[3, 4\], 1 \[3, 4\]; it must give one tensor"):
        audit_teacher(frozen(Net(after=lambda y: (y, y + 1))))
    with pytest.raises(TeacherError, match=r"gives \[3\] of int64 for 3 images"):
        audit_teacher(frozen(Net(after=lambda y: y.argmax(1))))


@pytest.mark.parametrize("squeezed", [True, False])
@pytest.mark.parametrize("sigmoid", [True, False])
def test_one_output_for_two_classes_is_both_classes_logits(sigmoid: bool, squeezed: bool, images: Tensor) -> None:
    def after(y: Tensor) -> Tensor:
        y = y.sigmoid() if sigmoid else y
        return y.squeeze(1) if squeezed else y

    teacher = frozen(Net(num_classes=1, after=after), 2)
    z = Net(num_classes=1).eval()(images).squeeze(1)
    assert torch.allclose(teacher(images).softmax(1), torch.stack([1 - z.sigmoid(), z.sigmoid()], 1), atol=1e-6)
    assert teacher.output_kind == ("one probability" if sigmoid else "one logit")
    assert any("taken as that of class 1" in note for note in audit_teacher(teacher).notes)


class WithAux(Net):
    """Auxiliary heads before and after the real one, with BatchNorm, that only training calls; and one that is never called."""

    def __init__(self) -> None:
        super().__init__()
        self.aux = nn.Sequential(nn.BatchNorm2d(6), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4))
        self.spare = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Any:
        early = F.relu(self.norm1(self.conv1(x)))
        logits = self.fc(F.relu(self.norm2(self.conv2(early))).mean((2, 3)))
        return (logits, self.aux(early)) if self.training else logits


def test_what_a_forward_pass_does_not_call_does_not_count(images: Tensor) -> None:
    teacher = frozen(WithAux())
    audit = audit_teacher(teacher)
    assert (teacher.head_name, audit.feature_dim, audit.normalization_layers) == ("fc", 8, {"BatchNorm2d": 2})
    assert any("does not call do not count: aux.0" in note for note in audit.notes)
    statistics = BatchNormStatistics(teacher)
    with statistics.capture():
        teacher(images)
    assert statistics.names == ["norm1", "norm2"]
    assert len(statistics.batch) == 2


class CalledFirst(Net):
    """Another Linear with as many outputs, defined after the head and called before it."""

    def __init__(self) -> None:
        super().__init__()
        self.side = nn.Linear(6, 4)

    def features(self, x: Tensor) -> Tensor:
        self.side(self.conv1(x).mean((2, 3)))
        return super().features(x)


class CalledLast(CalledFirst):
    def forward(self, x: Tensor) -> Any:
        logits = self.fc(self.features(x))
        self.side(torch.zeros(1, 6))
        return logits


@pytest.mark.parametrize("model", [CalledFirst(), CalledLast()])
def test_the_head_is_the_layer_that_gives_the_logits(model: nn.Module) -> None:
    assert frozen(model).head_name == "fc"
    assert probed_head(model, None, 4, SHAPE) == "fc"


class Keyword(Net):
    def features(self, x: Tensor) -> Tensor:
        return F.relu(self.norm2(input=self.conv2(F.relu(self.norm1(input=self.conv1(x)))))).mean((2, 3))


class ByHand(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(width))
        self.register_buffer("running_var", torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.running_mean.view(-1, 1, 1)) / (self.running_var.view(-1, 1, 1) + 1e-5).sqrt()


class ActivatedNorm(nn.BatchNorm2d):
    """A BatchNorm with an activation inside, in place."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.act(super().forward(x))


def torchvisions_frozen() -> nn.Module:
    return Net(pytest.importorskip("torchvision.ops").FrozenBatchNorm2d)


def timms_activated() -> nn.Module:
    return Net(pytest.importorskip("timm.layers").BatchNormAct2d)


def timms_frozen() -> nn.Module:
    return pytest.importorskip("timm.layers").freeze_batch_norm_2d(Net())


@pytest.mark.parametrize(
    "make",
    [
        Net, Keyword, lambda: Net(ByHand), lambda: Net(ActivatedNorm), lambda: Net(nn.SyncBatchNorm), torchvisions_frozen,
        timms_activated, timms_frozen,
    ],
)  # fmt: skip
def test_every_kind_of_batch_norm_gives_its_statistics(make: Callable[[], nn.Module], images: Tensor) -> None:
    teacher = frozen(make())
    audit = audit_teacher(teacher)
    require_batch_norm(audit, "x")
    assert sum(audit.normalization_layers.values()) in (2, 0 if isinstance(teacher.model.norm1, ByHand) else 2)
    statistics = BatchNormStatistics(teacher)
    x = images.clone().requires_grad_()
    with statistics.capture():
        teacher(x)
    conv = teacher.model.conv1(images)
    torch.testing.assert_close(statistics.batch[0], (conv.mean((0, 2, 3)), conv.var((0, 2, 3), correction=0)))
    assert [mean.numel() for mean, _ in statistics.running] == [6, 8]
    sum(mean.sum() for mean, _ in statistics.batch).backward()
    assert x.grad is not None


class CalledAround(Net):
    """BatchNorm by its forward(), which no hook sees."""

    def features(self, x: Tensor) -> Tensor:
        return F.relu(self.norm2.forward(self.conv2(F.relu(self.norm1.forward(self.conv1(x)))))).mean((2, 3))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Net(lambda n: nn.GroupNorm(2, n)), "has GroupNorm; set the source's bn_weight to 0"),
        (lambda: Net(lambda n: nn.InstanceNorm2d(n, track_running_stats=True)), "has InstanceNorm2d"),
        (lambda: Net(lambda n: nn.Identity()), "BatchNorm folded into convolutions"),
        (CalledAround, "such as 'norm1', that its forward pass does not call"),
        (lambda: traced(), "no normalisation layer that can be read"),
    ],
)
def test_a_teacher_without_batch_norm_statistics_says_what_it_has(make: Callable[[], nn.Module], words: str) -> None:
    with pytest.raises(TeacherError, match=words):
        require_batch_norm(audit_teacher(frozen(make())), "x")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_computed_in_float32(dtype: torch.dtype, images: Tensor) -> None:
    teacher = frozen(Net().to(dtype))
    assert audit_teacher(teacher).has_batch_norm
    assert teacher(images).dtype == torch.float32
    assert torch.equal(teacher(images), Net().to(dtype).float().eval()(images))


def traced() -> nn.Module:
    return torch.jit.trace(Net().eval(), torch.zeros(2, *SHAPE))


def frozen_script() -> nn.Module:
    return torch.jit.freeze(traced().eval())


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
@pytest.mark.parametrize(
    "make", [traced, frozen_script, lambda: torch.jit.script(nn.Sequential(nn.Flatten(), nn.Linear(192, 4)))]
)
def test_a_torchscript_teacher_gives_logits_and_a_gradient_and_no_layers(make: Callable[[], nn.Module], images: Tensor) -> None:
    teacher = frozen(make())
    audit = audit_teacher(teacher)
    assert (audit.deterministic, audit.feature_dim, audit.has_batch_norm) == (True, None, False)
    assert any("TorchScript program" in note for note in audit.notes)
    require_input_gradient(audit, "x")
    assert torch.allclose(copy.deepcopy(teacher).to(memory_format=torch.channels_last)(images), teacher(images))
    assert teacher.train() is teacher


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
def test_a_quantised_teacher_gives_logits_and_no_gradient(images: Tensor) -> None:
    teacher, other = (frozen(quantize_dynamic(net.eval(), {nn.Linear}, dtype=torch.qint8)) for net in (Net(), Net()))
    audit = audit_teacher(teacher)
    assert (audit.deterministic, audit.input_gradient, audit.has_batch_norm) == (True, False, True)
    assert torch.allclose(teacher(images), frozen(Net())(images), atol=0.02)
    assert audit.sha256 == audit_teacher(other).sha256
    assert audit.sha256 != audit_teacher(frozen(Net())).sha256
    with pytest.raises(TeacherError, match=r"needs the gradient.*choose a method that needs none"):
        require_input_gradient(audit, "x")


class NoBackward(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 1


class NoGrad(Net):
    @torch.no_grad()
    def forward(self, x: Tensor) -> Any:
        return super().forward(x)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (Net(after=NoBackward.apply), r"lacks \(NotImplementedError: You must implement"),
        (Net(after=torch.round), "lacks: choose a method"),
        (Net(after=lambda y: torch.from_numpy(y.detach().numpy())), "lacks: choose a method"),
        (
            Net(after=lambda y: torch.from_numpy(y.numpy())),
            r"lacks \(RuntimeError: Can't call numpy.*test_user_networks.py:\d+\)",
        ),
        (NoGrad(), "lacks: choose a method"),
    ],
)
def test_an_operation_without_a_derivative_leaves_methods_that_need_none(model: nn.Module, words: str) -> None:
    audit = audit_teacher(frozen(model))
    assert audit.feature_dim == 8
    with pytest.raises(TeacherError, match=words):
        require_input_gradient(audit, "x")


class InPlace(Net):
    def forward(self, x: Tensor) -> Any:
        return super().forward(x.sub_(0.5))


def test_a_network_that_changes_its_images_changes_its_own(images: Tensor) -> None:
    teacher = frozen(InPlace())
    view = teacher.normalize(images)
    before = view.clone()
    assert torch.equal(teacher.feature_reader(frozenset())(view).logits, Net().eval()(images - 0.5))
    assert torch.equal(view, before), "the student gets them too"


@pytest.mark.parametrize(
    ("forward", "words"),
    [
        (lambda x: x["image"], r"IndexError.*test_user_networks.py:\d+.*wrap a network that takes a dict"),
        (lambda x: x.no_such_thing(), "does not take a tensor of images: AttributeError"),
        (lambda x: x @ torch.zeros(3, 3), "cannot take 3 images of shape"),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence")
def test_a_failing_forward_pass_is_one_sentence(forward: Any, words: str) -> None:
    model = Net()
    model.forward = forward
    with pytest.raises(TeacherError, match=words) as told:
        audit_teacher(frozen(model))
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
@pytest.mark.filterwarnings("ignore")
def test_torchvisions_teachers_with_auxiliary_heads(name: str) -> None:
    pytest.importorskip("torchvision")
    shape = (3, 32, 32) if name == "googlenet" else (3, 75, 75)
    model = build_classifier(f"torchvision:{name}", 4, shape)
    teacher = FrozenTeacher(model, 4, shape, (0.5,) * 3, (0.25,) * 3)
    statistics = BatchNormStatistics(teacher)
    with statistics.capture(), torch.no_grad():
        _, features = teacher.forward_features(torch.rand(2, *shape))
    assert teacher.head_name == "fc"
    assert features.shape == (2, teacher.classifier_head.in_features)
    assert len(statistics.batch) == (57 if name == "googlenet" else 94)


def test_a_teacher_travels(images: Tensor) -> None:
    teacher = frozen(Net())
    assert torch.equal(pickle.loads(pickle.dumps(teacher))(images), teacher(images))
