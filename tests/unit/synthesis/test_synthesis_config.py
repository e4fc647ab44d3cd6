"""Settings of the methods: published rates, and knobs that would do nothing."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from raydfkd.errors import UnknownNameError
from raydfkd.synthesis.cmi import CMIConfig
from raydfkd.synthesis.fast import FastConfig
from raydfkd.synthesis.gans.degan import DeGANConfig
from raydfkd.synthesis.gans.hidfd import HiDFDConfig
from raydfkd.synthesis.method import SynthesisConfig
from raydfkd.synthesis.methods import METHODS
from raydfkd.synthesis.predfkd import PreDFKDConfig
from raydfkd.synthesis.ssdkd import SSDKDConfig


@pytest.mark.parametrize(
    ("steps", "rates"),
    [(1, (5e-3, 0.015)), (2, (5e-3, 0.015)), (4, (3e-3, 0.01)), (5, (3e-3, 0.01)), (10, (2e-3, 0.01)), (50, (2e-3, 0.01))],
)
def test_rates_are_the_published_ones_of_the_nearest_number_of_steps(steps: int, rates: tuple[float, float]) -> None:
    assert FastConfig(steps_per_batch=steps).rates() == rates


def test_a_rate_of_ones_own_comes_first() -> None:
    assert FastConfig(generator_lr=0.5).rates() == (0.5, 0.015)
    assert FastConfig(latent_lr=0.25).rates() == (5e-3, 0.25)


@pytest.mark.parametrize(
    ("config", "settings", "message"),
    [
        (FastConfig, {"adversarial_weight": 0, "adversarial_start_batches": 3}, "does not use adversarial_start_batches"),
        (SSDKDConfig, {"adversarial_weight": 0, "adversarial_start_batches": 3}, "does not use adversarial_start_batches"),
        (SSDKDConfig, {"difficulty": False, "difficulty_gamma": 3}, "does not use difficulty_gamma"),
        (FastConfig, {"diversity": True}, "Extra inputs"),
        (FastConfig, {"method": "ssdkd"}, "Input should be 'fast'"),
        (FastConfig, {"bn_momentum": 1.0}, "less than 1"),
        (CMIConfig, {"contrastive_weight": 0, "num_negatives": 3}, "contrastive_weight 0 does not use num_negatives"),
        (PreDFKDConfig, {"batch_size": 8}, "is less than two images: raise one of them"),
    ],
)
def test_what_would_do_nothing_is_refused(config: type, settings: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        config(**settings)


@pytest.mark.parametrize(
    ("config", "images"),
    [
        (FastConfig(batch_size=10, steps_per_batch=3), 3 * 10),
        (FastConfig(batch_size=10, steps_per_batch=3, feature_alignment={"share": 0.5}), 3 * 15),
        (CMIConfig(batch_size=10, steps_per_batch=3), 3 * 20),
        (CMIConfig(batch_size=10, steps_per_batch=3, feature_alignment={}), 3 * 30),
        (CMIConfig(batch_size=10, steps_per_batch=3, contrastive_weight=0), 3 * 10),
        (HiDFDConfig(pretrain_steps=0, steps_per_batch=2, gan_batch_size=10, discriminator_steps=2), 2 * 50),
        (DeGANConfig(pretrain_steps=0, steps_per_batch=2, gan_batch_size=10), 2 * 30),
        (PreDFKDConfig(generator_batch_size=16, memory_steps_per_batch=2), 16 + 2 * (8 + 2 * 2)),
    ],
)
def test_the_images_that_a_batch_costs(config: SynthesisConfig, images: int) -> None:
    assert config.images_trained_on(7) == 7 * images


def test_methods_are_known_by_name_and_say_what_they_need() -> None:
    known = {name: METHODS.get(name) for name in ("fast", "ssdkd", "cmi", "predfkd", "hidfd", "degan", "procedural")}
    assert [name for name, method in known.items() if method.needs_batch_norm] == ["fast", "ssdkd", "cmi"]
    gradient = ["fast", "ssdkd", "cmi", "predfkd", "hidfd", "degan"]
    assert [name for name, method in known.items() if method.needs_gradient] == gradient
    assert [name for name, method in known.items() if method.needs_collected] == ["hidfd", "degan"]
    assert [name for name, method in known.items() if method.needs_student] == ["fast", "ssdkd", "cmi", "predfkd"]
    with pytest.raises(UnknownNameError, match="did you mean 'ssdkd'"):
        METHODS.get("ssdk")
