"""What a source string means, and fingerprints that follow the content."""

import hashlib
from pathlib import Path

import pytest

from lorachain.data import sources
from lorachain.data.dictionary import load_dictionary
from lorachain.data.sources import resolve, walk
from lorachain.errors import DataError

ROW = '{"term": "콜레라", "english": "Cholera"}\n'


def test_kinds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "name.v2").mkdir(parents=True)
    local = resolve("owner/name.v2", sample="x")
    assert (local.kind, local.short_name) == ("local", "name.v2")
    hub = resolve("wikimedia/wikipedia:20231101.ko", sample="x")
    assert (hub.kind, hub.repo, hub.config, hub.short_name) == (
        "hub", "wikimedia/wikipedia", "20231101.ko", "wikipedia",
    )  # fmt: skip
    assert resolve(".", sample="x").short_name == tmp_path.name


@pytest.mark.parametrize("name", ["", "nothing", "a/b/c", "data/rows.jsonl", "/no/such", "a/b:c:d", "한/글", "x\0y"])
def test_neither_a_path_nor_a_hub_id(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"neither a path|no path"):
        resolve(name, sample="x")


def test_the_sample_is_part_of_the_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data" / "samples").mkdir(parents=True)
    (tmp_path / "data" / "samples" / "dictionary.jsonl").write_text(ROW, encoding="utf-8")
    monkeypatch.setattr(sources, "package_files", lambda package: tmp_path)
    loaded = load_dictionary(["sample"])
    assert loaded.entries[0].term == "콜레라"
    assert loaded.sources[0].kind == "sample"
    assert list(loaded.sources[0].files) == ["dictionary.jsonl"]
    with pytest.raises(DataError, match="lacks exam"):
        resolve("sample", sample="exam")


def test_walk_is_sorted_and_follows_no_loop(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name in ("b/2.jsonl", "b/1.CSV", "a.jsonl", "b/notes.md", ".hidden.jsonl"):
        (tmp_path / name).write_text("x", encoding="utf-8")
    (tmp_path / "b" / "loop").symlink_to(tmp_path, target_is_directory=True)
    found = walk(tmp_path, (".jsonl", ".csv"))
    assert [path.relative_to(tmp_path).as_posix() for path in found] == ["a.jsonl", "b/1.CSV", "b/2.jsonl"]
    with pytest.raises(DataError, match=r"no file of a known type \(\.parquet\)"):
        walk(tmp_path, (".parquet",))


def test_fingerprint_follows_names_and_content_but_not_the_place(tmp_path: Path) -> None:
    def info(folder: str, files: dict[str, str]) -> sources.SourceInfo:
        (tmp_path / folder).mkdir()
        for name, text in files.items():
            (tmp_path / folder / name).write_text(text, encoding="utf-8")
        return load_dictionary([str(tmp_path / folder)]).sources[0]

    first = info("one", {"a.jsonl": ROW, "b.jsonl": ROW})
    assert first.files["a.jsonl"] == hashlib.sha256(ROW.encode()).hexdigest()
    assert first.as_dict()["rows"] == 2
    assert first.sha256 == info("same", {"a.jsonl": ROW, "b.jsonl": ROW}).sha256
    others = [info("changed", {"a.jsonl": ROW, "b.jsonl": ROW + "\n"}), info("named", {"a.jsonl": ROW, "c.jsonl": ROW})]
    assert len({first.sha256, *(other.sha256 for other in others)}) == 3
