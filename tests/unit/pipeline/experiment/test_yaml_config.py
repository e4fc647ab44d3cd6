"""From YAML and overrides to a model: what is read, and what each mistake of a user's is told as."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, model_validator

from raydfkd.errors import ConfigError
from raydfkd.pipeline.experiment.yaml_files import apply_overrides, dump_yaml, merge, read_yaml, validate


class Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Uniform(Strict):
    kind: Literal["uniform"] = "uniform"


class Prioritized(Strict):
    kind: Literal["prioritized"] = "prioritized"
    priority_exponent: float = Field(0.6, ge=0)
    bounds: tuple[float, float] = (0.0, 1.0)


class Student(Strict):
    model: str
    widths: list[int] = []
    temperature: int | float | None = None
    sampler: Annotated[Uniform | Prioritized, Field(discriminator="kind")] | None = None

    @model_validator(mode="after")
    def _no_resnet_without_widths(self) -> Student:
        if self.model == "custom" and not self.widths:
            raise ValueError("model custom needs widths")
        return self


class Tree(Strict):
    mode: Literal["lockstep", "decoupled"] = "lockstep"
    seed: int = Field(0, ge=0)
    learning_rate: float = 0.1
    students: dict[str, Student] = {}
    out: Path | None = None


def refusal(tree: dict) -> str:
    with pytest.raises(ConfigError) as caught:
        validate(Tree, tree, "exp.yaml")
    text = str(caught.value)
    assert text.startswith("exp.yaml: ")
    assert "\n" not in text
    return text.removeprefix("exp.yaml: ")


def test_reads_a_mapping_and_an_exponent_without_a_point_is_a_number(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text("seed: 3\nlearning_rate: 1e-3\nsmall: -2E4\nname: e5\n")
    assert read_yaml(path) == {"seed": 3, "learning_rate": 0.001, "small": -20000.0, "name": "e5"}


def test_an_empty_file_is_an_empty_mapping(tmp_path):
    (tmp_path / "a.yaml").write_text("# nothing\n")
    assert read_yaml(tmp_path / "a.yaml") == {}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: [1, 2\nb: 3\n", "line 2, column"),
        ("a: 1\na: 2\n", "line 2, column 1: key 'a' is given twice, in lines 1 and 2: remove one"),
        ("- 1\n- 2\n", "holds a list"),
        ("just words", "holds a string"),
        ("a: !!python/object/apply:os.system ['echo hi']", "line 1, column 4: could not determine a constructor"),
        ("a: \x01", "not valid YAML"),
        ("? [1]\n: 2\n", "line 1"),
    ],
)
def test_what_is_not_a_yaml_mapping_is_refused_with_its_place(tmp_path, text, expected):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=expected) as caught:
        read_yaml(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_unreadable_files_are_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"nowhere\.yaml does not exist"):
        read_yaml(tmp_path / "nowhere.yaml")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_yaml(tmp_path)
    (tmp_path / "a.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_yaml(tmp_path / "a.yaml")


def test_overrides_set_nested_values_and_leave_the_input_alone():
    tree = {"a": {"b": 1, "list": [{"x": 1}, {"x": 2}]}, "none": None}
    changed = apply_overrides(tree, ["a.b=2", "a.list.1.x=[3, 4]", "new.deep=1e-3", "none.key=true", "s=x=y", "n=null"])
    assert changed == {
        "a": {"b": 2, "list": [{"x": 1}, {"x": [3, 4]}]},
        "none": {"key": True},
        "new": {"deep": 0.001},
        "s": "x=y",
        "n": None,
    }
    assert tree == {"a": {"b": 1, "list": [{"x": 1}, {"x": 2}]}, "none": None}


def test_a_named_data_set_in_its_short_form_can_be_changed():
    tree = {"evaluation": {"dataset": "cifar10/test"}, "model": "cifar10/test"}
    in_full = {"kind": "named", "name": "cifar10", "split": "test", "max_images": 100}
    changed = {"evaluation": {"dataset": in_full}, "model": "cifar10/test"}
    assert apply_overrides(tree, ["evaluation.dataset.max_images=100"]) == changed
    assert merge(tree, {"evaluation": {"dataset": {"max_images": 100}}}) == changed
    assert merge(tree, {"evaluation": {"dataset": {"kind": "digits"}}})["evaluation"] == {"dataset": {"kind": "digits"}}
    with pytest.raises(ConfigError, match="goes through a, which is a string"):
        apply_overrides({"a": "mine/test"}, ["a.b=1"])


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("novalue", "not of the form"),
        ("=1", "not of the form"),
        ("a..b=1", "not of the form"),
        ("a.b=", "write a.b=null"),
        ("a.b.c=1", "goes through a.b, which is a number"),
        ("list.2=1", "item '2' of the list list: allowed is 0 to 1"),
        ("list.x=1", "allowed is 0 to 1"),
        ("empty.0=1", "it is empty"),
        ("a.b=[1", "override 'a.b=.1', line 1, column"),
    ],
)
def test_malformed_overrides_are_refused(override, expected):
    with pytest.raises(ConfigError, match=expected):
        apply_overrides({"a": {"b": 1}, "list": [1, 2], "empty": []}, [override])


def test_a_valid_tree_becomes_the_model():
    tree = {"students": {"small": {"model": "x", "sampler": {"kind": "prioritized", "priority_exponent": 1}}}}
    model = validate(Tree, tree, "exp.yaml")
    assert isinstance(model.students["small"].sampler, Prioritized)


@pytest.mark.parametrize(
    ("tree", "expected"),
    [
        ({"sead": 1}, "unknown key sead: did you mean 'seed'?"),
        ({"students": {"s": {"modle": "x"}}}, "unknown key students.s.modle: did you mean 'model' or"),
        (
            {"students": {"s": {"model": "x", "sampler": {"kind": "prioritized", "priority_exponnt": 1}}}},
            "unknown key students.s.sampler.priority_exponnt: did you mean 'priority_exponent'?",
        ),
        ({"mode": "lokstep"}, "mode is 'lokstep': it must be 'lockstep' or 'decoupled' (did you mean 'lockstep'?)"),
        ({"seed": -1}, "seed is -1: it must be greater than or equal to 0"),
        ({"seed": "many"}, "seed is 'many': it must be a valid integer"),
        ({"students": {"s": {}}}, "students.s.model is missing: give it a value"),
        ({"students": {"s": 5}}, "students.s is 5: it must be"),
        ({"students": {"s": {"model": "x", "widths": [1, "b"]}}}, "students.s.widths.1 is 'b': it must be a valid integer"),
        (
            {"students": {"s": {"model": "x", "sampler": {"kind": "prioritised"}}}},
            "unknown students.s.sampler.kind 'prioritised': did you mean 'prioritized'?",
        ),
        ({"students": {"s": {"model": "x", "sampler": {}}}}, "students.s.sampler.kind is missing: give it a value"),
        ({"students": {"s": {"model": "x", "sampler": 3}}}, "students.s.sampler is 3: it must"),
        (
            {"students": {"s": {"model": "x", "sampler": {"kind": "prioritized", "bounds": [0, "top"]}}}},
            "students.s.sampler.bounds.1 is 'top': it must be a valid number",
        ),
        (
            {"students": {"s": {"model": "x", "temperature": "hot"}}},
            "students.s.temperature is 'hot': it must be a valid integer or it must be a valid number",
        ),
        ({"students": {"s": {"model": "custom"}}}, "students.s: model custom needs widths"),
    ],
)
def test_each_mistake_is_one_sentence_with_path_value_and_what_is_allowed(tree, expected):
    assert refusal(tree).startswith(expected)


def test_a_misspelt_required_key_is_told_as_unknown_and_further_mistakes_are_named():
    told = refusal({"students": {"s": {"modle": "x"}}, "seed": "x"})
    assert told == "unknown key students.s.modle: did you mean 'model' or 'sampler'? (also wrong: seed, students.s.model)"


def test_dumped_yaml_reads_back_to_an_equal_model(tmp_path):
    student = Student(model="x", widths=[1, 2], sampler=Prioritized(priority_exponent=1e-7), temperature=float("inf"))
    model = Tree(mode="decoupled", learning_rate=3e-5, students={"a": student}, out=Path("x/y"))
    (tmp_path / "c.yaml").write_text(dump_yaml(model))
    assert validate(Tree, read_yaml(tmp_path / "c.yaml"), "c.yaml") == model


@pytest.mark.parametrize(
    ("key", "read_as"),
    [("no", "true or false"), ("on", "true or false"), ("1", "a number"), ("1.5", "a number"), ("~", "null")],
)
def test_a_key_that_yaml_does_not_read_as_text_is_to_be_quoted(tmp_path, key, read_as):
    path = tmp_path / "c.yaml"
    path.write_text(f"students:\n  {key}: {{model: x}}\n")
    with pytest.raises(ConfigError) as caught:
        read_yaml(path)
    assert str(caught.value) == f"{path}, line 2, column 3: the key {key} is read as {read_as}: quote it ('{key}')"
    path.write_text(f"students:\n  '{key}': {{model: x}}\n")
    assert read_yaml(path) == {"students": {key: {"model": "x"}}}


def test_numbers_are_those_of_yaml_1_2(tmp_path):
    texts = ["1e-3", "-.5", "2.", "1_000", "0x10", "1:30", "2024-05-01", ".inf", "0", "1e5x"]
    (tmp_path / "c.yaml").write_text(f"a: [{', '.join(texts)}]\nseed: 010\n")
    tree = read_yaml(tmp_path / "c.yaml")
    assert tree["a"] == [1e-3, -0.5, 2.0, 1000, 16, "1:30", "2024-05-01", float("inf"), 0, "1e5x"]
    assert validate(Tree, {"seed": tree["seed"], "students": {}}, "c.yaml").seed == 10, "and not eight"


def test_tabs_and_unquoted_words_say_what_to_write(tmp_path):
    (tmp_path / "c.yaml").write_text("a:\n\tb: 1\n")
    with pytest.raises(ConfigError, match=r"line 2, column 1: .* start any token: indent with spaces, not tabs$"):
        read_yaml(tmp_path / "c.yaml")
    assert refusal({"students": {"s": {"model": False}}}) == (
        "students.s.model is False: it must be a valid string: quote it, because YAML reads yes, no, on and off as true "
        "and false"
    )
    assert refusal({"students": {"s": {"model": 18}}}) == "students.s.model is 18: it must be a valid string: quote it"


def test_no_message_shows_a_memory_address():
    assert refusal({"students": {"s": {"model": object()}}}) == "students.s.model is <object object>: it must be a valid string"
