"""Every example configuration is accepted, changes what it says, and needs the memory that docs/memory.md says."""

import json
import re
import shutil
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lorachain.config_reading import read_toml

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "src" / "lorachain" / "examples").glob("*.toml"))
SAMPLES = ROOT / "src" / "lorachain" / "data" / "samples"
_NEEDS = re.compile(r"GPU memory: about (\d+) GB of (\d+) GB")
Run = Callable[..., tuple[int, str, str]]


def leaves(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


@pytest.fixture
def data_beside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The local data that air_gapped.toml names."""
    (tmp_path / "data" / "plain_text").mkdir(parents=True)
    shutil.copy(SAMPLES / "plain_text.jsonl", tmp_path / "data" / "plain_text")
    rows = [json.loads(line) for line in (SAMPLES / "dictionary.jsonl").read_text(encoding="utf-8").splitlines()[:9]]
    table = "term,definition\n" + "".join(f'"{row["term"]}","{row["definition"]}"\n' for row in rows)
    (tmp_path / "data" / "dictionary.csv").write_text(table, encoding="utf-8")
    shutil.copytree(SAMPLES / "exam", tmp_path / "data" / "KorMedMCQA")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
@pytest.mark.usefixtures("data_beside")
def test_a_dry_run(tiny_workspace: Callable[..., Path], lorachain: Run, example: Path) -> None:
    local = example.stem == "air_gapped"
    root = tiny_workspace(sources="hub" if local else "embedded")
    code, out, err = lorachain("run", "--dry-run", "--model", "tiny", "--workspace", root, "--config", example.stem)
    assert code == 0, err
    planned = json.loads(out)
    resolved = dict(leaves(planned["configuration"]))
    for key, value in leaves(tomllib.loads(example.read_text(encoding="utf-8"))):
        assert resolved[key] == value, key
    expected = {
        "air_gapped": {"data/plain_text", "data/dictionary.csv", "data/KorMedMCQA"},
        "quick_look": {"sample", "sample:quick-look"},
    }
    assert {source["name"] for source in planned["sources"]} == expected.get(example.stem, {"sample"})
    assert all(source["records"] > 5 for source in planned["sources"])


def memory_table() -> dict[str, list[str]]:
    """The first table of docs/memory.md: row to its cells for 270m, 4B and 27B."""
    lines = (ROOT / "docs" / "memory.md").read_text(encoding="utf-8").splitlines()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]
    table: dict[str, list[str]] = {}
    for name, *cells in rows:
        if len(cells) == 3:
            table.setdefault(name, cells)
    return table


def gigabytes(text: str) -> float:
    """`0.7 + 0.4 GB` as 1.1."""
    return sum(float(number) for number in re.findall(r"\d+(?:\.\d+)?", text))


@pytest.mark.parametrize(
    "example", [path for path in EXAMPLES if path.stem.startswith("medgemma")], ids=lambda path: path.stem
)
def test_the_memory_of_a_comment_is_that_of_the_documentation(example: Path) -> None:
    text = example.read_text(encoding="utf-8")
    found = _NEEDS.search(text)
    assert found
    said, card = int(found[1]), int(found[2])
    settings = read_toml(Path(example.stem))
    column = 1 if "_4b_" in example.stem else 2
    table = memory_table()
    base = table["nf4" if settings.get("quantization") == "nf4" else "base"][column]
    kept = (
        "activations with gradient checkpointing" if settings["training"]["gradient_checkpointing"] else "activations"
    )
    tokens = settings["training"].get("micro_batch_tokens", 4096)
    needed = (
        gigabytes(base)
        + gigabytes(table["LoRA with its optimizer"][column])
        + gigabytes(table[kept][column]) * tokens / 4096
    )
    assert said == pytest.approx(needed, abs=0.6)
    assert f"_{card}gb" in example.stem
    assert needed < 0.85 * card * 2**30 / 1e9  # the rest is for the CUDA context and fragmentation


def test_the_page_lists_every_example() -> None:
    page = (ROOT / "docs" / "examples.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(\w+)` \|", page, flags=re.MULTILINE)) == {path.stem for path in EXAMPLES}
