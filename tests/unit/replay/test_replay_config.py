import pytest
from pydantic import ValidationError

from raydfkd.replay.config import ReplayConfig, SelectorConfig, TableConfig


def test_a_resolved_config_is_accepted_again() -> None:
    config = ReplayConfig(
        synthetic=TableConfig(capacity=10, sampler=SelectorConfig(kind="prioritized", priority_exponent=0.7)),
        pinned=TableConfig(capacity=5, sampler=SelectorConfig(kind="class_balanced")),
        pinned_fraction=0.5,
    )
    saved = config.model_dump()
    assert set(saved["pinned"]["sampler"]) == set(SelectorConfig.model_fields), "a saved experiment holds every setting"
    assert ReplayConfig.model_validate(saved) == config


def test_a_config_that_an_earlier_version_saved_is_read() -> None:
    saved = {
        "synthetic": {
            "capacity": 10,
            "sampler": {"kind": "prioritized", "priority_exponent": 0.7, "normalize_importance": "batch"},
            "remover": {"kind": "fifo"},
        },
        "pinned": {"capacity": 5, "sampler": {"kind": "uniform"}, "remover": {"kind": "fifo"}},
    }
    config = ReplayConfig.model_validate(saved)
    assert config.synthetic.sampler.normalize_importance == "batch"
    assert config.pinned == TableConfig(capacity=5)


@pytest.mark.parametrize("kind", ["uniform", "class_balanced", "fifo", "lowest_priority"])
def test_exponents_are_refused_where_nothing_reads_them(kind: str) -> None:
    with pytest.raises(ValidationError, match=f"'{kind}' does not use importance_exponent: leave it out"):
        SelectorConfig(kind=kind, importance_exponent=0.5)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"capacity": 5, "sampler": {"kind": "fifo"}}, "draws the same items every time"),
        ({"capacity": 5, "remover": {"kind": "uniform"}}, "is a sampler"),
        ({"capacity": 5, "remover": {"kind": "lowest_priority"}}, "set capacity_bytes too"),
        (
            {"capacity": 5, "max_draws": 1, "sampler": {"kind": "prioritized"}},
            "use the sampler uniform, or leave max_draws out",
        ),
        ({"capacity": 0}, "greater than 0"),
        ({"capacity": 5, "capasity_bytes": 1}, "Extra inputs"),
    ],
)
def test_a_table_refuses(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TableConfig.model_validate(values)


@pytest.mark.parametrize(
    ("pinned", "fraction", "message"),
    [
        (None, 0.5, "without replay.pinned the buffer does not use pinned_fraction"),
        (TableConfig(capacity=5, max_item_age_batches=3), None, "never evicts, so it does not use max_item_age_batches"),
        (TableConfig(capacity=5, capacity_bytes=9, remover=SelectorConfig(kind="lowest_priority")), 0.1, "not use remover"),
    ],
)
def test_the_tables_may_not_contradict(pinned: TableConfig | None, fraction: float | None, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ReplayConfig(synthetic=TableConfig(capacity=5), pinned=pinned, pinned_fraction=fraction)
