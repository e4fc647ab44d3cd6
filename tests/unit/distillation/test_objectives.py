"""What all student objectives keep to, as the distiller sees them: outputs in, a loss a sample out."""

from __future__ import annotations

import copy
import math
import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
from objective_rig import CLASSES, KINDS, SHARING, STUDENT, TEACHER, build, config_of, pair
from pydantic import ValidationError
from torch import Tensor

from raydfkd.distillation.config import StudentConfig
from raydfkd.distillation.objectives import DEFAULT_KIND, OBJECTIVES, build_objective
from raydfkd.errors import ConfigError, UnknownNameError
from raydfkd.losses.distillation import kd_loss_per_sample
from raydfkd.models.catalog import build_classifier
from raydfkd.models.features import FeatureReader
from raydfkd.models.network_output import FeatureShapes, NetworkOutput
from raydfkd.models.shared_classifier import share_classifier
from raydfkd.models.teachers.teacher import FrozenTeacher


def asked_for(output: NetworkOutput, needs: frozenset[str]) -> NetworkOutput:
    return NetworkOutput(
        output.logits,
        output.maps if "maps" in needs else (),
        output.embedding if "embedding" in needs else None,
        output.head_weight if "head" in needs else None,
        gradients=output.gradients if "gradients" in needs else (),
        perturbed=output.perturbed,
    )


def tensors(output: NetworkOutput) -> list[Tensor]:
    every = (output.logits, *output.maps, output.embedding, output.head_weight, *output.gradients)
    return [x for x in every if x is not None]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch_size", [2, 4])
def test_a_loss_a_sample_from_no_more_than_was_asked_for(kind: str, batch_size: int) -> None:
    objective = build(kind, batch_size)
    student, teacher = pair(kind, batch_size)
    student, teacher = asked_for(student, objective.needs), asked_for(teacher, objective.teacher_needs)
    losses = objective(student, teacher, 0.5)
    assert losses.shape == (batch_size,)
    assert losses.dtype == torch.float32
    assert torch.isfinite(losses).all()
    assert (losses >= 0).all(), "losses are priorities"


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_reach_the_student_and_the_objectives_own_parameters_and_not_the_teacher(kind: str) -> None:
    objective = build(kind)
    student, teacher = pair(kind)
    student, teacher = asked_for(student, objective.needs), asked_for(teacher, objective.teacher_needs)
    objective(student, teacher, 0.5).mean().backward()
    assert all(x.grad is None for x in tensors(teacher))
    own = dict(objective.trained.named_parameters())
    for name, parameter in own.items():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
    assert not own or any(p.grad is not None and p.grad.abs().sum() > 0 for p in own.values())
    reached = [x.grad is not None and bool(x.grad.abs().sum() > 0) for x in tensors(student)]
    stem = 1 if len(student.maps) > 1 else 0
    expected = [kind not in SHARING] + [True] * (len(reached) - 1)
    if len(student.maps) > 0:
        # The stem's map is nobody's; CAT-KD and classifier sharing read the last map alone.
        only_last = kind in ("cat_kd", *SHARING)
        for index in range(len(student.maps)):
            expected[1 + index] = index == len(student.maps) - 1 if only_last else index >= stem
    if kind == "msarc":
        # Through the logits too, to which the rig adds the stem's map; the head is a constant.
        expected[1], expected[-1] = True, False
    assert reached == expected


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_outputs_give_float32_losses(kind: str) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        losses = build(kind)(*pair(kind, dtype=torch.bfloat16), 0.5)
    assert losses.dtype == torch.float32
    torch.testing.assert_close(losses, build(kind)(*pair(kind), 0.5), rtol=0.3, atol=0.3)


@pytest.mark.parametrize("kind", KINDS)
def test_an_objective_is_repeatable_and_its_state_is_complete(kind: str) -> None:
    one, twin = build(kind), build(kind)
    torch.manual_seed(99)
    other = copy.deepcopy(one)
    for parameter in other.trained.parameters():
        torch.nn.init.normal_(parameter)
    other.trained.load_state_dict(one.trained.state_dict())
    student, teacher = pair(kind)
    expected = one(student, teacher, 0.5)
    assert torch.equal(twin(student, teacher, 0.5), expected)
    assert torch.equal(other(student, teacher, 0.5), expected)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in ("dkd", "kd3")])
def test_only_a_warm_up_depends_on_progress(kind: str) -> None:
    objective = build(kind)
    student, teacher = pair(kind)
    assert torch.equal(objective(student, teacher, 0.0), objective(student, teacher, 1.0))


