"""Reading maps, embeddings and heads: of the catalog, of foreign networks, and what is said where it cannot be done."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from raydfkd.errors import ConfigError, TeacherError
from raydfkd.models.catalog import CLASSIFIERS, build_classifier
from raydfkd.models.features import (
    FeatureReader,
    MapClassifier,
    capture,
    find_head,
    join_outputs,
    stage_layers,
)
from raydfkd.models.teachers.teacher import FrozenTeacher

SHAPE = (3, 16, 16)
EVERYTHING = frozenset({"maps", "embedding", "head"})
SAME_CODE_AS_A_SMALLER_ONE = {
    *("resnet34", "resnet50", "resnet32", "resnet44", "resnet56", "resnet110", "resnet110x2", "resnet116", "resnet32x4"),
    *("vgg11_bn", "vgg13_bn", "vgg16_bn", "wrn_40_1", "wrn_40_2", "mobilenet_v2_crd"),
}


class Foreign(nn.Module):
    """Knows nothing of maps; one ReLU module serves several layers, as in torchvision's ResNets."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 4, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.layer2 = nn.Sequential(nn.Conv2d(4, 6, 1), nn.Conv2d(6, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU())
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.dropout = nn.Dropout(0.5)
        self.fc = nn.Linear(6, 5)

    def forward(self, images: Tensor) -> Tensor:
        x = self.layer2(self.layer1(self.relu(self.conv1(images))))
        return self.fc(self.dropout(self.pool(x).flatten(1)))


def images(num: int = 2) -> Tensor:
    return torch.randn(num, *SHAPE, generator=torch.Generator().manual_seed(1))


def reader_of(network: nn.Module, needs: frozenset = EVERYTHING, **settings: Any) -> FeatureReader:
    return FeatureReader(network, needs, 5, SHAPE, **settings)


def foreign() -> Foreign:
    torch.manual_seed(0)
    return Foreign()


def seeded(name: str) -> nn.Module:
    torch.manual_seed(0)
    return build_classifier(name, 5, SHAPE).eval()


OF_PIXELS = {name for name in CLASSIFIERS if name.startswith(("deeplabv3_", "small_unet_"))}
"""They have no map that is pooled."""


@pytest.mark.parametrize("name", sorted(set(CLASSIFIERS) - SAME_CODE_AS_A_SMALLER_ONE - OF_PIXELS))
def test_every_classifier_of_the_catalog_gives_its_maps_and_the_last_one_makes_the_logits(name: str) -> None:
    network = seeded(name)
    assert isinstance(network, MapClassifier)
    with torch.no_grad():
        expected = network(images())
        maps = network.forward_maps(images())
        assert torch.equal(network.pool_and_classify(maps[-1]), expected)
        assert torch.equal(network.forward_maps(images())[0], maps[0]), "a later layer writes into a map"
    assert len(maps) >= 3
    sizes = [x.shape[-1] for x in maps]
    assert sizes == sorted(sizes, reverse=True)
    if not name.startswith("planar_cnn"):  # its two features lie on all sides of the origin
        assert (maps[-1] >= 0).all(), "the last map is activated"
    head = network.get_submodule(find_head(network, None, 5) or "")
    assert isinstance(head, nn.Linear)
    if name.startswith("conv_net"):  # its head takes the map's pixels
        assert maps[-1][0].numel() == head.in_features
        return
    assert maps[-1].shape[1] == head.in_features
    torch.testing.assert_close(head(maps[-1].mean((2, 3))), expected)


def test_four_stages_of_a_resnet_and_three_of_a_wrn() -> None:
    for name, expected in (
        ("resnet18", [(64, 16), (64, 16), (128, 8), (256, 4), (512, 2)]),
        ("wrn_16_2", [(16, 16), (32, 16), (64, 8), (128, 4)]),
        ("vgg8_bn", [(64, 16), (128, 8), (256, 4), (512, 2), (512, 2)]),
    ):
        with torch.device("meta"):
            maps = build_classifier(name, 5, SHAPE).forward_maps(torch.zeros(2, *SHAPE))
        assert [(x.shape[1], x.shape[2]) for x in maps] == expected


