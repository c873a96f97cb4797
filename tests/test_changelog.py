"""The changelog is kept: it opens with what is unreleased, and names the version that the package says it is."""

import re
import tomllib
from pathlib import Path

from lorachain import __version__

ROOT = Path(__file__).parents[1]


def test_the_changelog_opens_with_unreleased_and_is_not_empty() -> None:
    headings = re.findall(r"^## \[(.+?)\]", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert headings[0] == "Unreleased"
    assert len(headings) == len(set(headings))


def test_package_and_project_are_of_one_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == __version__


def test_the_readme_maps_every_source_folder() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    folders = {p.parent.relative_to(ROOT / "src" / "lorachain") for p in (ROOT / "src" / "lorachain").rglob("*.py")}
    rooms = {folder.parts[0] for folder in folders if folder.parts}
    assert {room for room in rooms if f"{room}/" not in readme} == set()
