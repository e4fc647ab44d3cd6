"""Networks from torchvision, timm and the user's own modules."""

import sys
from pathlib import Path

import pytest
import torch

from raydfkd.errors import ConfigError, UnknownNameError
from raydfkd.models.catalog import build_classifier

USER_MODULE = """
import torch
from torch import nn

def flat(num_classes, in_channels, image_shape):
    assert image_shape[0] == in_channels
    return nn.Sequential(nn.Flatten(), nn.Linear(in_channels * image_shape[1] * image_shape[2], num_classes))

def loose(**kwargs):
    assert set(kwargs) == {"num_classes"}
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(**{"out_features": kwargs["num_classes"]}))

def partly_frozen(num_classes):
    return nn.Sequential(nn.BatchNorm2d(2).eval(), *flat(num_classes, 2, (2, 8, 8)))

def without_classes(width=3):
    return nn.Identity()

def of_four_classes():
    return flat(4, 2, (2, 8, 8))

instance = of_four_classes().half()

def half(num_classes):
    return flat(num_classes, 2, (2, 8, 8)).half()

def other_words(classes, in_chans):
    return flat(classes, in_chans, (2, 8, 8))

def never_shaped(num_classes):
    model = flat(num_classes, 2, (2, 8, 8))
    model.spare = nn.LazyLinear(3)
    model.forward = lambda x: model[1](model[0](x))
    return model

def takes_dict(num_classes):
    class TakesDict(nn.Module):
        def forward(self, batch):
            return batch["image"].mean((2, 3))
    return TakesDict()

def not_a_module(num_classes):
    return 7

def unlucky(num_classes):
    return nn.Conv2d(3, num_classes, 5)

def tuple_giver(num_classes):
    class Pair(nn.Module):
        def forward(self, x):
            return x.flatten(1)[:, :num_classes], x.flatten(1)[:, :num_classes]
    return Pair()

def broken(num_classes):
    raise ZeroDivisionError("the user's own bug")

def one_output():
    return flat(1, 2, (2, 8, 8))

number = 3
"""


@pytest.fixture
def user_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "my_nets.py").write_text(USER_MODULE)
    (tmp_path / "half_broken.py").write_text("import a_module_that_nobody_has\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_nets", raising=False)
    return "my_nets"


@pytest.mark.parametrize("attribute", ["flat", "loose", "of_four_classes", "instance", "half"])
def test_a_users_callable_gets_what_it_names(user_module: str, attribute: str) -> None:
    model = build_classifier(f"{user_module}:{attribute}", 4, (2, 8, 8))
    assert model.training
    assert model(torch.rand(3, 2, 8, 8)).shape == (3, 4)


def test_trying_a_network_out_leaves_its_layers_in_their_modes(user_module: str) -> None:
    model = build_classifier(f"{user_module}:partly_frozen", 4, (2, 8, 8))
    assert [layer.training for layer in model] == [False, True, True]


@pytest.mark.parametrize(
    ("attribute", "words"),
    [
        ("flatt", "no callable 'flatt'; did you mean 'flat'"),
        ("number", "no callable 'number'"),
        ("without_classes", r"gives \[2, 2, 8, 8\] for 2 images; it must give logits \[2,4\]"),
        ("other_words", "needs classes, in_chans, and is called with num_classes, in_channels and image_shape"),
        ("never_shaped", "lazy layer that its forward pass does not call, so that the shape of 'spare.weight' stays unknown"),
        ("takes_dict", r"IndexError.*my_nets.py:\d+.*wrap a network that takes a dict"),
        ("broken", r"called with \(num_classes=4\), it ends with ZeroDivisionError: the user's own bug \(.*my_nets.py:\d+\)"),
        ("not_a_module", "returned a int"),
        ("unlucky", r"cannot take images of shape \(2, 8, 8\)"),
        ("tuple_giver", r"gives a tuple with the tensors 0 \[2, 4\], 1 \[2, 4\] for 2 images.*return them alone"),
        ("", "no callable ''"),
    ],
)
@pytest.mark.filterwarnings("ignore:Using a non-tuple sequence", "ignore:Lazy modules")
def test_a_users_mistakes(user_module: str, attribute: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        build_classifier(f"{user_module}:{attribute}", 4, (2, 8, 8))


def test_a_module_that_cannot_be_imported_says_where(user_module: str) -> None:
    with pytest.raises(
        ConfigError, match=r"ModuleNotFoundError: No module named 'a_module_that_nobody_has' \(.*half_broken.py:1\)"
    ):
        build_classifier("half_broken:x", 4, (2, 8, 8))


def test_one_output_will_do_for_two_classes(user_module: str) -> None:
    assert build_classifier(f"{user_module}:one_output", 2, (2, 8, 8))(torch.rand(2, 2, 8, 8)).shape == (2, 1)
    with pytest.raises(ConfigError, match=r"gives \[2, 1\]"):
        build_classifier(f"{user_module}:one_output", 3, (2, 8, 8))


@pytest.mark.parametrize("module", ["no_such_module", "no_such.package", ""])
def test_no_such_module(module: str) -> None:
    with pytest.raises(ConfigError, match=r"PYTHONPATH|package\.module:callable"):
        build_classifier(f"{module}:net", 4, (2, 8, 8))


def test_torchvision_model() -> None:
    pytest.importorskip("torchvision")
    model = build_classifier("torchvision:mobilenet_v3_small", 4, (3, 32, 32)).eval()
    assert model(torch.rand(1, 3, 32, 32)).shape == (1, 4)


def test_torchvision_mistakes() -> None:
    pytest.importorskip("torchvision")
    with pytest.raises(UnknownNameError, match="'resnet18'"):
        build_classifier("torchvision:resnet_18", 4, (3, 32, 32))
    with pytest.raises(ConfigError, match="takes 3-channel images, got 1"):
        build_classifier("torchvision:resnet18", 4, (1, 32, 32))
    with pytest.raises(ConfigError, match="cannot take images of shape"):
        build_classifier("torchvision:alexnet", 4, (3, 16, 16))


def test_timm_missing_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ConfigError, match=r"raydfkd\[timm\]"):
        build_classifier("timm:resnet18", 4, (3, 32, 32))


@pytest.mark.filterwarnings("default")
def test_timm_model() -> None:
    pytest.importorskip("timm")
    assert build_classifier("timm:resnet18", 4, (1, 32, 32)).eval()(torch.rand(1, 1, 32, 32)).shape == (1, 4)
    with pytest.raises(UnknownNameError, match="timm has no model"):
        build_classifier("timm:resnet_nothing", 4, (1, 32, 32))
