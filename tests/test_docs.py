"""The documentation names files that exist, links that resolve, and every setting with its default."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "lorachain"
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"])
PLANNED: set[str] = set()
"""Named with "will"."""
_LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(#[^)\s]*)?\)")
_PATH = re.compile(r"`((?:[\w.-]+/)+[\w.-]+\.(?:py|md|toml))`")


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub makes of a page's headings."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for target, anchor in _LINK.findall(page.read_text(encoding="utf-8")):
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), f"{target} does not exist"
        assert not anchor or anchor[1:] in anchors(path), f"{target}{anchor}: no such heading"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_files_that_are_named_exist(page: Path) -> None:
    bases = (ROOT, PACKAGE, ROOT / "tests")
    named = set(_PATH.findall(page.read_text(encoding="utf-8"))) - PLANNED
    assert {path for path in named if not any((base / path).exists() for base in bases)} == set()


def test_the_map_for_contributors_is_that_of_the_package() -> None:
    listing = re.search(r"<!-- map -->(.+?)<!-- /map -->", (ROOT / "CONTRIBUTING.md").read_text("utf-8"), re.DOTALL)
    assert listing
    mapped, parents = set(), [""]
    for line in re.findall(r"^ {4}( *\S+)", listing[1], flags=re.MULTILINE):
        depth = (len(line) - len(line.lstrip())) // 2
        path = parents[depth] + line.strip()
        parents[depth + 1 :] = [path]
        mapped.add(path)
    files = {path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py") if not path.name.startswith("__")}
    assert {path for path in mapped if path.endswith(".py")} == files
    assert {path for path in mapped if not (PACKAGE / path).exists()} == set()


def defaults(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from defaults(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def documented_settings() -> dict[str, str]:
    """Dotted key to default, as the tables of docs/configuration.md have them; those of the stages are left out."""
    settings: dict[str, str] = {}
    section = ""
    for line in (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            header = re.fullmatch(r"#+ `\[([\w.]+)\]`", line)
            section = f"{header[1].replace('NAME', 'exam')}." if header else "" if line == "## Keys" else "-"
            section = "-" if section.startswith("stages.") else section
        elif section != "-" and (row := re.match(r"\| `(\w+)` \| (.+?) \|", line)):
            settings[section + row[1]] = row[2].strip("`")
    return settings


def test_every_setting_is_documented_with_its_default() -> None:
    text = (PACKAGE / "chains" / "korean_medical.toml").read_text(encoding="utf-8")
    written = {
        key: value for key, value in defaults(tomllib.loads(text)) if not key.startswith(("stages.", "sources."))
    }
    documented = documented_settings()
    assert documented.keys() == written.keys() | {"lora.alpha"}
    in_other_words = {"lora.alpha", "lora.target_modules"}
    for key in written.keys() - in_other_words:
        assert tomllib.loads(f"value = {documented[key]}")["value"] == written[key], key


@pytest.mark.parametrize(
    ("page", "anchor"), [("docs/configuration.md", "model_pathsjson"), ("CONTRIBUTING.md", "adding-a-stage")]
)
def test_anchors_are_githubs(page: str, anchor: str) -> None:
    assert anchor in anchors(ROOT / page)
