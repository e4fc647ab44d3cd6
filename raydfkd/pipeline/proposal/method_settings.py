"""Any method's settings for a teacher: what a proposal gives it, and by the same rule those of methods that it never takes."""

from __future__ import annotations

from typing import Any

from raydfkd.synthesis.method import Suggestion, TeacherTraits
from raydfkd.synthesis.methods import METHODS

SMALL_SIDE = 16
"""Shorter side of images below which a small generator is enough."""
SMALL_GENERATOR = {"base_channels": 32, "latent_dim": 64, "generator_channels": 16, "discriminator_channels": 16}


def settings_for(name: str, traits: TeacherTraits) -> Suggestion:
    """The method's own suggestion; without one its published defaults, but what follows from the images and the teacher:
    padding an eighth of the side, no mirror images of one channel, no BatchNorm loss where there is no BatchNorm, and a small
    generator for small images. Whether the teacher allows the method is not asked."""
    method = METHODS.get(name)
    suggested = None if method.suggest is None else method.suggest(traits)
    if suggested is not None:
        return suggested
    channels, height, width = traits.image_shape
    side = min(height, width)
    settings: dict[str, Any] = {"crop_padding": side // 8}
    if channels == 1:
        settings["flip"] = False
    if not traits.has_batch_norm:
        settings["bn_weight"] = 0
    if side < SMALL_SIDE:
        settings |= SMALL_GENERATOR
    return Suggestion(
        len(METHODS.names()), {key: value for key, value in settings.items() if key in method.config.model_fields}, {}
    )
