"""NetGraft: what is trained in each stage, its loss, and that absorbing the adapters changes nothing."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from raydfkd.augment.config import AugmentationConfig
from raydfkd.distillation.few_shot.few_shot_method import FewShotParts
from raydfkd.distillation.few_shot.netgraft import Graft, NetGraftConfig, first_grafted, train, vggs
from raydfkd.errors import ConfigError
from raydfkd.losses.logit_distillation import normalized_logits_per_sample
from raydfkd.models.catalog import build_classifier
from raydfkd.models.classifiers.pruning import draw_anew, find_chain, shrink, strongest_filters
from raydfkd.models.classifiers.vgg import VGG
from raydfkd.models.teachers.teacher import FrozenTeacher

SHAPE = (3, 8, 8)
CLASSES = 5
SHORT: dict[str, Any] = {"first_block_epochs": 2, "block_epochs": 1, "network_epochs": 1}


def narrow(network: nn.Module, ratio: float, keep_blocks: int = 0) -> nn.Module:
    """The network with fewer filters behind its first blocks."""
    chain = find_chain(network, SHAPE)
    kept = strongest_filters(network, chain, ratio, [f"block{number}" for number in range(keep_blocks, 5)])
    return draw_anew(shrink(copy.deepcopy(network), chain, kept))


def thin_vgg(seed: int) -> VGG:
    """A VGG-8 of a sixteenth of its width, so that a test takes no second."""
    torch.manual_seed(seed)
    network = narrow(build_classifier("vgg8_bn", CLASSES, SHAPE), 15 / 16)
    assert isinstance(network, VGG)
    return network


def parts_of(keep_blocks: int = 0, ratio: float = 0.5, num_images: int = 20) -> FewShotParts:
    teacher = FrozenTeacher(thin_vgg(0), CLASSES, SHAPE, (0.5,) * 3, (0.3,) * 3)
    torch.manual_seed(2)
    student = narrow(teacher.model, ratio, keep_blocks)
    images = torch.randint(0, 256, (num_images, *SHAPE), generator=torch.Generator().manual_seed(3), dtype=torch.uint8)
    augmentations = AugmentationConfig().resolve(1, False)
    return FewShotParts(teacher, student, images, None, augmentations, torch.device("cpu"), seed=4)


def graft_of(parts: FewShotParts) -> Graft:
    teacher, student = vggs(parts.teacher.model, parts.student)
    torch.manual_seed(5)
    return Graft(teacher, student, first_grafted(teacher, student), parts.device)


def test_the_loss_is_the_squared_distance_of_the_unit_vectors() -> None:
    student, teacher = torch.tensor([[3.0, 4.0], [1.0, 0.0]]), torch.tensor([[0.0, 2.0], [-7.0, 0.0]])
    expected = torch.tensor([0.6**2 + (0.8 - 1) ** 2, 4.0])
    torch.testing.assert_close(normalized_logits_per_sample(student, teacher), expected)
    torch.testing.assert_close(normalized_logits_per_sample(10 * student, teacher), expected)


@pytest.mark.parametrize("keep_blocks", [0, 3])
def test_the_first_grafted_block_is_the_first_that_differs(keep_blocks: int) -> None:
    parts = parts_of(keep_blocks)
    graft = graft_of(parts)
    assert graft.first == keep_blocks
    assert set(graft.adapters) == {f"{way}_{unit}" for unit in range(keep_blocks + 1, 6) for way in ("into", "out")}


@pytest.mark.parametrize(("begin", "adapters"), [(0, {"out_1"}), (2, {"into_2", "out_3"}), (5, {"into_5"})])
def test_gradients_reach_one_block_and_its_adapters_alone(begin: int, adapters: set[str]) -> None:
    parts = parts_of()
    graft = graft_of(parts)
    parts.student.train()
    view = torch.randn(4, *SHAPE)
    logits = graft.logits(view, begin, begin + 1)
    normalized_logits_per_sample(logits, torch.randn(4, CLASSES)).sum().backward()
    block = "classifier" if begin == 5 else f"block{begin}"
    touched = {name.split(".")[0] for name, parameter in parts.student.named_parameters() if parameter.grad is not None}
    assert touched == {block}
    assert {name for name, layer in graft.adapters.items() if layer.weight.grad is not None} == adapters
    assert all(parameter.grad is None for parameter in parts.teacher.parameters())
    trained = {id(p) for layer in graft.adapters_of(begin, begin + 1) for p in layer.parameters()}
    assert trained == {id(graft.adapters[name].weight) for name in adapters}


def test_a_grafted_span_is_the_teacher_with_these_blocks_between_adapters() -> None:
    parts = parts_of()
    graft = graft_of(parts)
    teacher, student = graft.teacher, graft.student.eval()
    view = torch.randn(3, *SHAPE)
    x = F.max_pool2d(teacher.block0(view), 2)
    x = F.max_pool2d(student.block1(graft.adapters["into_1"](x)), 2)
    x = graft.adapters["into_2"](graft.adapters["out_2"](x))
    x = graft.adapters["out_3"](F.max_pool2d(student.block2(x), 2))
    x = teacher.block4(teacher.block3(x))
    torch.testing.assert_close(graft.logits(view, 1, 3), teacher.classifier(x.mean((2, 3))))
    torch.testing.assert_close(graft.logits(view, 0, 0), teacher(view))


@pytest.mark.parametrize("keep_blocks", [0, 3])
def test_absorbing_the_adapters_leaves_the_students_function_as_it_was(keep_blocks: int) -> None:
    parts = parts_of(keep_blocks)
    graft = graft_of(parts)
    student = graft.student.eval()
    view = torch.randn(3, *SHAPE)
    with torch.no_grad():
        expected = graft.logits(view, graft.first, graft.num_units)
        graft.absorb()
        torch.testing.assert_close(student(view), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("keep_blocks", [0, 3])
def test_both_stages_train_every_grafted_block_and_no_other_network(keep_blocks: int) -> None:
    parts = parts_of(keep_blocks)
    before = {name: tensor.clone() for name, tensor in parts.student.state_dict().items()}
    of_teacher = parts.teacher.state_sha256()
    steps = list(train(NetGraftConfig(**SHORT), parts))
    grafted = 6 - keep_blocks
    assert steps[-1].done == steps[-1].total == 2 + (grafted - 1) + (grafted - 1)
    spans = [(step.metrics["first_block"], step.metrics["last_block"]) for step in steps]
    assert spans == [(unit, unit) for unit in range(keep_blocks, 6)] + [(keep_blocks, end) for end in range(keep_blocks + 1, 6)]
    after = parts.student.state_dict()
    changed = {name.split(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert changed == {f"block{number}" for number in range(5)} | {"classifier"}  # the first of them became the teacher's
    for number in range(keep_blocks):
        for name, tensor in parts.teacher.model.blocks[number].state_dict().items():
            assert torch.equal(after[f"block{number}.{name}"], tensor)
    assert parts.teacher.state_sha256() == of_teacher
    statistics = after["block4.1.num_batches_tracked"] - before["block4.1.num_batches_tracked"]
    assert statistics == 3, "alone, with those before it, and with the classifier: each a step in training mode"


def test_the_loss_falls_and_the_seed_repeats_the_student() -> None:
    config = NetGraftConfig(first_block_epochs=20, block_epochs=3, network_epochs=3, batch_size=16)
    states = []
    for _ in range(2):
        parts = parts_of(keep_blocks=3)
        losses = [step.metrics["loss"] for step in train(config, parts)]
        states.append(parts.student.state_dict())
    assert losses[1] < losses[0], "the first grafted block learns"
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_batch_size_and_learning_rates_are_those_of_ten_images_a_class(monkeypatch: pytest.MonkeyPatch) -> None:
    """20 images of 5 classes are 4 a class: 0.4 of the published values."""
    seen = []
    adam = torch.optim.Adam

    def noted(groups: list[dict[str, Any]]) -> torch.optim.Adam:
        seen.append([group["lr"] for group in groups])
        return adam(groups)

    monkeypatch.setattr(torch.optim, "Adam", noted)
    list(train(NetGraftConfig(**SHORT), parts_of(keep_blocks=3)))
    assert seen[0] == pytest.approx([0.4 * 2.5e-4, 0.4 * 2.5e-3])
    assert seen[-1] == [1e-4, 1e-4]


def test_networks_without_the_same_blocks_are_refused() -> None:
    vgg, other = thin_vgg(0), build_classifier("small_cnn_4", CLASSES, SHAPE)
    with pytest.raises(ConfigError, match=r"teacher \(VGG\) and student \(SmallCNN\) do not consist of the same ones: use VGG"):
        vggs(vgg, other)
    with pytest.raises(ConfigError, match="nothing to graft, because the student's blocks are the teacher's: choose a smaller"):
        first_grafted(vgg, copy.deepcopy(vgg))
