"""What the recipes of SSD-KD's tables share."""

from __future__ import annotations

from pathlib import Path

from raydfkd.pipeline.experiment.config import load_experiment

RECIPES = Path(__file__).parents[4] / "experiments" / "ssdkd"


def test_no_recipe_divides_the_importance_weights_by_their_largest() -> None:
    """Eq. 5 has no such division."""
    samplers = {path: load_experiment(path).replay.synthetic.sampler for path in RECIPES.rglob("*.yaml")}
    prioritized = {path: sampler for path, sampler in samplers.items() if sampler.kind == "prioritized"}
    assert len(prioritized) >= 30
    assert [path.name for path, sampler in prioritized.items() if sampler.normalize_importance != "none"] == []
