"""A run directory as a real run would leave it, made of numpy curves and images: for tests of its readers."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np

from raydfkd.metrics import Figure
from raydfkd.run_dir import RunDir, write_atomically

CLASS_NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
TEACHER_METRIC = 0.888
END_S = 1320.0
FIGURES = (Figure("Classes of a batch", {"class_hit_rate": "target class", "class_evenness": "evenness"}, percent=True),)
"""Plots of the method's own numbers, as the manifest lists them."""
_CONFIG = """\
task: {kind: classification, num_classes: 10, image_shape: [3, 32, 32]}
teacher:
  model: wrn_16_2
  checkpoint: teachers/cifar10_wrn16_2.safetensors
sources:
  inversion: {method: METHOD, steps_per_batch: 5, batch_size: 256, num_generators: 2}
replay:
  synthetic:
    capacity: 5000
    sampler: {kind: prioritized, priority_exponent: 0.6, importance_exponent: 0.4}
students:
  small: {model: wrn_16_1, objective: {kind: kl, temperature: 20}}
schedule: {mode: decoupled, warmup_batches: 10, rounds: 150, student_steps_per_round: STEPS}
runtime: {runner: ray, seed: SEED}
"""


def write_fake_run(
    path: Path,
    *,
    method: str = "ssdkd",
    seed: int = 0,
    final_metric: float = 0.823,
    total_steps: int = 6000,
    done: float = 1.0,
    state: str = "finished",
    real_features: bool = True,
) -> Path:
    """Writes a run at ``path`` of which the fraction ``done`` is complete; only ``state="finished"`` has a result."""
    rng = np.random.default_rng(seed)
    run = RunDir.create(path)
    write_atomically(
        run.config_path, _CONFIG.replace("METHOD", method).replace("SEED", str(seed)).replace("STEPS", str(total_steps // 150))
    )
    run.update_manifest(**_manifest(seed, state))
    records = _records(rng, total_steps, done, final_metric)
    run.metrics_path.write_text("".join(json.dumps(r) + "\n" for r in records), encoding="utf-8")
    _write_samples(run, rng, done)
    if state == "finished":
        _write_analysis(run, rng, real_features)
        run.write_result(_result(method, seed, total_steps, final_metric))
    return run.path


def _manifest(seed: int, state: str) -> dict[str, Any]:
    return {
        "state": state,
        "seed": seed,
        "teacher_sha256": "9f3c" * 16,
        "classes": CLASS_NAMES,
        "figures": [figure.as_json() for figure in FIGURES],
        "data_splits_read": [{"dataset": "parquet", "split": "cifar10/test", "purpose": "evaluation only"}],
        "python": "3.11.9",
        "packages": {"raydfkd": "0.1.0", "torch": "2.14.1", "ray": "2.60.0", "numpy": "2.4.6"},
        "hardware": {"machine": "x86_64", "processor": "a laptop's", "cpus": 2, "gpus": []},
    }


def _metric_at(progress: np.ndarray | float, final: float) -> Any:
    return 0.1 + (final - 0.1) * (1 - np.exp(-6.5 * np.asarray(progress))) / (1 - np.exp(-6.5))


def _records(rng: np.random.Generator, total_steps: int, done: float, final: float) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = [_event(0.4, 0, "started 2 generators and 1 student worker")]
    for number, seconds in enumerate(np.arange(5.0, END_S * done + 0.01, 5.0)):
        progress = max(0.0, (seconds - 60) / (END_S - 60))
        step = int(total_steps * progress)
        at = {"time_s": round(float(seconds), 3), "step": step}
        records.append({"kind": "synthesis", **at, **_synthesis(rng, number, progress)})
        if step > 0:
            records.append({"kind": "distillation", **at, **_distillation(rng, progress)})
        records.append({"kind": "replay", **at, **_replay(rng, min(5000, 256 * (number + 1)), progress, number + 1, step)})
        if number % 2 == 1:
            records.append({"kind": "throughput", **at, **_throughput(rng, step)})
        if step > 0 and number % 8 == 0:
            noise = float(rng.normal(0, 0.012 * (1 - progress)))
            last = float(_metric_at(progress, final)) + noise
            ema = float(_metric_at(progress, final)) + 0.012 * progress * (1 - progress)
            records.append({"kind": "evaluation", **at, **_evaluation(last, ema)})
    if done == 1.0:
        records.append({"kind": "evaluation", "time_s": END_S, "step": total_steps, **_evaluation(final, final + 0.002)})
    records += [_generators(s, n) for s, n in ((1.0, 2), (0.3 * END_S, 4), (0.7 * END_S, 2)) if s <= END_S * done]
    if done > 0.5:
        message = "generator inversion-1 died (killed); restarted from its state of batch 118"
        records.append(_event(600.0, 0, message) | {"restart": True})
    return sorted(records, key=lambda r: float(r["time_s"]))


def _evaluation(last: float, ema: float) -> dict[str, Any]:
    return {"metric_last": last, "metric_ema": ema, "agreement": last + 0.03, "split": "cifar10/test"}


def _event(seconds: float, step: int, message: str) -> dict[str, Any]:
    return {"kind": "event", "time_s": seconds, "step": step, "message": message}


def _generators(seconds: float, number: int) -> dict[str, Any]:
    counts = {"target": number, "running": number, "starting": 0, "pending": 0, "draining": 0}
    listed = [{"name": f"inversion-{n}", "state": "running", "pid": 100 + n, "restarts": 0} for n in range(number)]
    return {"kind": "generators", "time_s": seconds, "step": 0, "source": "inversion", **counts, "generators": listed}


def _synthesis(rng: np.random.Generator, number: int, progress: float) -> dict[str, Any]:
    bn, one_hot = 3.2 * np.exp(-2.5 * progress) + 1.1, 1.4 * np.exp(-5 * progress) + 0.12
    losses = {
        "bn_loss": bn,
        "one_hot_loss": one_hot,
        "adversarial_loss": -0.3 - 0.5 * progress,
        "diversity_loss": 0.2 + 0.05 * progress,
    }
    noisy = {name: round(float(value + rng.normal(0, 0.08)), 5) for name, value in losses.items()}
    generator = {
        "generator_id": f"inversion-{number % 2}",
        "student_version": int(150 * progress),
        "seconds": float(4.8 + rng.normal(0, 0.1)),
        "num_images": 256,
    }
    waits = {
        "generator_wait_limiter_s": float(abs(rng.normal(0.6, 0.1))) if progress > 0 else 0.0,
        "generator_wait_weights_s": float(abs(rng.normal(0.12, 0.03))),
    }
    own = {"class_hit_rate": 0.5 + 0.4 * progress, "class_evenness": 0.9 + 0.05 * progress}
    return {**generator, **waits, **noisy, **own, "loss": round(sum(noisy.values()), 5)}


def _distillation(rng: np.random.Generator, progress: float) -> dict[str, Any]:
    peak = 0.3
    lr = 0.2 * progress / peak if progress < peak else 0.1 * (1 + np.cos(np.pi * (progress - peak) / (1 - peak)))
    return {
        "step_s": 0.205,
        "kd_loss": float(18 * np.exp(-3.2 * progress) * np.exp(rng.normal(0, 0.08)) + 1.2),
        "lr": float(lr),
        "agreement": float(np.clip(0.35 + 0.6 * (1 - np.exp(-5 * progress)) + rng.normal(0, 0.01), 0, 1)),
        "importance_weight_mean": float(0.62 + 0.1 * progress + rng.normal(0, 0.01)),
        "item_age": float(min(10, 150 * progress) + rng.normal(0, 0.4)),
        "grad_norm": float(4 * np.exp(-1.5 * progress) * np.exp(rng.normal(0, 0.2))),
    }


def _replay(rng: np.random.Generator, size: int, progress: float, inserts: int, step: int) -> dict[str, Any]:
    shares = rng.dirichlet(np.full(10, 8 + 120 * progress))
    counts = rng.multinomial(size, shares)
    present = counts[counts > 0] / size
    return {
        "size": size,
        "capacity": 5000,
        "fill": size / 5000,
        "class_counts": counts.tolist(),
        "class_entropy": float(-(present * np.log(present)).sum() / np.log(10)),
        "dropped_updates": 3 * inserts,
        "bytes": size * 3072,
        "inserts": inserts * 256,
        "samples": step * 256,
        "priority_mean": float(2.0 * np.exp(-2 * progress) + 0.2),
        "priority_max": 9.0,
        "staleness_rounds": float(1 + rng.random()),
    }


def _throughput(rng: np.random.Generator, step: int) -> dict[str, Any]:
    warm = step > 0
    return {
        "images_distilled": step * 256,
        "distilled_per_s": float(1210 + rng.normal(0, 45)) if warm else 0.0,
        "student_wait_data_s": float(abs(rng.normal(0.06, 0.03))) if warm else 0.0,
        "student_wait_limiter_s": float(abs(rng.normal(0.03, 0.02))) if warm else 9.6,
        "rss_bytes": int(2.1e9 + 2e7 * rng.random()),
    }


def _result(method: str, seed: int, total_steps: int, final: float) -> dict[str, Any]:
    return {
        "method": method,
        "seed": seed,
        "schedule": "decoupled",
        "runner": "ray",
        "teacher": {"model": "wrn_16_2", "sha256": "9f3c" * 16, "params": 691674, "metric": TEACHER_METRIC},
        "student": {
            "model": "wrn_16_1",
            "params": 175066,
            "metric_last": final,
            "metric_ema": final + 0.002,
            "agreement": final + 0.03,
        },
        "metric_name": "accuracy",
        "metric_label": "accuracy",
        "end_to_end_s": END_S,
        "synthesis_s": 902.4,
        "distillation_s": 1241.7,
        "images_synthesized": 67584,
        "images_distilled": total_steps * 256,
        "student_steps": total_steps,
        "class_entropy": 0.992,
        "student_wait_fraction": 0.009,
        "generator_wait_fraction": 0.145,
        "restarts": 1,
        "device": "cpu",
    }


def _pattern(rng: np.random.Generator, label: int, num: int, sharp: float) -> np.ndarray:
    """uint8 [num,3,32,32]: a few waves whose direction and colour belong to the class, noisier where ``sharp`` is small."""
    y, x = np.mgrid[0:32, 0:32] / 32.0
    colour = np.array([np.cos(2 * np.pi * (label / 10 + shift)) for shift in (0, 1 / 3, 2 / 3)])
    images = np.empty((num, 3, 32, 32), dtype=np.uint8)
    for number in range(num):
        angle = np.pi * label / 10 + rng.normal(0, 0.15)
        wave = np.sin(2 * np.pi * (1.5 + label % 4) * (x * np.cos(angle) + y * np.sin(angle)) + rng.uniform(0, 6))
        blob = np.exp(-(((x - rng.uniform(0.3, 0.7)) ** 2 + (y - rng.uniform(0.3, 0.7)) ** 2) / 0.05))
        plain = 128 + sharp * (55 * wave[None] * (0.5 + 0.5 * colour[:, None, None]) + 70 * blob[None] * colour[:, None, None])
        images[number] = np.clip(plain + rng.normal(0, 14, (3, 32, 32)), 0, 255).astype(np.uint8)
    return images


def _write_samples(run: RunDir, rng: np.random.Generator, done: float) -> None:
    images = np.concatenate([_pattern(rng, label, 10, 1.0) for label in range(10)])
    np.savez(run.samples / "by_class.npz", images=images, teacher_class=np.repeat(np.arange(10, dtype=np.int32), 10))
    for number in range(0, int(150 * done) + 1, 15):
        tiles = np.concatenate([_pattern(rng, label, 8, number / 150) for label in range(8)])
        grid = tiles.reshape(8, 8, 3, 32, 32).transpose(0, 3, 1, 4, 2).reshape(256, 256, 3)
        (run.samples / f"round-{number:05d}.png").write_bytes(png_bytes(grid))


def png_bytes(pixels: np.ndarray) -> bytes:
    """uint8 [H,W,3] as PNG."""
    from matplotlib.image import imsave

    written = io.BytesIO()
    imsave(written, pixels, format="png")
    return written.getvalue()


def _write_analysis(run: RunDir, rng: np.random.Generator, real_features: bool) -> None:
    classes = rng.choice(10, 5000, p=rng.dirichlet(np.full(10, 90))).astype(np.int32)
    np.savez(
        run.analysis / "buffer.npz",
        priorities=rng.lognormal(-1, 1.1, 5000).astype(np.float32),
        teacher_class=classes,
        teacher_confidence=(1 - rng.beta(0.6, 3.0, 5000)).astype(np.float32),
        ages=rng.integers(0, 20, 5000).astype(np.int32),
        source=np.where(rng.random(5000) < 0.96, "ssdkd", "collected"),
    )
    centres = rng.normal(0, 3, (10, 64))
    near = (centres[classes[:1500]] + rng.normal(0, 1.2, (1500, 64))).astype(np.float32)
    features: dict[str, Any] = {"synthetic_features": near, "synthetic_class": classes[:1500]}
    if real_features:
        real = rng.integers(0, 10, 1000).astype(np.int32)
        features["real_features"] = (1.1 * centres[real] + rng.normal(0, 1.6, (1000, 64))).astype(np.float32)
        features["real_class"] = real
    np.savez(run.analysis / "features.npz", **features)
