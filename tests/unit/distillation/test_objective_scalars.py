"""Each student objective's batch mean against the published scalar, computed here on its own."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from objective_rig import CLASSES, STUDENT, TEACHER, build, config_of, outputs, pair
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional as F

from raydfkd.distillation.objectives import build_objective
from raydfkd.distillation.objectives.msarc import MSARCObjective
from raydfkd.distillation.objectives.ofa import OFAObjective
from raydfkd.distillation.objectives.semckd import SemCKDObjective
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
from raydfkd.models.network_output import FeatureShapes, NetworkOutput
from raydfkd.models.teachers.teacher import FrozenTeacher


def cross_entropy(student: NetworkOutput, teacher: NetworkOutput) -> Tensor:
    return F.cross_entropy(student.logits, teacher.logits.argmax(1))


def test_kl_is_todays_loss_bit_for_bit() -> None:
    student, teacher = pair("kl")
    assert torch.equal(build("kl")(student, teacher, 0.0), kd_loss_per_sample(student.logits, teacher.logits, 20.0))


def test_kl_can_learn_the_teachers_choice_alone_smoothed_or_not() -> None:
    student, teacher = pair("kl")
    hard = build("kl", temperature=1.0, teacher_output="one_hot")(student, teacher, 0.0)
    torch.testing.assert_close(hard.mean(), cross_entropy(student, teacher))
    label = F.one_hot(teacher.logits.argmax(1), CLASSES) * 0.7 + 0.3 / CLASSES
    smoothed = build("kl", temperature=1.0, teacher_output="smoothed", label_smoothing=0.3)(student, teacher, 0.0)
    expected = F.kl_div(student.logits.log_softmax(1), label, reduction="batchmean")
    torch.testing.assert_close(smoothed.mean(), expected)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"teacher_output": "one_hot"}, "is not softened: set temperature to 1"),
        ({"teacher_output": "smoothed", "temperature": 2.0}, "is not softened: set temperature to 1"),
        ({"label_smoothing": 0.2}, "does not use label_smoothing"),
        ({"teacher_output": "one_hot", "temperature": 1.0, "label_smoothing": 0.2}, "does not use label_smoothing"),
    ],
)
def test_kl_refuses_what_its_teacher_output_would_ignore(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        config_of("kl", **settings)


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
    state = objective.trained.state_dict()
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


def test_semckds_attention_is_of_the_rows_of_the_similarity_matrices() -> None:
    """A softmax over the teacher's stages of q . k, both of length 1."""
    objective = build("semckd")
    assert isinstance(objective, SemCKDObjective)
    first, _, last = objective.query_mlps[0]
    assert (first.in_features, first.out_features, last.out_features) == (4, 4, 2)
    maps = outputs(STUDENT, 0).maps[1:], outputs(TEACHER, 1).maps[1:]
    queries, keys = (
        torch.stack([F.normalize(mlp(similarity_matrix(x)), dim=1) for mlp, x in zip(mlps, stages, strict=True)], 1)
        for mlps, stages in zip((objective.query_mlps, objective.key_mlps), maps, strict=True)
    )
    expected = torch.einsum("bse,bte->bst", queries, keys).softmax(2)
    torch.testing.assert_close(objective.attention(*maps), expected)
    large = build("semckd", batch_size=64)
    assert isinstance(large, SemCKDObjective)
    assert large.query_mlps[0][2].out_features == 16
    with pytest.raises(ValueError, match="batches of 4, got 2"):
        objective(*pair("semckd", 2), 0.0)


@pytest.mark.parametrize("exponent", [1.0, 1.5])
def test_ofa_adds_up_its_exits(exponent: float) -> None:
    student, teacher = pair("ofa")
    objective = build("ofa", exponent=exponent)
    assert isinstance(objective, OFAObjective)
    exits = [leave(x) for leave, x in zip(objective.exits, student.maps[1:], strict=True)]
    assert [x.shape for x in exits] == [(4, CLASSES)] * 2
    terms = [ofa_loss_per_sample(x, teacher.logits, exponent, 1.0).mean() for x in (student.logits, *exits)]
    expected = cross_entropy(student, teacher) + sum(terms)
    torch.testing.assert_close(objective(student, teacher, 0.0).mean(), expected, rtol=1e-4, atol=1e-5)


