"""A student that uses its teacher's classifier: backbone, projector to the teacher's feature space, frozen head.

SimKD (Chen et al., CVPR 2022) and the student stage of HiDFD. The projector is part of the student: trained, saved, exported.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raydfkd.errors import CheckpointError, ConfigError, TeacherError
from raydfkd.models.classifiers import ImageShape
from raydfkd.models.features import (
    FeatureReader,
    MapClassifier,
    capture,
    is_pooled,
    probe_images,
    probed_head,
    require_linear_head,
)
from raydfkd.models.precision import evaluating
from raydfkd.models.teachers.frozen_teacher import FrozenTeacher

MapShape = tuple[int, int, int]
"""(C, H, W) of a map."""


class ClassifierSharingProjector(nn.Module):
    """The student's last map to the teacher's width: 1x1 to half of it, 3x3, 1x1 to all of it, BN and ReLU after each.

    A student map that is higher or wider than the teacher's is average-pooled to the smaller size first (SimKD); a teacher map
    that is larger is pooled by the loss.

    Args:
        student_shape, teacher_shape: of the two last maps.
    """

    def __init__(self, student_shape: MapShape, teacher_shape: MapShape) -> None:
        super().__init__()
        self.student_shape, self.teacher_shape = student_shape, teacher_shape
        width = teacher_shape[0]
        middle = max(1, width // 2)
        self.size = (min(student_shape[1], teacher_shape[1]), min(student_shape[2], teacher_shape[2]))
        self.pools = self.size != student_shape[1:]
        self.layers = nn.Sequential(
            *_conv_norm_relu(student_shape[0], middle, 1),
            *_conv_norm_relu(middle, middle, 3),
            *_conv_norm_relu(middle, width, 1),
        )

    def forward(self, student_map: Tensor) -> Tensor:
        """[B,c,h,w] to [B,C,H,W]."""
        return self.layers(F.adaptive_avg_pool2d(student_map, self.size) if self.pools else student_map)


class SharedClassifierStudent(nn.Module):
    """Normalised images [B,C,H,W] to logits [B,K] through the projector, global average pooling and the teacher's head.

    It provides its maps as catalog networks do; the last one is the projected map, which is aligned.

    Args:
        backbone: the student's own network. One that gives its maps itself is used up to its last map, without its own
            head (which ``share_classifier`` removes); for others the whole forward pass runs.
        teacher_head: the linear layer that takes the teacher's pooled last map; a frozen copy of it is made.
        map_layer: of a backbone that does not give its maps: dotted name of the layer whose output is the last map, activated.

    Raises:
        ConfigError: the backbone needs a ``map_layer``, or has none of that name.
    """

    def __init__(
        self,
        backbone: nn.Module,
        projector: ClassifierSharingProjector,
        teacher_head: nn.Linear,
        map_layer: str | None = None,
    ) -> None:
        super().__init__()
        if map_layer is None and not isinstance(backbone, MapClassifier):
            raise ConfigError(
                f"the student {type(backbone).__name__} does not provide its maps: name their layers in its feature_layers, "
                "the pooled one last"
            )
        self.map_layer = map_layer
        self.removed_head: str | None = None
        """Dotted name of the backbone's own head, where ``share_classifier`` removed it."""
        self.backbone = backbone
        self.projector = projector
        self.head = _frozen_copy(teacher_head)
        self._capture = None if map_layer is None else capture(backbone, [map_layer])

    def forward(self, images: Tensor) -> Tensor:
        return self.pool_and_classify(self.forward_maps(images)[-1])

    def forward_maps(self, images: Tensor) -> list[Tensor]:
        """The backbone's maps but its last one (none of a backbone that does not give them), and the projected last map."""
        if self._capture is not None:
            _, (last_map,) = self._capture(images)
            return [self.projector(last_map)]
        assert isinstance(self.backbone, MapClassifier)
        *maps, last_map = self.backbone.forward_maps(images)
        return [*maps, self.projector(last_map)]

    def pool_and_classify(self, last_map: Tensor) -> Tensor:
        """Logits [B,K] of the projected map."""
        return self.head(last_map.mean((2, 3)))


