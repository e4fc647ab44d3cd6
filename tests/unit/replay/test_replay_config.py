import pytest
from pydantic import ValidationError

from raydfkd.replay.config import ReplayConfig, SelectorConfig, TableConfig


def test_a_resolved_config_is_accepted_again() -> None:
    config = ReplayConfig(
        synthetic=TableConfig(capacity=10, sampler=SelectorConfig(kind="prioritized", priority_exponent=0.7)),
        pinned=TableConfig(capacity=5, sampler=SelectorConfig(kind="class_balanced")),
        pinned_fraction=0.5,
    )
    assert ReplayConfig.model_validate(config.model_dump()) == config
    assert config.model_dump()["pinned"]["sampler"] == {"kind": "class_balanced"}


@pytest.mark.parametrize("kind", ["uniform", "class_balanced", "fifo", "lowest_priority"])
def test_exponents_are_refused_where_nothing_reads_them(kind: str) -> None:
    with pytest.raises(ValidationError, match=f"'{kind}' does not use importance_exponent"):
        SelectorConfig(kind=kind, importance_exponent=0.4)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"capacity": 5, "sampler": {"kind": "fifo"}}, "draws the same items every time"),
        ({"capacity": 5, "remover": {"kind": "uniform"}}, "is a sampler"),
        ({"capacity": 5, "remover": {"kind": "lowest_priority"}}, "set capacity_bytes too"),
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
        (None, 0.5, "no pinned table"),
        (TableConfig(capacity=5, max_item_age_batches=3), None, "never evicts, so max_item_age_batches"),
        (TableConfig(capacity=5, capacity_bytes=9, remover=SelectorConfig(kind="lowest_priority")), 0.1, "so remover"),
    ],
)
def test_the_tables_may_not_contradict(pinned: TableConfig | None, fraction: float | None, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ReplayConfig(synthetic=TableConfig(capacity=5), pinned=pinned, pinned_fraction=fraction)
