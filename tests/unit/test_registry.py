"""Names: duplicates are our bug, unknown ones the user's mistake with a hint."""

from __future__ import annotations

import pytest

from raydfkd.errors import ConfigError, UnknownNameError
from raydfkd.registry import Registry, nearest


@pytest.fixture
def fruit() -> Registry[int]:
    registry: Registry[int] = Registry("fruit")
    for number, name in enumerate(("cherry", "apple", "grape")):
        registry.add(name, number)
    return registry


def test_entries_come_back_by_name_and_names_are_sorted(fruit: Registry[int]) -> None:
    assert fruit.get("apple") == 1
    assert list(fruit) == ["cherry", "apple", "grape"]
    assert fruit.names() == ["apple", "cherry", "grape"]
    assert "apple" in fruit
    assert "pear" not in fruit
    assert 3 not in fruit


def test_the_decorator_registers_and_gives_back(fruit: Registry[int]) -> None:
    assert fruit.register("fig")(7) == 7
    assert fruit.get("fig") == 7


def test_a_duplicate_is_refused_and_the_first_entry_stays(fruit: Registry[int]) -> None:
    with pytest.raises(ValueError, match="fruit 'apple' is registered twice"):
        fruit.add("apple", 9)
    assert fruit.get("apple") == 1


def test_an_unknown_name_is_told_with_the_nearest(fruit: Registry[int]) -> None:
    with pytest.raises(UnknownNameError, match=r"^unknown fruit 'aple': did you mean 'apple'") as caught:
        fruit.get("aple")
    assert isinstance(caught.value, ConfigError)
    assert caught.value.exit_code == 2


def test_a_name_like_none_lists_them_all(fruit: Registry[int]) -> None:
    with pytest.raises(UnknownNameError, match="known are apple, cherry, grape"):
        fruit.get("zzzzzz")


def test_nearest_names_at_most_as_many_as_asked() -> None:
    assert nearest("ab", ["abc", "abd", "abe"], most=2).count(" or ") == 1
    assert nearest("x", []) == "known are "