@pytest.mark.parametrize(
    ("kind", "weight"),
    [
        ("vanilla_kd", "ce_weight"),
        ("vanilla_kd", "kl_weight"),
        ("semckd", "ce_weight"),
        ("semckd", "kl_weight"),
        ("semckd", "feature_weight"),
        ("correlation", "ce_weight"),
        ("correlation", "correlation_weight"),
        ("dkd", "ce_weight"),
        ("dkd", "target_weight"),
        ("dkd", "non_target_weight"),
        ("rkd", "ce_weight"),
        ("rkd", "distance_weight"),
        ("rkd", "angle_weight"),
        ("cat_kd", "ce_weight"),
        ("cat_kd", "map_weight"),
        ("nkd", "ce_weight"),
        ("nkd", "non_target_weight"),
        ("ofa", "ce_weight"),
        ("ofa", "logit_weight"),
        ("ofa", "stage_weight"),
        ("attention_transfer", "attention_weight"),
        ("msarc", "class_map_weight"),
        ("msarc", "stage_map_weight"),
    ],
)
def test_the_loss_is_linear_in_each_weight(kind: str, weight: str) -> None:
    student, teacher = pair(kind)
    none, one, three = (build(kind, **{weight: value})(student, teacher, 0.5) for value in (0.0, 1.0, 3.0))
    assert not torch.allclose(none, one)
    torch.testing.assert_close(three - none, 3 * (one - none), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("kl", {"temperature": 2.0}),
        ("kl", {"temperature": 1.0, "teacher_output": "one_hot"}),
        ("vanilla_kd", {"temperature": 2.0}),
        ("semckd", {"temperature": 2.0}),
        ("semckd", {"attention_temperature": 0.1}),
        ("correlation", {"embedding_dim": 3}),
        ("dkd", {"temperature": 2.0}),
        ("dkd", {"warmup_fraction": 1.0}),
        ("cat_kd", {"normalize": False}),
        ("cat_kd", {"resolution": 1}),
        ("nkd", {"temperature": 2.0}),
        ("ofa", {"temperature": 2.0}),
        ("ofa", {"exponent": 1.5}),
        ("classifier_sharing", {"alignment": "pooled"}),
        ("attention_transfer", {"temperature": 2.0}),
        ("msarc", {"temperature": 2.0}),
        ("dfnd", {"temperature": 2.0}),
        ("dfnd", {"teacher_accuracy": 0.7}),
        ("kd3", {"confidence": 0.95}),
        ("kd3", {"contrast_weight": 1.0}),
    ],
)
def test_every_other_setting_changes_the_loss(kind: str, settings: dict[str, Any]) -> None:
    student, teacher = pair(kind)
    assert not torch.allclose(build(kind)(student, teacher, 0.5), build(kind, **settings)(student, teacher, 0.5))


# Together with networks


@pytest.mark.parametrize("kind", KINDS)
def test_two_steps_with_real_networks_lower_the_loss_and_leave_the_teacher(kind: str) -> None:
    torch.manual_seed(0)
    shape = (1, 8, 8)
    teacher = FrozenTeacher(build_classifier("small_cnn_8", CLASSES, shape), CLASSES, shape, (0.4,), (0.3,))
    before = teacher.state_sha256()
    student = build_classifier("small_cnn_4" if kind in ("attention_transfer", "msarc") else "wrn_10_1", CLASSES, shape)
    if kind in SHARING:
        student = share_classifier(student, teacher)
    reads = OBJECTIVES.get(kind).objective
    read_student = FeatureReader(student, reads.needs, CLASSES, shape)
    read_teacher = teacher.feature_reader(reads.teacher_needs)
    objective = build_objective(config_of(kind), read_student.shapes(), read_teacher.shapes(), CLASSES, 4)
    trained = [p for p in (*student.parameters(), *objective.trained.parameters()) if p.requires_grad]
    optimizer = torch.optim.SGD(trained, 1e-4)
    images = torch.randn(4, *shape)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        with torch.no_grad():
            wanted = read_teacher(images)
        seen, other = read_student(images), objective.perturbed_view(images, torch.Generator().manual_seed(0))
        if other is not None:
            seen = replace(seen, perturbed=read_student(other))
        loss = objective(seen, wanted, 1.0).mean()
        loss.backward()
        assert all(p.grad is not None for p in trained)
        optimizer.step()
        losses.append(loss.item())
    assert losses[2] < losses[0]
    assert teacher.state_sha256() == before


