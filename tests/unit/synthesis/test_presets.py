"""Presets: the values of each published run, which settings win, and what is refused."""

from __future__ import annotations

from typing import Any, get_args

import pytest
from pydantic import ValidationError

from raydfkd.pipeline.experiment.yaml_files import dump_yaml, read_yaml
from raydfkd.synthesis.deep_inversion import DeepInversionConfig
from raydfkd.synthesis.method import SynthesisConfig
from raydfkd.synthesis.methods import METHODS

ADAM = (0.9, 0.999)
PUBLISHED: dict[tuple[str, str], dict[str, Any]] = {
    ("dafl", "published_mnist"): {
        "batch_size": 512, "generator_batch_size": 512, "latent_dim": 100, "generator_lr": 0.2, "generator_betas": ADAM,
        "one_hot_weight": 1, "entropy_weight": 5, "activation_weight": 0.1, "generator": "normalized",
    },
    ("dafl", "published_cifar10"): {
        "batch_size": 1024, "generator_batch_size": 1024, "latent_dim": 1000, "generator_lr": 0.02,
        "one_hot_weight": 0.05, "entropy_weight": 5, "activation_weight": 0.01, "generator_betas": ADAM,
    },
    ("dafl", "published_cifar100"): {
        "batch_size": 1024, "latent_dim": 1000, "generator_lr": 0.02,
        "one_hot_weight": 0.5, "entropy_weight": 20, "activation_weight": 0.1,
    },
    ("dfad", "published"): {
        "batch_size": 5 * 256, "generator_batch_size": 256, "latent_dim": 256, "generator_lr": 1e-3,
        "generator_betas": ADAM, "adversarial_distance": "l1", "adversarial_weight": 1, "generator": "normalized",
    },
    ("dfad", "published_nyuv2"): {
        "batch_size": 5 * 64, "generator_batch_size": 64, "adversarial_distance": "log_l1", "generator_betas": ADAM,
        "generator": "transposed",
    },
    ("zskt", "published"): {
        "batch_size": 128, "generator_batch_size": 128, "latent_dim": 100, "generator_lr": 1e-3, "max_grad_norm": 5,
        "adversarial_weight": 1 / 10, "adversarial_distance": "kl", "generator_betas": ADAM, "generator": "standard",
    },
    ("nayer", "cifar10"): {"batch_size": 400, "steps_per_batch": 30, "lr": 4e-3, "life_batches": 20},
    ("nayer", "cifar100"): {
        "batch_size": 400, "steps_per_batch": 40, "lr": 4e-3, "bn_weight": 10, "one_hot_weight": 0.5,
        "adversarial_weight": 1.33, "life_batches": 20, "warmup_life_batches": 100, "latent_dim": 256, "generator": "standard",
    },
    ("nayer", "tiny_imagenet"): {
        "batch_size": 200, "steps_per_batch": 60, "life_batches": 40, "warmup_life_batches": 200, "flip": False,
    },
    ("deep_inversion", "imagenet"): {
        "batch_size": 84, "steps_per_batch": 3000, "half_size_steps": 2000, "lr": 0.25, "betas": (0.5, 0.9),
        "lr_schedule": "cosine", "lr_warmup_steps": 100, "bn_weight": 0.01, "first_bn_weight": 10, "tv_weight": 1e-4,
        "l2_weight": 1e-5, "shift": 30, "flip": True, "competition_weight": 0,
    },
    ("deep_inversion", "imagenet_adaptive"): {"lr": 0.25, "competition_weight": 0.2},
    ("deep_inversion", "fang2021"): {
        "batch_size": 256, "steps_per_batch": 1000, "lr": 0.1, "betas": (0.5, 0.99), "bn_weight": 10,
        "competition_weight": 1, "tv_weight": 1e-3, "shift": 4, "flip": True, "one_hot_weight": 1,
    },
    ("deep_inversion", "fang2022"): {"steps_per_batch": 1000, "tv_weight": 0, "competition_weight": 1},
    ("deep_inversion", "sre2l"): {
        "batch_size": 100, "steps_per_batch": 4000, "lr": 0.25, "betas": (0.5, 0.9), "lr_schedule": "cosine",
        "lr_warmup_steps": 0, "bn_weight": 0.01, "first_bn_weight": 10, "tv_weight": 0, "l2_weight": 0, "shift": 32,
        "least_area": 0.08, "crop_curriculum": False, "kept_step": "last",
    },
    ("deep_inversion", "cda"): {"least_area": 0.08, "crop_curriculum": True, "lr": 0.25, "bn_weight": 0.01},
    ("deep_inversion", "cda_tiny_imagenet"): {"crop_curriculum": True, "lr": 0.4, "bn_weight": 0.05},
}  # fmt: skip
"""By the papers and their code."""


def config_of(method: str, **settings: Any) -> SynthesisConfig:
    return METHODS.get(method).config.model_validate({"method": method, **settings})


@pytest.mark.parametrize(("method", "preset"), PUBLISHED)
def test_a_preset_has_the_published_values(method: str, preset: str) -> None:
    config = config_of(method, preset=preset)
    expected = PUBLISHED[method, preset]
    assert {name: getattr(config, name) for name in expected} == expected


def test_every_preset_is_in_that_table_and_in_its_settings_choices() -> None:
    offered = {name: METHODS.get(name).config for name in METHODS if METHODS.get(name).config.presets}
    assert {(name, preset) for name, config in offered.items() for preset in config.presets} == set(PUBLISHED)
    for config in offered.values():
        choices, _ = get_args(config.model_fields["preset"].annotation)
        assert get_args(choices) == tuple(config.presets)


def test_what_is_given_comes_before_the_preset() -> None:
    config = config_of("zskt", preset="published", latent_dim=7)
    assert (config.latent_dim, config.max_grad_norm) == (7, 5)


def test_the_settings_that_result_are_saved_and_say_it_all(tmp_path: Any) -> None:
    config = config_of("deep_inversion", preset="imagenet")
    (tmp_path / "saved.yaml").write_text(dump_yaml(config))
    saved = read_yaml(tmp_path / "saved.yaml")
    assert (saved["preset"], saved["shift"]) == (None, 30)
    assert DeepInversionConfig.model_validate(saved) == config


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"preset": "cda", **DeepInversionConfig.presets["cda"]},
            "preset cda changes nothing, since all that it sets is given too",
        ),
        ({"preset": "cdo"}, "Input should be 'imagenet'"),
        ({"preset": 3}, "Input should be 'imagenet'"),
    ],
)
def test_a_preset_that_is_idle_or_unknown_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        config_of("deep_inversion", **settings)


def test_a_method_without_presets_has_no_such_setting() -> None:
    with pytest.raises(ValidationError, match="preset"):
        config_of("fast", preset="published")
