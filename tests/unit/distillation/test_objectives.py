"""The student objectives as the distiller sees them: outputs in, a loss a sample out, published scalars as batch means."""

from __future__ import annotations

import copy
import subprocess
import sys
from typing import Any, get_args

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from torch import Tensor
from torch.nn import functional as F

from raydfkd.distillation.config import KLObjectiveConfig as ConfiguredKL
from raydfkd.distillation.objectives import OBJECTIVES, build_objective
from raydfkd.distillation.objectives.base import FeatureShapes, NetworkOutput, Objective
from raydfkd.distillation.objectives.config import KLObjectiveConfig, ObjectiveConfig
from raydfkd.distillation.objectives.semckd import SemCKDObjective
from raydfkd.errors import ConfigError, UnknownNameError
from raydfkd.losses.distillation import kd_loss_per_sample
from raydfkd.losses.feature_distillation import (
    correlation_loss_per_sample,
    relational_angle_loss_per_sample,
    relational_distance_loss_per_sample,
    similarity_matrix,
)
from raydfkd.losses.logit_distillation import (
    decoupled_kd_per_sample,
    normalized_kd_per_sample,
    ofa_loss_per_sample,
)
from raydfkd.models.catalog import build_classifier
from raydfkd.models.features import FeatureReader
from raydfkd.models.shared_classifier import share_classifier
from raydfkd.models.teacher import FrozenTeacher

CLASSES = 5
STUDENT = FeatureShapes(((3, 8, 8), (4, 8, 8), (6, 4, 4)), 6)
TEACHER = FeatureShapes(((4, 8, 8), (6, 4, 4), (8, 2, 2), (8, 2, 2)), 8)
ALIGNED = FeatureShapes(((3, 8, 8), (8, 2, 2)), 8)
"""What a student with its teacher's classifier gives."""
KINDS = sorted(OBJECTIVES)


def config_of(kind: str, **settings: Any) -> ObjectiveConfig:
    return TypeAdapter(ObjectiveConfig).validate_python({"kind": kind, **settings})


def build(kind: str, batch_size: int = 4, **settings: Any) -> Objective:
    torch.manual_seed(7)
    student = ALIGNED if kind == "classifier_sharing" else STUDENT
    return build_objective(config_of(kind, **settings), student, TEACHER, CLASSES, batch_size)


def outputs(shapes: FeatureShapes, seed: int, batch_size: int = 4, dtype: torch.dtype = torch.float32) -> NetworkOutput:
    """Leaves that require a gradient; the embedding is what pooling makes of the last map."""
    generator = torch.Generator().manual_seed(seed)

    def noise(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    maps = tuple(noise(batch_size, *shape).abs().requires_grad_() for shape in shapes.maps)
    assert shapes.embedding is not None
    return NetworkOutput(
        (3 * noise(batch_size, CLASSES)).requires_grad_(),
        maps,
        noise(batch_size, shapes.embedding).requires_grad_(),
        noise(CLASSES, shapes.embedding).requires_grad_(),
    )


def pair(kind: str, batch_size: int = 4, dtype: torch.dtype = torch.float32) -> tuple[NetworkOutput, NetworkOutput]:
    shapes = ALIGNED if kind == "classifier_sharing" else STUDENT
    return outputs(shapes, 0, batch_size, dtype), outputs(TEACHER, 1, batch_size, dtype)


def asked_for(output: NetworkOutput, needs: frozenset[str]) -> NetworkOutput:
    return NetworkOutput(
        output.logits,
        output.maps if "maps" in needs else (),
        output.embedding if "embedding" in needs else None,
        output.head_weight if "head" in needs else None,
    )


def tensors(output: NetworkOutput) -> list[Tensor]:
    return [x for x in (output.logits, *output.maps, output.embedding, output.head_weight) if x is not None]


def cross_entropy(student: NetworkOutput, teacher: NetworkOutput) -> Tensor:
    return F.cross_entropy(student.logits, teacher.logits.argmax(1))


# What all of them keep to


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
    for name, parameter in objective.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in objective.parameters()) or not list(
        objective.parameters()
    )
    reached = [x.grad is not None and bool(x.grad.abs().sum() > 0) for x in tensors(student)]
    stem = 1 if len(student.maps) > 1 else 0
    expected = [kind != "classifier_sharing"] + [True] * (len(reached) - 1)
    if len(student.maps) > 0:
        # The stem's map is nobody's; CAT-KD and classifier sharing read the last map alone.
        only_last = kind in ("cat_kd", "classifier_sharing")
        for index in range(len(student.maps)):
            expected[1 + index] = index == len(student.maps) - 1 if only_last else index >= stem
    assert reached == expected