def test_ofas_exits_halve_the_resolution_once_for_each_later_stage() -> None:
    shapes = FeatureShapes(((4, 32, 32), (4, 32, 32), (8, 16, 16), (16, 8, 8), (32, 4, 4)), 32)
    wide = FeatureShapes((), 48)
    objective = build_objective(config_of("ofa"), shapes, wide, CLASSES, 2)
    assert isinstance(objective, OFAObjective)
    sizes, widths = [], []
    for leave, shape in zip(objective.exits, shapes.maps[1:], strict=True):
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


def test_attention_transfer_is_zskts_published_scalar() -> None:
    """Of one family: KL averaged over all elements, and 250 times the stages' mean squared differences of attention."""
    student, teacher = pair("attention_transfer")
    expected = F.kl_div(student.logits.log_softmax(1), teacher.logits.softmax(1), reduction="batchmean") / CLASSES
    for own, theirs in zip(student.maps[1:], teacher.maps[1:], strict=True):
        attention = [x.pow(2).mean(1).flatten(1) for x in (own, theirs)]
        unit = [x / x.norm(dim=1, keepdim=True) for x in attention]
        expected = expected + 250 * (unit[0] - unit[1]).pow(2).mean()
    torch.testing.assert_close(build("attention_transfer")(student, teacher, 0.0).mean(), expected, rtol=1e-4, atol=1e-5)


def test_msarc_is_the_published_scalar_of_networks() -> None:
    """Gradients of both networks are those of the class that the teacher predicts."""
    torch.manual_seed(0)
    shape = (1, 8, 8)
    networks = [build_classifier(name, CLASSES, shape) for name in ("small_cnn_4", "small_cnn_6")]
    with torch.no_grad():
        for network in networks:
            network.fc.weight.mul_(20)  # so that they predict several classes
    networks[1].eval()
    teacher = FrozenTeacher(copy.deepcopy(networks[1]), CLASSES, shape, (0.4,), (0.3,))
    needs = MSARCObjective.needs, MSARCObjective.teacher_needs
    read_student = FeatureReader(networks[0], needs[0], CLASSES, shape)
    read_teacher = teacher.feature_reader(needs[1])
    objective = build_objective(config_of("msarc"), read_student.shapes(), read_teacher.shapes(), CLASSES, 6)
    images = torch.randn(6, *shape)
    with torch.no_grad():
        wanted = read_teacher(images)
    found = objective(read_student(images), wanted, 0.0)

    (s_maps, s), (t_maps, t) = ((maps, n.pool_and_classify(maps[-1])) for n in networks for maps in [n.forward_maps(images)])
    p, q = (t / 30).log_softmax(1).exp(), (s / 30).log_softmax(1).exp()
    expected = 900 * (p * (p.log() - q.log())).mean()
    heads = [n.fc.weight for n in networks]
    expected = expected + F.mse_loss(
        *(torch.einsum("bchw,kc->bkhw", m[-1], w) for m, w in zip((s_maps, t_maps), heads, strict=True))
    )
    predicted = t.argmax(1)
    assert (s.argmax(1) != predicted).any()
    for stage in (1, 2):
        cams = []
        for maps, logits in ((s_maps, s), (t_maps, t)):
            chosen = logits[torch.arange(6), predicted].sum()
            (gradient,) = torch.autograd.grad(chosen, maps[stage], retain_graph=True)
            cams.append((maps[stage] * gradient.mean((2, 3), keepdim=True)).sum(1))
        expected = expected + F.mse_loss(*cams)
    assert found.shape == (6,)
    torch.testing.assert_close(found.mean(), expected, rtol=1e-4, atol=1e-6)
