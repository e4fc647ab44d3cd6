"""The searcher that learns from finished trials: Optuna, if it is installed."""

from __future__ import annotations

from typing import Any

from raydfkd.errors import ConfigError
from raydfkd.pipeline.sweep.config import Sweep
from raydfkd.pipeline.sweep.space import RangeConfig
from raydfkd.pipeline.sweep.trial import OBJECTIVE
from raydfkd.runtime.sweeps.sweep_trainable import SETTINGS


def optuna_searcher(sweep: Sweep) -> Any:
    """Optuna's TPE over the sweep's space.

    Raises:
        ConfigError: Optuna is not installed.
    """
    try:
        import optuna
    except ImportError as error:
        raise ConfigError("search.kind optuna needs the package optuna: install raydfkd[optuna], or use random") from error
    from ray.tune.search.optuna import OptunaSearch

    def distribution(entry: Any) -> Any:
        if not isinstance(entry, RangeConfig):
            return optuna.distributions.CategoricalDistribution(entry.values)
        if entry.whole:
            return optuna.distributions.IntDistribution(int(entry.low), int(entry.high), log=entry.logarithmic)
        return optuna.distributions.FloatDistribution(entry.low, entry.high, log=entry.logarithmic)

    space = {f"{SETTINGS}/{key}": distribution(entry) for key, entry in sweep.config.space.items()}
    return OptunaSearch(space, metric=OBJECTIVE, mode=sweep.mode, seed=sweep.config.search.seed)