@pytest.mark.parametrize("kind", KINDS)
def test_bfloat16_outputs_give_float32_losses(kind: str) -> None:
    student, teacher = pair(kind, dtype=torch.bfloat16)
    losses = build(kind)(student, teacher, 0.5)
    assert losses.dtype == torch.float32
    exact = build(kind)(*pair(kind), 0.5)
    torch.testing.assert_close(losses, exact, rtol=0.3, atol=0.3)
    with torch.autocast("cpu", torch.bfloat16):
        assert build(kind)(student, teacher, 0.5).dtype == torch.float32


@pytest.mark.parametrize("kind", KINDS)
def test_an_objective_is_repeatable_and_its_state_is_complete(kind: str) -> None:
    one, twin = build(kind), build(kind)
    torch.manual_seed(99)
    other = copy.deepcopy(one)
    for parameter in other.parameters():
        torch.nn.init.normal_(parameter)
    other.load_state_dict(one.state_dict())
    student, teacher = pair(kind)
    expected = one(student, teacher, 0.5)
    assert torch.equal(twin(student, teacher, 0.5), expected)
    assert torch.equal(other(student, teacher, 0.5), expected)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "dkd"])
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
    ],
)
def test_every_other_setting_changes_the_loss(kind: str, settings: dict[str, Any]) -> None:
    student, teacher = pair(kind)
    assert not torch.allclose(build(kind)(student, teacher, 0.5), build(kind, **settings)(student, teacher, 0.5))


# Each against its scalar


def test_kl_is_todays_loss_bit_for_bit() -> None:
    student, teacher = pair("kl")
    assert torch.equal(build("kl")(student, teacher, 0.0), kd_loss_per_sample(student.logits, teacher.logits, 20.0))