@pytest.mark.parametrize("name", ["small_cnn_4", "foreign"])
def test_a_reader_gives_what_was_asked_for(name: str) -> None:
    network = foreign().eval() if name == "foreign" else seeded(name)
    output = reader_of(network)(images())
    assert torch.equal(output.logits, network(images()))
    assert output.embedding is not None
    torch.testing.assert_close(output.embedding, output.maps[-1].mean((2, 3)))
    assert output.head_weight is network.fc.weight
    shapes = reader_of(network).shapes()
    assert shapes.maps == tuple(tuple(x.shape[1:]) for x in output.maps)
    assert shapes.embedding == network.fc.in_features
    for needs in ("maps", "embedding", "head"):
        part = reader_of(network, frozenset({needs}))(images())
        assert (len(part.maps) > 0) is (needs == "maps")
        assert (part.embedding is not None) is (needs == "embedding")
        assert (part.head_weight is not None) is (needs == "head")
        assert torch.equal(part.logits, output.logits)
    nothing = reader_of(network, frozenset())
    assert nothing(images()).maps == ()
    assert nothing.shapes().maps == ()


def test_a_foreign_networks_stages_are_found_by_trying_it_out() -> None:
    """One layer a resolution, the least nested, so that no layer within the next stage's first block is taken for a stage."""
    network = foreign().train()
    network.layer1[1].eval()
    assert stage_layers(network, SHAPE, "fc") == ("layer1", "layer2")
    assert network.training
    assert not network.layer1[1].training, "each layer is back in its own mode"
    assert int(network.layer2[2].num_batches_tracked) == 0
    assert not any(layer._forward_hooks for layer in network.modules())


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("resnet18", ("relu", "layer1", "layer2", "layer3", "layer4")),
        ("mobilenet_v2", ("features.1", "features.3", "features.6", "features.13", "features")),
        ("vgg11_bn", None),
    ],
)
def test_torchvisions_stages(name: str, expected: tuple[str, ...] | None) -> None:
    pytest.importorskip("torchvision")
    shape = (3, 64, 64)
    network = build_classifier(f"torchvision:{name}", 5, shape)
    head = find_head(network, None, 5)
    if expected is None:  # three linear layers follow the pooling
        with pytest.raises(ConfigError, match="feature_layers"):
            stage_layers(network, shape, head)
    else:
        assert stage_layers(network, shape, head) == expected


def test_gradients_reach_the_network_through_hooked_maps() -> None:
    network = foreign()
    output = reader_of(network)(images())
    sum(x.square().sum() for x in output.maps).backward()
    assert network.conv1.weight.grad is not None
    assert network.fc.weight.grad is None


def test_hooks_keep_nothing_and_other_passes_do_not_disturb() -> None:
    network = foreign().eval()
    reader = reader_of(network)
    network(images(3))
    assert all(hook.value is None for hook in reader._capture._hooks.values())  # type: ignore[union-attr]
    reader(images())
    assert all(hook.value is None for hook in reader._capture._hooks.values())  # type: ignore[union-attr]
    reader.remove_hooks()
    assert not any(layer._forward_hooks for layer in network.modules())


def test_a_copied_reader_reads_the_copy() -> None:
    reader = reader_of(foreign().eval())
    twin = copy.deepcopy(reader)
    with torch.no_grad():
        twin.network.layer2[2].bias.add_(3.0)
    assert not torch.equal(twin(images()).maps[-1], reader(images()).maps[-1])
    torch.testing.assert_close(twin(images()).maps[-1].mean((2, 3)), twin(images()).embedding)


