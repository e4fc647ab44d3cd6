"""From settings to parts: devices, seeds, normalisation, and what a teacher must offer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from raydfkd.errors import ConfigError, RaydfkdError, TeacherError, UnknownNameError
from raydfkd.models import flat_weights
from raydfkd.models.catalog import build_classifier
from raydfkd.models.weights import save_weights
from raydfkd.pipeline.experiment import builder
from raydfkd.pipeline.experiment.config import ExperimentConfig, build_experiment
from raydfkd.resources import ResourcesConfig
from raydfkd.synthesis.attacked import AttackedSynthesizer
from raydfkd.synthesis.methods import METHODS
from raydfkd.types import BufferSummary

CPU = torch.device("cpu")


def experiment(*overrides: str) -> ExperimentConfig:
    tree: dict[str, Any] = {
        "task": {"num_classes": 10, "image_shape": [1, 8, 8]},
        "teacher": {"model": "small_cnn_8", "normalization": {"mean": [0.3], "std": [0.4]}},
        "sources": {"a": {"method": "ssdkd", "batch_size": 4, "base_channels": 4, "latent_dim": 8, "num_generators": 2}},
        "replay": {"synthetic": {"capacity": 16}},
        "students": {"s": {"model": "small_cnn_4", "batch_size": 4, "objective": {"temperature": 7}}},
        "schedule": {"warmup_batches": 9, "rounds": 3},
        "runtime": {"bf16": False},
    }
    return build_experiment(tree, overrides)


@pytest.mark.parametrize(
    ("asked", "gpu_here", "assigned", "expected"),
    [
        ("cpu", True, "cuda:0", "cpu"),
        ("auto", True, None, "cuda:0"),
        ("auto", False, None, "cpu"),
        ("auto", True, "cpu", "cpu"),
        ("auto", False, "cuda:1", "cuda:1"),
        ("cuda", True, None, "cuda:0"),
        ("cuda", True, "cuda:1", "cuda:1"),
    ],
)
def test_the_device_is_as_asked_assigned_or_there(
    monkeypatch: pytest.MonkeyPatch, asked: str, gpu_here: bool, assigned: str | None, expected: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu_here)
    assert builder.choose_device(experiment(f"runtime.device={asked}"), assigned) == torch.device(expected)


@pytest.mark.parametrize(("gpu_here", "assigned"), [(False, None), (True, "cpu")])
def test_a_gpu_that_is_not_there_is_refused(monkeypatch: pytest.MonkeyPatch, gpu_here: bool, assigned: str | None) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu_here)
    with pytest.raises(ConfigError, match=r"runtime\.device is cuda but no GPU is available here"):
        builder.choose_device(experiment("runtime.device=cuda"), assigned)


def test_the_student_is_the_runs_seeds_and_nothing_elses() -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    one = flat_weights(builder.build_student(experiment()))
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert (flat_weights(builder.build_student(experiment())) == one).all()
    assert (flat_weights(builder.build_student(experiment("runtime.seed=1"))) != one).any()
    assert (flat_weights(builder.build_distiller(experiment(), CPU).student) == one).all()


def test_a_student_may_start_from_a_checkpoint(tmp_path: Path) -> None:
    network = build_classifier("small_cnn_4", 10, (1, 8, 8))
    save_weights(network, tmp_path / "s.safetensors")
    config = experiment(f"students.s.checkpoint={tmp_path / 's.safetensors'}")
    assert (flat_weights(builder.build_student(config)) == flat_weights(network)).all()


def test_generators_differ_in_weights_and_draws_and_know_the_run() -> None:
    one, other = (builder.build_synthesizer(experiment(), "a", index, CPU) for index in (0, 1))
    again = builder.build_synthesizer(experiment(), "a", 0, CPU)
    first, second = one.state_dict(), other.state_dict()
    assert not torch.equal(first["generator"]["first_linear.weight"], second["generator"]["first_linear.weight"])
    assert not torch.equal(first["rng"], second["rng"])
    assert torch.equal(first["generator"]["first_linear.weight"], again.state_dict()["generator"]["first_linear.weight"])
    context: Any = one.context  # type: ignore[attr-defined]
    assert (context.generator_id, context.warmup_batches, context.priority_temperature, context.bf16) == ("a-0", 9, 7, False)


@pytest.mark.parametrize(
    ("objective", "has_priorities"),
    [
        ("{temperature: 7}", True),
        ("{temperature: 1, teacher_output: one_hot}", False),
        ("{kind: vanilla_kd, temperature: 7}", False),
        ("{kind: rkd}", False),
    ],
)
def test_a_new_image_has_a_priority_only_where_it_is_on_the_scale_of_the_later_ones(
    objective: str, has_priorities: bool
) -> None:
    synthesizer = builder.build_synthesizer(experiment(f"students.s.objective={objective}"), "a", 0, CPU)
    batch = synthesizer.step(BufferSummary(0, np.zeros(10, np.int64), 0))
    assert (batch.priorities is not None) is has_priorities


def test_normalization_comes_from_the_settings_else_from_the_checkpoint(tmp_path: Path) -> None:
    save_weights(build_classifier("small_cnn_8", 10, (1, 8, 8)), tmp_path / "t.safetensors", {"mean": "[0.1]", "std": "[0.2]"})
    with_file = f"teacher.checkpoint={tmp_path / 't.safetensors'}"
    given = builder.build_frozen_teacher(experiment(with_file)).normalization
    assert (given.mean.item(), given.std.item()) == pytest.approx((0.3, 0.4))
    recorded = builder.build_frozen_teacher(experiment(with_file, "teacher.normalization=null")).normalization
    assert (recorded.mean.item(), recorded.std.item()) == pytest.approx((0.1, 0.2))


def test_a_teacher_without_any_normalization_is_refused(tmp_path: Path) -> None:
    save_weights(build_classifier("small_cnn_8", 10, (1, 8, 8)), tmp_path / "t.safetensors")
    for more in ([], [f"teacher.checkpoint={tmp_path / 't.safetensors'}"]):
        with pytest.raises(TeacherError, match=r"teacher\.normalization is missing and not in the checkpoint"):
            builder.build_frozen_teacher(experiment("teacher.normalization=null", *more))


@pytest.mark.parametrize("mean", ["[0.1, 0.2]", "[]"])
def test_a_normalization_of_other_channels_is_refused(mean: str) -> None:
    with pytest.raises(RaydfkdError, match="one number per channel"):
        builder.build_frozen_teacher(experiment(f"teacher.normalization={{mean: {mean}, std: {mean}}}"))


def plain_network(num_classes: int) -> nn.Module:
    """A teacher without BatchNorm, which inversion methods cannot use."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))