def test_vanilla_kd_is_a_tenth_of_cross_entropy_and_nine_tenths_of_kl() -> None:
    student, teacher = pair("vanilla_kd")
    soft = 16 * F.kl_div(
        (student.logits / 4).log_softmax(1), (teacher.logits / 4).log_softmax(1), log_target=True, reduction="batchmean"
    )
    expected = 0.1 * cross_entropy(student, teacher) + 0.9 * soft
    torch.testing.assert_close(build("vanilla_kd")(student, teacher, 0.0).mean(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("progress", "ramp"), [(0.0, 0.0), (1 / 24, 0.5), (1 / 12, 1.0), (0.7, 1.0)])
def test_dkd_warms_up_over_20_of_240_epochs(progress: float, ramp: float) -> None:
    student, teacher = pair("dkd")
    target, non_target = decoupled_kd_per_sample(student.logits, teacher.logits, 4.0)
    expected = cross_entropy(student, teacher) + ramp * (target + 8 * non_target).mean()
    torch.testing.assert_close(build("dkd")(student, teacher, progress).mean(), expected, rtol=1e-4, atol=1e-5)
    immediate = build("dkd", warmup_fraction=0.0)(student, teacher, 0.0)
    torch.testing.assert_close(immediate, build("dkd")(student, teacher, 1.0))


def test_nkd_and_rkd_are_their_sums() -> None:
    student, teacher = pair("nkd")
    nkd = cross_entropy(student, teacher) + normalized_kd_per_sample(student.logits, teacher.logits, 1.0, 1.5).mean()
    torch.testing.assert_close(build("nkd")(student, teacher, 0.0).mean(), nkd)
    features = (student.embedding, teacher.embedding)
    relations = 25 * relational_distance_loss_per_sample(*features) + 50 * relational_angle_loss_per_sample(*features)
    rkd = cross_entropy(student, teacher) + relations.mean()
    torch.testing.assert_close(build("rkd")(student, teacher, 0.0).mean(), rkd)


def test_correlation_embeds_both_networks_linearly() -> None:
    student, teacher = pair("correlation")
    objective = build("correlation")
    state = objective.state_dict()
    assert state["student_embedding.weight"].shape == (128, 6)
    assert state["teacher_embedding.weight"].shape == (128, 8)
    embedded = [
        F.linear(x.embedding, state[f"{name}_embedding.weight"], state[f"{name}_embedding.bias"])
        for x, name in ((student, "student"), (teacher, "teacher"))
    ]
    expected = cross_entropy(student, teacher) + 0.02 * correlation_loss_per_sample(*embedded).mean()
    torch.testing.assert_close(objective(student, teacher, 0.0).mean(), expected)


def test_cat_kd_compares_normalised_maps_of_the_heads_at_two_by_two() -> None:
    student, teacher = pair("cat_kd")
    maps = []
    for output in (student, teacher):
        cams = torch.einsum("bchw,kc->bkhw", output.maps[-1], output.head_weight)
        pooled = F.adaptive_avg_pool2d(cams, 2).flatten(2)
        maps.append(pooled / pooled.norm(dim=2, keepdim=True))
    expected = cross_entropy(student, teacher) + 400 * F.mse_loss(*maps)
    torch.testing.assert_close(build("cat_kd")(student, teacher, 0.0).mean(), expected, rtol=1e-4, atol=1e-4)


def test_semckd_is_the_published_scalar() -> None:
    """(1/(B S)) sum over samples and student layers of the attention-weighted mean squared differences, times 400."""
    student, teacher = pair("semckd")
    objective = build("semckd")
    assert isinstance(objective, SemCKDObjective)
    attention = objective.attention(student.maps[1:], teacher.maps[1:])
    assert attention.shape == (4, 2, 3)
    torch.testing.assert_close(attention.sum(2), torch.ones(4, 2))
    total = torch.zeros(())
    for s, source in enumerate(student.maps[1:]):
        for t, target in enumerate(teacher.maps[1:]):
            size = min(source.shape[2], target.shape[2])
            projected = objective.projectors[s][t](F.adaptive_avg_pool2d(source, size))  # type: ignore[index]
            errors = (projected - F.adaptive_avg_pool2d(target, size)).square().flatten(1).mean(1)
            total = total + (attention[:, s, t] * errors).sum()
    soft = kd_loss_per_sample(student.logits, teacher.logits, 4.0).mean()
    expected = cross_entropy(student, teacher) + soft + 400 * total / (4 * 2)
    torch.testing.assert_close(objective(student, teacher, 0.0).mean(), expected, rtol=1e-4, atol=1e-3)


def test_semckds_queries_are_of_the_rows_of_the_similarity_matrix() -> None:
    objective = build("semckd")
    assert isinstance(objective, SemCKDObjective)
    first, last = objective.queries[0].layers[0], objective.queries[0].layers[2]  # type: ignore[union-attr,index]
    assert (first.in_features, first.out_features, last.out_features) == (4, 4, 2)
    rows = similarity_matrix(outputs(STUDENT, 0).maps[1])
    assert rows.shape == (4, 4)
    torch.testing.assert_close(objective.queries[0](rows).norm(dim=1), torch.ones(4))
    large = build("semckd", batch_size=64)
    assert large.queries[0].layers[2].out_features == 16  # type: ignore[union-attr,index]
    with pytest.raises(ValueError, match="batches of 4, got 2"):
        objective(*pair("semckd", 2), 0.0)


@pytest.mark.parametrize("exponent", [1.0, 1.5])
def test_ofa_adds_up_its_exits(exponent: float) -> None:
    student, teacher = pair("ofa")
    objective = build("ofa", exponent=exponent)
    exits = [leave(x) for leave, x in zip(objective.exits, student.maps[1:], strict=True)]  # type: ignore[arg-type,union-attr]
    assert [x.shape for x in exits] == [(4, CLASSES)] * 2
    terms = [ofa_loss_per_sample(x, teacher.logits, exponent, 1.0).mean() for x in (student.logits, *exits)]
    expected = cross_entropy(student, teacher) + sum(terms)
    torch.testing.assert_close(objective(student, teacher, 0.0).mean(), expected, rtol=1e-4, atol=1e-5)


def test_ofas_exits_halve_the_resolution_once_for_each_later_stage() -> None:
    shapes = FeatureShapes(((4, 32, 32), (4, 32, 32), (8, 16, 16), (16, 8, 8), (32, 4, 4)), 32)
    wide = FeatureShapes((), 48)
    exits = build_objective(config_of("ofa"), shapes, wide, CLASSES, 2).exits
    sizes, widths = [], []
    for leave, shape in zip(exits, shapes.maps[1:], strict=True):  # type: ignore[arg-type]
        x = torch.zeros(2, *shape)
        for layer in leave[:-3]:
            x = layer(x)
        sizes.append(x.shape[2])
        widths.append(x.shape[1])
    assert sizes == [4, 4, 4, 4]
    assert widths == [48] * 4, "the wider of both networks' pooled features"


def test_classifier_sharing_is_zero_where_the_student_arrived() -> None:
    student, teacher = pair("classifier_sharing")
    objective = build("classifier_sharing")
    expected = F.mse_loss(student.maps[-1], teacher.maps[-1])
    torch.testing.assert_close(objective(student, teacher, 0.0).mean(), expected)
    same = NetworkOutput(student.logits, (student.maps[0], teacher.maps[-1].detach().clone().requires_grad_()))
    losses = objective(same, teacher, 0.0)
    losses.sum().backward()
    assert torch.equal(losses, torch.zeros(4))
    assert torch.equal(same.maps[-1].grad, torch.zeros(4, 8, 2, 2))
    pooled = build("classifier_sharing", alignment="pooled")(student, teacher, 0.0)
    difference = student.maps[-1].mean((2, 3)) - teacher.maps[-1].mean((2, 3))
    torch.testing.assert_close(pooled, difference.norm(dim=1))


# Together with networks


@pytest.mark.parametrize("kind", KINDS)
def test_two_steps_with_real_networks_lower_the_loss_and_leave_the_teacher(kind: str) -> None:
    torch.manual_seed(0)
    shape = (1, 8, 8)
    teacher = FrozenTeacher(build_classifier("small_cnn_8", CLASSES, shape), CLASSES, shape, (0.4,), (0.3,))
    before = teacher.state_sha256()
    student = build_classifier("wrn_10_1", CLASSES, shape)
    if kind == "classifier_sharing":
        student = share_classifier(student, teacher)
    entry = OBJECTIVES.get(kind).load()
    read_student = FeatureReader(student, entry.needs, CLASSES, shape)
    read_teacher = teacher.feature_reader(entry.teacher_needs)
    objective = build_objective(config_of(kind), read_student.shapes(), read_teacher.shapes(), CLASSES, 4)
    trained = [p for p in (*student.parameters(), *objective.parameters()) if p.requires_grad]
    optimizer = torch.optim.SGD(trained, 1e-4)
    images = torch.randn(4, *shape)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        with torch.no_grad():
            wanted = read_teacher(images)
        loss = objective(read_student(images), wanted, 1.0).mean()
        loss.backward()
        assert all(p.grad is not None for p in trained)
        optimizer.step()
        losses.append(loss.item())
    assert losses[2] < losses[0]
    assert teacher.state_sha256() == before


# Settings, names, refusals


def test_every_kind_of_setting_has_an_objective_and_the_other_way_round() -> None:
    models = get_args(get_args(ObjectiveConfig)[0])
    assert sorted(model.model_fields["kind"].default for model in models) == KINDS
    assert len(KINDS) == 10
    for model in models:
        assert config_of(model.model_fields["kind"].default) == model()
        assert model.model_config["frozen"]
    assert ConfiguredKL is KLObjectiveConfig
    with pytest.raises(ValidationError):
        config_of("dkd", tau=3)
    with pytest.raises(UnknownNameError, match="did you mean 'vanilla_kd'"):
        OBJECTIVES.get("vanila_kd")


def test_settings_and_names_load_without_torch() -> None:
    code = (
        "import sys; import raydfkd.distillation.objectives, raydfkd.distillation.objectives.config; "
        "sys.exit('torch' in sys.modules)"
    )
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
    with pytest.raises(ValueError, match="share_classifier"):
        build_objective(config_of("classifier_sharing"), STUDENT, TEACHER, CLASSES, 4)
    for kind in ("dkd", "nkd"):
        with pytest.raises(ConfigError, match="at least 2"):
            build_objective(config_of(kind), STUDENT, TEACHER, 1, 4)
