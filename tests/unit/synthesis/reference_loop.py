"""FastDFKD's inner loop written again, plainly and straight from the paper and its code, to compare the synthesizer with."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from raydfkd.augment import random_crop_flip
from raydfkd.synthesis.fast import FastSynthesizer


@dataclass
class Outcome:
    gradients: list[list[Tensor]]  # of the clone, by step
    adapted: nn.Module
    losses: list[float]
    best: Tensor
    statistics: list[tuple[Tensor, Tensor]]  # raw, of the last step
    bn_losses: list[float]


def run(synthesizer: FastSynthesizer, average: list[tuple[Tensor, Tensor]] | None, adversarial: bool) -> Outcome:
    """One call's inner loop from the synthesizer's present state, which it leaves alone."""
    config = synthesizer.config
    rng = torch.Generator()
    rng.set_state(synthesizer.rng.get_state())
    worker, teacher, student = (
        copy.deepcopy(net) for net in (synthesizer.generator, synthesizer.teacher.model, synthesizer.student)
    )
    latents = torch.randn(config.batch_size, config.latent_dim, generator=rng).requires_grad_()
    targets = torch.randint(0, synthesizer.teacher.num_classes, (config.batch_size,), generator=rng)
    generator_lr, latent_lr = config.rates()
    optimizers = [
        torch.optim.Adam(worker.parameters(), lr=generator_lr, betas=(0.5, 0.999)),
        torch.optim.Adam([latents], lr=latent_lr, betas=(0.5, 0.999)),
    ]
    seen: list[Tensor] = []
    norms = [layer for layer in teacher.modules() if isinstance(layer, nn.BatchNorm2d)]
    for layer in norms:
        layer.register_forward_pre_hook(lambda layer, args: seen.append(args[0]))
    out = Outcome([], worker, [], torch.empty(0), [], [])
    for _ in range(config.steps_per_batch):
        seen.clear()
        images = worker(latents)
        view = synthesizer.teacher.normalization(random_crop_flip(images, config.crop_padding, config.flip, rng))
        teacher_logits = teacher(view)
        raw = [(x.mean((0, 2, 3)), x.var((0, 2, 3), unbiased=False)) for x in seen]
        bn = torch.zeros(())
        for i, ((mean, variance), layer) in enumerate(zip(raw, norms, strict=True)):
            if average is not None:
                m = config.bn_momentum
                mean, variance = (1 - m) * mean + m * average[i][0], (1 - m) * variance + m * average[i][1]
            bn = bn + (layer.running_mean - mean).norm() + (layer.running_var - variance).norm()
        loss = config.bn_weight * bn + config.one_hot_weight * F.cross_entropy(teacher_logits, targets)
        if adversarial:
            student_logits = student(view)
            mask = (student_logits.argmax(1) == teacher_logits.argmax(1)).float()
            divergence = F.kl_div(student_logits.log_softmax(1), teacher_logits.softmax(1), reduction="none").sum(1)
            loss = loss - config.adversarial_weight * (divergence * mask).sum() / len(mask)
        if not out.losses or loss.item() < min(out.losses):
            out.best = images.detach().clone()
        out.losses.append(loss.item())
        out.bn_losses.append(bn.item())
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss.backward()
        out.gradients.append([p.grad.clone() for p in worker.parameters()])
        for optimizer in optimizers:
            optimizer.step()
        out.statistics = [(mean.detach(), variance.detach()) for mean, variance in raw]
    return out
