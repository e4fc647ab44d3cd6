"""Small teachers as people have them: files of weights, folders of transformers and timm, modules of their own."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import nn

LABELS = ("cat", "dog", "owl", "fox")
MODULE = """
from torch import nn

def group_norm(num_classes, in_channels=3):
    return nn.Sequential(nn.Conv2d(in_channels, 8, 3, 2, 1), nn.GroupNorm(2, 8), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
                         nn.Flatten(), nn.Linear(8, num_classes))

def grey(num_classes):
    return nn.Sequential(nn.Conv2d(1, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
                         nn.Linear(8, num_classes))
"""
"""The file ``their_nets.py`` of a user."""


def transformers_folder(folder: Path, side: int = 32) -> Path:
    """A ResNet of transformers for 4 labelled classes, with its processor's settings."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    labels = {"id2label": dict(enumerate(LABELS)), "label2id": {name: number for number, name in enumerate(LABELS)}}
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic", **labels)
    transformers.ResNetForImageClassification(config).save_pretrained(folder)
    processor = {"size": {"height": side, "width": side}, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.25, 0.25, 0.25]}
    (folder / "preprocessor_config.json").write_text(json.dumps({"image_processor_type": "ViTImageProcessor", **processor}))
    return folder


def vit_folder(folder: Path) -> Path:
    """A vision transformer for 3 classes of 16 x 16 pixels, without labels and processor."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = transformers.ViTConfig(image_size=16, patch_size=8, num_labels=3, **sizes)
    transformers.ViTForImageClassification(config).save_pretrained(folder)
    return folder


def timm_folder(folder: Path) -> Path:
    """What timm pushes to the hub, of a network for 5 classes."""
    import timm
    from timm.models import save_for_hf

    network = timm.create_model("test_resnet", num_classes=5)
    save_for_hf(network, str(folder), model_config={"num_classes": 5, "label_names": list("abcde")}, safe_serialization=True)
    return folder


def their_nets(folder: Path) -> None:
    """The user's module and the weights of its networks."""
    (folder / "their_nets.py").write_text(MODULE)
    names: dict[str, object] = {}
    exec(MODULE, names)
    group_norm, grey = names["group_norm"](5), names["grey"](10)  # type: ignore[operator]
    torch.save(group_norm.state_dict(), folder / "group_norm.pt")
    torch.save(grey.state_dict(), folder / "grey.pt")


def save_state(network: nn.Module, path: Path) -> Path:
    torch.save(network.state_dict(), path)
    return path