def test_layers_may_be_named() -> None:
    network = foreign().eval()
    output = reader_of(network, layers=["relu", "layer1.0", "layer2"])(images())
    assert [x.shape[1] for x in output.maps] == [4, 4, 6]
    assert torch.equal(output.maps[0], network.conv1(images()).relu())
    catalog = seeded("small_cnn_4")
    assert len(reader_of(catalog, layers=["features"])(images()).maps) == 1


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        (["layer1", "layer9"], "no layer 'layer9'.*did you mean 'layer"),
        (["layer1", "layer1"], "twice"),
        (["fc"], r"gives \[2, 5\].*\[B,C,H,W\].*feature_layers"),
    ],
)
def test_wrongly_named_layers(layers: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        reader_of(foreign(), frozenset({"maps"}), layers=layers)


def test_a_layer_that_takes_no_part() -> None:
    network = foreign()
    network.spare = nn.Conv2d(3, 3, 1)
    with pytest.raises(ConfigError, match="'spare' is not used"):
        reader_of(network, frozenset({"maps"}), layers=["spare"])
    with pytest.raises(TeacherError, match="teacher's layer 'spare' is not used"):
        capture(network, ["spare"], role="teacher")(images())


class Tokens(nn.Module):
    def __init__(self, head: bool = True) -> None:
        super().__init__()
        self.embed = nn.Linear(16, 4)
        self.fc = nn.Linear(4, 5) if head else nn.Conv1d(4, 5, 1)

    def forward(self, images: Tensor) -> Tensor:
        x = self.embed(images.flatten(1, 2)).mean(1)
        return self.fc(x) if isinstance(self.fc, nn.Linear) else self.fc(x[:, :, None])[:, :, 0]


def test_networks_without_maps_or_head_are_refused_with_a_way_out() -> None:
    with pytest.raises(ConfigError, match=r"student's stage maps cannot be found.*feature_layers.*only logits"):
        reader_of(Tokens())
    with pytest.raises(ConfigError, match=r"no Linear layer.*classifier_head"):
        reader_of(Tokens(head=False), frozenset({"embedding"}))
    with pytest.raises(ConfigError, match="'fc' is a Conv1d"):
        reader_of(Tokens(head=False), frozenset({"head"}), head="fc")
    with pytest.raises(ConfigError, match="no layer 'nope' for its classifier_head"):
        reader_of(foreign(), head="nope")
    teacher = FrozenTeacher(Tokens(), 5, SHAPE, (0.5,) * 3, (0.5,) * 3)
    with pytest.raises(TeacherError, match="teacher's stage maps cannot be found"):
        teacher.feature_reader(frozenset({"maps"}))
    assert teacher.feature_reader(frozenset({"embedding"}))(images()).embedding.shape == (2, 4)


@pytest.mark.parametrize("name", ["small_cnn_4", "foreign"])
def test_a_teachers_reader_is_as_frozen_as_the_teacher(name: str) -> None:
    model = foreign() if name == "foreign" else seeded(name)
    teacher = FrozenTeacher(model, 5, SHAPE, (0.4,) * 3, (0.3,) * 3)
    before = teacher.state_sha256()
    reader = teacher.feature_reader(EVERYTHING)
    reader.train()
    view = teacher.normalize(images())
    output = reader(view)
    assert not any(layer.training for layer in model.modules())
    assert not output.logits.requires_grad
    assert torch.equal(output.logits, teacher(images()))
    logits, embedding = teacher.forward_features(images())
    torch.testing.assert_close(output.embedding, embedding)
    assert torch.equal(output.logits, logits)
    assert teacher.state_sha256() == before


def test_a_teachers_layers_may_be_named() -> None:
    teacher = FrozenTeacher(foreign(), 5, SHAPE, (0.5,) * 3, (0.5,) * 3, feature_layers=["conv1", "layer2"])
    assert teacher.feature_reader(frozenset({"maps"})).shapes().maps == ((4, 16, 16), (6, 8, 8))


def test_joined_parts_are_the_whole() -> None:
    reader = reader_of(seeded("small_cnn_4"))
    whole = reader(images(5))
    joined = join_outputs([reader(part) for part in images(5).split(2)])
    torch.testing.assert_close(joined.logits, whole.logits)
    torch.testing.assert_close(joined.maps, whole.maps)
    torch.testing.assert_close(joined.embedding, whole.embedding)
    assert joined.head_weight is whole.head_weight
    plain = reader_of(seeded("small_cnn_4"), frozenset())
    assert join_outputs([plain(images()), plain(images())]).embedding is None


def test_a_detached_output_has_no_gradient() -> None:
    output = reader_of(foreign())(images()).detached()
    assert not any(x.requires_grad for x in (output.logits, *output.maps, output.embedding, output.head_weight))


@pytest.mark.parametrize("name", ["wrn_10_1", "vgg8_bn", "mobilenet_v2"])
def test_gradients_are_of_the_predicted_class_by_every_map_even_where_they_are_switched_off(name: str) -> None:
    network = seeded(name)
    needs = frozenset({"maps", "gradients"})
    reader = reader_of(network.requires_grad_(False), needs, frozen=True)
    with torch.no_grad():
        found = join_outputs([reader(part) for part in images(3).split(2)])
    maps = network.forward_maps(images(3).requires_grad_())
    logits = network.pool_and_classify(maps[-1])
    expected = torch.autograd.grad(logits[torch.arange(3), logits.argmax(1)].sum(), maps)
    for own, theirs in zip(found.gradients, expected, strict=True):
        torch.testing.assert_close(own, theirs.mean((2, 3)), rtol=1e-4, atol=1e-7)
    assert not any(x.requires_grad for x in (found.logits, *found.maps, *found.gradients))


def test_a_network_without_a_derivative_is_refused() -> None:
    class Constant(Foreign):
        def forward(self, images: Tensor) -> Tensor:
            with torch.no_grad():
                return super().forward(images)

    teacher = FrozenTeacher(Constant(), 5, SHAPE, (0.5,) * 3, (0.3,) * 3)
    with pytest.raises(TeacherError, match="the teacher's logits have no gradient with respect to its stage maps"):
        teacher.feature_reader(frozenset({"maps", "gradients"})).shapes()
