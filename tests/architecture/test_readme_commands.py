"""Every command that the README shows is run by a test that is named beside it."""

from __future__ import annotations

from source_tree import ROOT

from raydfkd.testing.readme_commands import command_tests, fenced_commands

REGISTRY = ROOT / "tests" / "readme_commands.yaml"


def test_the_readme_shows_exactly_the_commands_that_are_tested() -> None:
    shown = fenced_commands((ROOT / "README.md").read_text(encoding="utf-8"))
    assert set(shown) - set(command_tests(REGISTRY)) == set(), f"name the test of each in {REGISTRY.name}"
    assert set(command_tests(REGISTRY)) - set(shown) == set(), "not in the README any more"


def test_every_named_test_exists() -> None:
    for command, test in command_tests(REGISTRY).items():
        file, _, function = test.partition("::")
        assert (ROOT / file).is_file(), f"{command}: no file {file}"
        assert f"def {function.partition('[')[0]}(" in (ROOT / file).read_text(encoding="utf-8"), f"{command}: no test {test}"


def test_commands_are_taken_from_bash_blocks_only() -> None:
    text = (
        "```bash\n# a comment\nmake demo\nraydfkd run a.yaml \\\n  --out x   # why\n\n$ raydfkd methods\n```\n"
        "```yaml\na: 1\n```\n```python\nimport raydfkd\n```\n```sh\necho 'a#b'\n```\n"
    )
    assert fenced_commands(text) == ["make demo", "raydfkd run a.yaml --out x", "raydfkd methods", "echo 'a#b'"]
