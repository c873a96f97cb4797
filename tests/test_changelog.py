"""The changelog is kept, and package, project and citation name its newest version."""

import re
import tomllib
from datetime import date
from pathlib import Path

from lorachain import __version__

ROOT = Path(__file__).parents[1]
KINDS = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}


def read(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def sections() -> list[tuple[str, str, str]]:
    """(version, date or "", body) of each section of the changelog, in its order."""
    parts = re.split(r"^## \[(.+?)\](?: - (\S+))?\n", read("CHANGELOG.md"), flags=re.MULTILINE)
    return list(zip(parts[1::3], [stamp or "" for stamp in parts[2::3]], parts[3::3], strict=True))


def test_the_changelog_opens_with_unreleased_changes() -> None:
    version, stamp, _ = sections()[0]
    assert (version, stamp) == ("Unreleased", "")


def test_releases_are_dated_and_newest_first() -> None:
    releases = sections()[1:]
    versions = [tuple(map(int, version.split("."))) for version, _, _ in releases]
    dates = [date.fromisoformat(stamp) for _, stamp, _ in releases]
    assert versions == sorted(set(versions), reverse=True)
    assert dates == sorted(dates, reverse=True)


def test_every_release_lists_changes_by_kind() -> None:
    for version, _, body in sections()[1:]:
        parts = re.split(r"^### (.+)\n", body, flags=re.MULTILINE)
        assert not parts[0].strip(), version
        assert set(parts[1::2]) <= KINDS, version
        assert parts[1:], version
        for kind, entries in zip(parts[1::2], parts[2::2], strict=True):
            assert re.search(r"^- \S", entries, flags=re.MULTILINE), f"{version}: {kind} is empty"


def test_package_project_citation_and_changelog_have_one_version() -> None:
    newest, stamp, _ = sections()[1]
    project = tomllib.loads(read("pyproject.toml"))["project"]
    citation = dict(re.findall(r"^([\w-]+): \"?([^\"\n]+)", read("CITATION.cff"), flags=re.MULTILINE))
    assert newest == __version__
    assert project["version"] == __version__
    assert citation["version"] == __version__
    assert citation["date-released"] == stamp