# Settings, names, refusals


def test_settings_are_those_of_the_kind_that_they_name() -> None:
    assert len(KINDS) == 15
    for kind in KINDS:
        settings = config_of(kind)
        assert type(settings) is OBJECTIVES.get(kind).config
        assert settings.kind == kind
    with pytest.raises(ValidationError):
        config_of("dkd", tau=3)
    with pytest.raises(UnknownNameError, match="did you mean 'vanilla_kd'"):
        OBJECTIVES.get("vanila_kd")


def test_a_student_without_a_kind_of_objective_has_the_default_kind() -> None:
    assert StudentConfig(model="x").objective == config_of(DEFAULT_KIND)
    named = StudentConfig.model_validate({"model": "x", "objective": {"temperature": 3}})
    assert named.objective == config_of(DEFAULT_KIND, temperature=3)


@pytest.mark.parametrize("kind", KINDS)
def test_a_synthesizer_may_give_first_priorities_only_where_the_loss_is_kd_and_nothing_else(kind: str) -> None:
    student, teacher = pair(kind)
    temperature = config_of(kind).first_priority_temperature
    assert (temperature is not None) is (kind == "kl")
    if temperature is not None:
        later = build(kind)(student, teacher, 0.5)
        assert torch.equal(later, kd_loss_per_sample(student.logits, teacher.logits, temperature))


def test_a_hard_label_or_a_paced_loss_is_no_kd_loss() -> None:
    for output in ("one_hot", "smoothed"):
        assert config_of("kl", temperature=1.0, teacher_output=output).first_priority_temperature is None
    assert config_of("kl", self_pacing={}).first_priority_temperature is None


@pytest.mark.parametrize("kind", KINDS)
def test_self_pacing_weighs_the_losses_of_any_objective(kind: str) -> None:
    """A quarter on the way from 1 to 5 lambda is 2; the weights have no gradient."""
    student, teacher = pair(kind)
    plain = build(kind)(student, teacher, 0.25)
    paced = build(kind, self_pacing={"start": 1, "end": 5})(student, teacher, 0.25)
    weights = (1 + math.exp(-2)) / (1 + torch.exp(plain.detach() - 2))
    torch.testing.assert_close(paced, weights * plain)
    (expected,) = torch.autograd.grad((weights * plain).sum(), student.logits, retain_graph=True, allow_unused=True)
    (found,) = torch.autograd.grad(paced.sum(), student.logits, allow_unused=True)
    assert (found is None) is (expected is None)
    if found is not None:
        torch.testing.assert_close(found, expected)


def test_settings_and_names_load_without_torch() -> None:
    code = "import sys; import raydfkd.distillation.config; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_networks_that_do_not_fit_are_refused() -> None:
    stem_only = FeatureShapes(((4, 8, 8),), 4)
    for kind in ("semckd", "ofa"):
        with pytest.raises(ConfigError, match=rf"'{kind}'.*student gives 1 maps.*feature_layers"):
            build_objective(config_of(kind), stem_only, TEACHER, CLASSES, 4)
    with pytest.raises(ConfigError, match="teacher gives 1 maps"):
        build_objective(config_of("semckd"), STUDENT, stem_only, CLASSES, 4)
    with pytest.raises(ConfigError, match=r"'cat_kd'.*teacher's head takes 9 features and its last map has 8 channels"):
        build_objective(config_of("cat_kd"), STUDENT, FeatureShapes(TEACHER.maps, 9), CLASSES, 4)
    with pytest.raises(ConfigError, match=r"'msarc'.*the student has 2 and the teacher 3: name as many layers"):
        build_objective(config_of("msarc"), STUDENT, TEACHER, CLASSES, 4)
    with pytest.raises(ConfigError, match=r"'attention_transfer'.* of 8x8, 4x4 pixels, those of the teacher of 4x4, 2x2, 2x2"):
        build_objective(config_of("attention_transfer"), STUDENT, TEACHER, CLASSES, 4)
    with pytest.raises(ValidationError, match="objective msarc differentiates both networks within a step, which compile"):
        StudentConfig.model_validate({"model": "x", "objective": {"kind": "msarc"}, "compile": True})
    for kind in SHARING:
        with pytest.raises(ValueError, match="share_classifier"):
            build_objective(config_of(kind), STUDENT, TEACHER, CLASSES, 4)
    for kind in ("dkd", "nkd", "dfnd"):
        with pytest.raises(ConfigError, match="at least 2"):
            build_objective(config_of(kind), STUDENT, TEACHER, 1, 4)
