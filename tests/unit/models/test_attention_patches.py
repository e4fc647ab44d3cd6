"""Tokens of patches, read from the vision transformers of torchvision, timm and transformers."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from torch import nn

from raydfkd.errors import TeacherError
from raydfkd.models.catalog import build_classifier
from raydfkd.models.teachers.attention_patches import AttentionPatches, attention_layers
from raydfkd.models.teachers.teacher import FrozenTeacher, audit_teacher


def torchvision_vit() -> nn.Module:
    from torchvision.models import VisionTransformer

    network = VisionTransformer(8, 2, 2, 2, 8, 16, num_classes=5)
    nn.init.normal_(network.heads.head.weight)
    return network


def timm_vit(height: int = 8, width: int = 8) -> nn.Module:
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer((height, width), 2, num_classes=5, embed_dim=8, depth=3, num_heads=2, reg_tokens=4)


def transformers_vit() -> nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
    return ViTForImageClassification(ViTConfig(image_size=8, patch_size=2, num_labels=5, **sizes))


def torch_encoder() -> nn.Module:
    """Patches without a class token, through torch's own encoder layers."""
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patch = nn.Conv2d(3, 8, 2, 2)
            self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
            self.head = nn.Linear(8, 5)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.head(self.encoder(self.patch(images).flatten(2).transpose(1, 2)).mean(1))

    return Network()


def frozen(network: nn.Module, shape: tuple[int, int, int] = (3, 8, 8)) -> FrozenTeacher:
    return FrozenTeacher(network, 5, shape, (0.5,) * 3, (0.5,) * 3)


@pytest.mark.parametrize(
    ("make", "layers", "leading", "shape"),
    [
        (torchvision_vit, 2, 1, (3, 8, 8)),
        (timm_vit, 3, 5, (3, 8, 8)),
        (partial(timm_vit, 8, 16), 3, 5, (3, 8, 16)),
        (transformers_vit, 2, 1, (3, 8, 8)),
        (torch_encoder, 2, 0, (3, 8, 8)),
    ],
)
def test_each_attention_layer_gives_a_token_for_each_patch(make, layers: int, leading: int, shape) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(0)
    teacher = frozen(make(), shape)
    assert list(attention_layers(teacher).values()) == [leading] * layers
    assert len(audit_teacher(teacher).attention_layers) == layers
    patches = AttentionPatches(teacher)
    images = torch.rand(6, *shape).requires_grad_()
    with patches.capture():
        teacher(images)
    assert [tuple(tokens.shape) for tokens in patches.tokens] == [(6, shape[1] * shape[2] // 4, 8)] * layers
    (gradient,) = torch.autograd.grad(patches.tokens[-1].square().sum(), images)
    assert gradient.abs().sum() > 0
    held = [tokens.clone() for tokens in patches.tokens]
    teacher(1 - images.detach())
    assert all(torch.equal(one, other) for one, other in zip(held, patches.tokens, strict=True)), "outside nothing is read"


def test_a_teacher_without_attention_is_refused() -> None:
    teacher = frozen(build_classifier("small_cnn_4", 5, (3, 8, 8)))
    assert audit_teacher(teacher).attention_layers == ()
    with pytest.raises(TeacherError, match="SmallCNN has no attention layer that gives tokens of patches, which patch_weight"):
        AttentionPatches(teacher)