def share_classifier(
    backbone: nn.Module,
    teacher: FrozenTeacher,
    *,
    feature_layers: Sequence[str] | None = None,
    classifier_head: str | None = None,
) -> SharedClassifierStudent:
    """A student of ``backbone`` and the teacher's classifier. The projector is drawn from torch's global random generator.

    The backbone is modified in place: its own head is replaced by an identity, and everything else after its last map is
    frozen, since nothing would train it.

    Args:
        feature_layers, classifier_head: of the student, as ``FeatureReader`` takes them.

    Raises:
        TeacherError: the teacher's head does not take the mean of its last map, or is not found.
        ConfigError: the student's last map is not found.
    """
    head = require_linear_head(teacher.model, teacher.head_name, "teacher")
    teacher_shape = _pooled_map_shape(teacher)
    shape = teacher.image_shape
    layers = None if feature_layers is None else tuple(feature_layers)[-1:]
    own_head = probed_head(backbone, classifier_head, teacher.num_classes, shape)
    reader = FeatureReader(backbone, frozenset({"maps"}), teacher.num_classes, shape, layers=layers, head=own_head)
    projector = ClassifierSharingProjector(reader.shapes().maps[-1], teacher_shape)
    map_layer = reader.layers[-1] if reader.layers else None
    reader.remove_hooks()
    student = _assemble(backbone, projector, head, map_layer, own_head)
    if map_layer is not None:
        _freeze_unused(student, teacher.image_shape)
    return student


def describe_shared_classifier(student: SharedClassifierStudent) -> str:
    """What :func:`rebuild_shared_classifier` needs besides the backbone's name, as JSON for a weights file's header."""
    return json.dumps(
        {
            "student_shape": student.projector.student_shape,
            "teacher_shape": student.projector.teacher_shape,
            "map_layer": student.map_layer,
            "removed_head": student.removed_head,
            "bias": student.head.bias is not None,
        }
    )


def rebuild_shared_classifier(backbone: nn.Module, described: str, num_classes: int) -> SharedClassifierStudent:
    """An untrained student of the described form, to load a file's weights into: no teacher is needed for that.

    Raises:
        CheckpointError: the description is damaged, or for a different backbone.
    """
    try:
        form = json.loads(described)
        student_shape, teacher_shape = tuple(form["student_shape"]), tuple(form["teacher_shape"])
        projector = ClassifierSharingProjector(student_shape, teacher_shape)
        head = nn.Linear(teacher_shape[0], num_classes, bias=form["bias"])
        return _assemble(backbone, projector, head, form["map_layer"], form["removed_head"])
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise CheckpointError(
            f"the weights' description of their shared classifier does not fit ({error}): give a file that raydfkd wrote"
        ) from error


def _assemble(
    backbone: nn.Module, projector: ClassifierSharingProjector, head: nn.Linear, map_layer: str | None, own_head: str | None
) -> SharedClassifierStudent:
    if own_head is not None:
        parent, _, name = own_head.rpartition(".")
        setattr(backbone.get_submodule(parent), name, nn.Identity())
    student = SharedClassifierStudent(backbone, projector, head, map_layer)
    student.removed_head = own_head
    return student


def _pooled_map_shape(teacher: FrozenTeacher) -> MapShape:
    """Shape of the teacher's last map. Raises TeacherError if its mean over pixels is not what the head takes."""
    reader = teacher.feature_reader(frozenset({"maps", "embedding"}))
    with torch.no_grad():
        output = reader(probe_images(teacher.model, teacher.image_shape))
    reader.remove_hooks()
    last_map, embedding = output.maps[-1], output.embedding
    assert embedding is not None
    if not is_pooled(last_map, embedding):
        raise TeacherError(
            "the teacher's classifier cannot be shared: what its head takes is not the mean over pixels of its last map "
            f"({list(last_map.shape[1:])}); name the map that is pooled last in its feature_layers, or choose another objective"
        )
    return (last_map.shape[1], last_map.shape[2], last_map.shape[3])


def _freeze_unused(student: SharedClassifierStudent, image_shape: ImageShape) -> None:
    """Parameters that the logits do not depend on: data-parallel training treats one without gradient as an error."""
    trained = [parameter for parameter in student.parameters() if parameter.requires_grad]
    with evaluating(student):
        logits = student(probe_images(student.backbone, image_shape))
    gradients = torch.autograd.grad(logits.sum(), trained, allow_unused=True)
    for parameter, gradient in zip(trained, gradients, strict=True):
        if gradient is None:
            parameter.requires_grad_(False)


def _conv_norm_relu(in_width: int, out_width: int, kernel: int) -> tuple[nn.Module, ...]:
    conv = nn.Conv2d(in_width, out_width, kernel, padding=kernel // 2, bias=False)
    return conv, nn.BatchNorm2d(out_width), nn.ReLU(inplace=True)


def _frozen_copy(head: nn.Linear) -> nn.Linear:
    """Not a deep copy, which would copy hooks too."""
    device, dtype = head.weight.device, head.weight.dtype
    bias = head.bias is not None
    copy = nn.utils.skip_init(nn.Linear, head.in_features, head.out_features, bias=bias, device=device, dtype=dtype)
    copy.load_state_dict(head.state_dict())
    return copy.requires_grad_(False)