def test_a_method_that_needs_batchnorm_refuses_a_teacher_without() -> None:
    config = experiment(f"teacher.model={__name__}:plain_network")
    with pytest.raises(TeacherError, match="BatchNorm"):
        builder.audit(config, builder.build_frozen_teacher(config))
    builder.audit(experiment(), builder.build_frozen_teacher(experiment()))


def test_a_source_s_images_are_attacked_where_that_is_asked_for() -> None:
    settings = "sources.a={method: ssdkd, batch_size: 8, base_channels: 4, latent_dim: 8, boundary_attack: {num_steps: 3}}"
    made = builder.build_synthesizer(experiment(settings), "a", 0, CPU)
    assert isinstance(made, AttackedSynthesizer)
    assert made.attack.settings.num_steps == 3
    batch = made.step(BufferSummary(0, np.zeros(10, np.int64), 0))
    assert len(batch) == 8
    assert batch.metrics["attacked_images"] == 2
    assert not isinstance(builder.build_synthesizer(experiment(), "a", 0, CPU), AttackedSynthesizer)


def test_the_attack_needs_a_gradient_whatever_the_method_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    config = experiment("sources.a.batch_size=8", "sources.a.boundary_attack={}")
    plain = replace(METHODS.get("ssdkd"), needs_batch_norm=False, needs_gradient=False)
    monkeypatch.setattr(builder, "METHODS", {"ssdkd": plain})
    monkeypatch.setattr(
        builder, "audit_teacher", lambda teacher: SimpleNamespace(input_gradient=False, no_gradient_because=None)
    )
    with pytest.raises(TeacherError, match="method 'boundary_attack' needs the gradient"):
        builder.audit(config, builder.build_frozen_teacher(config))


def test_names_and_threads() -> None:
    assert builder.generator_id("inversion", 3) == "inversion-3"
    asked = ((0.5, None), (1, None), (1.5, None), (0.1, 4))
    assert [ResourcesConfig(num_cpus=cpus, num_threads=threads).threads for cpus, threads in asked] == [1, 1, 2, 4]
    with pytest.raises(UnknownNameError, match="unknown generator 'huge'"):
        builder.build_synthesizer(experiment("sources.a.generator=huge"), "a", 0, CPU)


def test_without_evaluation_data_there_is_no_evaluator() -> None:
    config = experiment()
    assert builder.build_evaluator(config, builder.build_frozen_teacher(config), CPU) is None
    with_data = experiment("evaluation={dataset: {kind: digits, max_images: 20}}")
    evaluator = builder.build_evaluator(with_data, builder.build_frozen_teacher(with_data), CPU)
    assert evaluator is not None
    assert (evaluator.split, len(evaluator.dataset)) == ("digits/test", 20)
