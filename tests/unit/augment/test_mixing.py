"""CutMix and MixStyle against their formulas, and the beta distribution that both draw from."""

from __future__ import annotations

import pytest
import torch

from raydfkd.augment.beta import beta_draws
from raydfkd.augment.cutmix import cutmix
from raydfkd.augment.mix_style import mix_style


def rng(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("alpha", [0.25, 2.0])
def test_beta_draws_have_the_distributions_mean_and_variance(alpha: float) -> None:
    found = beta_draws(alpha, 20_000, rng())
    assert float(found.mean()) == pytest.approx(0.5, abs=0.01)
    assert float(found.var()) == pytest.approx(1 / (4 * (2 * alpha + 1)), abs=0.005)
    assert torch.equal(found, beta_draws(alpha, 20_000, rng()))


def test_cutmix_puts_one_rectangle_of_the_reversed_batch_into_every_image() -> None:
    images = torch.arange(6.0).view(6, 1, 1, 1).expand(6, 2, 16, 12).contiguous()
    shares = []
    for seed in range(300):
        mixed = cutmix(images, 0.25, rng(seed))
        foreign = mixed != images
        assert torch.equal(mixed[foreign], images.flip(0)[foreign])
        place = foreign[0, 0]
        assert (foreign == place).all(), "one rectangle for the batch"
        rows, columns = place.any(1).sum(), place.any(0).sum()
        assert int(place.sum()) == int(rows * columns)
        shares.append(float(place.float().mean()))
    # lambda is near 0 or 1 as a rule: nothing is replaced, or all but what lies outside and what rounding leaves
    assert min(shares) == 0
    assert max(shares) > 0.7
    assert images.flip(0)[0, 0, 0, 0] == 5, "the input is unchanged"


def test_mix_style_gives_each_image_a_mean_and_deviation_between_its_own_and_its_partners() -> None:
    images = torch.randn(40, 3, 8, 8, generator=rng(3)) * torch.linspace(0.5, 2, 40).view(-1, 1, 1, 1)
    mixed = mix_style(images, 0.5, rng(5))
    partners = torch.randperm(40, generator=(draws := rng(5)))
    shares = beta_draws(0.5, 40, draws).view(-1, 1)
    for measure in (torch.mean, torch.std):
        own, found = measure(images, dim=(2, 3)), measure(mixed, dim=(2, 3))
        torch.testing.assert_close(found, shares * own + (1 - shares) * own[partners], rtol=1e-3, atol=1e-4)
    normal = [(x - x.mean((2, 3), keepdim=True)) / x.std((2, 3), keepdim=True) for x in (images, mixed)]
    torch.testing.assert_close(normal[0], normal[1], rtol=1e-3, atol=1e-3)
