"""What the package says of itself: metadata without addresses, the papers to cite, a changelog of this version's form."""

from __future__ import annotations

import re
import tomllib

import yaml
from source_tree import ROOT

from raydfkd import __version__

PAPERS = ("ssdkd", "hidfd", "cde", "surrogate")


def test_the_metadata_have_keywords_and_classifiers_and_no_addresses() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert len(project["keywords"]) == len(set(project["keywords"])) >= 5
    assert "Topic :: Scientific/Engineering :: Artificial Intelligence" in project["classifiers"]
    assert not any(line.startswith("License ::") for line in project["classifiers"]), "the license field says it"
    assert "urls" not in project
    assert re.search(r"https?://", str(project)) is None


def test_the_citation_names_the_four_papers_as_their_tables_do() -> None:
    text = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    cited = yaml.safe_load(text)
    assert (cited["cff-version"], cited["version"], cited["license"]) == ("1.2.0", __version__, "Apache-2.0")
    assert "://" not in text
    papers = [yaml.safe_load((ROOT / f"experiments/{name}.yaml").read_text(encoding="utf-8"))["paper"] for name in PAPERS]
    found = {
        reference["title"]: ", ".join(f"{one['given-names']} {one['family-names']}" for one in reference["authors"])
        for reference in cited["references"]
    }
    assert found == {paper["title"]: paper["authors"].strip() for paper in papers}
    assert [str(one["year"]) for one in cited["references"]] == [paper["venue"].split()[-1] for paper in papers]


def test_the_changelog_is_of_the_usual_form() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## \[(.+?)\]", text, re.MULTILINE)
    assert headings[0] == "Unreleased"
    sections = re.findall(r"^### (.+)$", text, re.MULTILINE)
    assert set(sections) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    assert len(text.splitlines()) <= 80
