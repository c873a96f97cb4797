"""What a source string means, which files are read, and fingerprints that depend on the content."""

import hashlib
from importlib.resources import files as package_files
from pathlib import Path

import pytest

from lorachain.data import sources
from lorachain.data.dictionary import load_dictionary
from lorachain.data.exam import load_exam
from lorachain.data.plain_text import stream_plain_text
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
    with pytest.raises(DataError, match=r"neither a path|not a path"):
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
    files = walk(tmp_path, (".jsonl", ".csv"))
    assert [path.relative_to(tmp_path).as_posix() for path in files] == ["a.jsonl", "b/1.CSV", "b/2.jsonl"]
    with pytest.raises(DataError, match=r"no file of a known type \(\.parquet\)"):
        walk(tmp_path, (".parquet",))


def test_fingerprint_depends_on_names_and_content_but_not_on_the_place(tmp_path: Path) -> None:
    def info(directory: str, files: dict[str, str]) -> sources.SourceInfo:
        (tmp_path / directory).mkdir()
        for name, text in files.items():
            (tmp_path / directory / name).write_text(text, encoding="utf-8")
        return load_dictionary([str(tmp_path / directory)]).sources[0]

    first = info("one", {"a.jsonl": ROW, "b.jsonl": ROW})
    assert first.files["a.jsonl"] == hashlib.sha256(ROW.encode()).hexdigest()
    assert first.as_dict()["rows"] == 2
    assert first.sha256 == info("same", {"a.jsonl": ROW, "b.jsonl": ROW}).sha256
    others = [info("changed", {"a.jsonl": ROW, "b.jsonl": ROW + "\n"}), info("named", {"a.jsonl": ROW, "c.jsonl": ROW})]
    assert len({first.sha256, *(other.sha256 for other in others)}) == 3


# ---- links -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A file that nobody named as data."""
    path = tmp_path / "outside" / "secret.jsonl"
    path.parent.mkdir()
    path.write_text('{"term": "비밀", "english": "secret", "text": "비밀"}\n', encoding="utf-8")
    return path


def refuse_everywhere(directory: Path, message: str) -> None:
    """Every reader refuses the directory."""
    readers = (
        lambda name: list(stream_plain_text([name])),
        lambda name: load_dictionary([name]),
        lambda name: load_exam([name], "train"),
    )
    for read in readers:
        with pytest.raises(DataError) as raised:
            read(str(directory))
        assert message in str(raised.value)


@pytest.mark.parametrize("relative", [True, False])
@pytest.mark.parametrize("kind", ["file", "directory", "chain", "dangling"])
def test_links_that_lead_out_of_the_directory(tmp_path: Path, outside: Path, relative: bool, kind: str) -> None:
    corpus = tmp_path / "corpus"
    (corpus / "inner").mkdir(parents=True)
    (corpus / "a.jsonl").write_text(ROW, encoding="utf-8")
    target = {"file": outside, "directory": outside.parent, "chain": outside, "dangling": tmp_path / "gone.jsonl"}[kind]
    link = corpus / "inner" / ("linked" if kind == "directory" else "train.jsonl")
    path = Path("../..", target.relative_to(tmp_path)) if relative else target
    if kind == "chain":
        (corpus / "step").symlink_to(path if not relative else Path("..", target.relative_to(tmp_path)))
        path = Path("..", "step")
    link.symlink_to(path)
    refuse_everywhere(corpus, f"{link}: a link that leads out of {corpus}, to {target}")


def test_links_within_the_directory_and_a_source_that_is_a_link(tmp_path: Path, outside: Path) -> None:
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    (corpus / "a.jsonl").write_text(ROW, encoding="utf-8")
    (corpus / "b.jsonl").symlink_to("a.jsonl")
    (tmp_path / "named").symlink_to("corpus", target_is_directory=True)
    (tmp_path / "named.jsonl").symlink_to(outside)
    assert load_dictionary([str(tmp_path / "named")]).sources[0].rows == 2
    assert load_dictionary([str(tmp_path / "named.jsonl")]).entries[0].term == "비밀"
    assert load_dictionary([str(tmp_path / "named" / "b.jsonl")]).sources[0].rows == 1


def test_links_that_are_not_data_are_ignored(tmp_path: Path, outside: Path) -> None:
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "a.jsonl").write_text(ROW, encoding="utf-8")
    for name in ("README.md", ".hidden.jsonl", ".venv"):
        (tmp_path / "corpus" / name).symlink_to(outside)
    assert load_dictionary([str(tmp_path / "corpus")]).sources[0].rows == 1


def test_a_snapshot_of_the_hubs_cache(tmp_path: Path, outside: Path) -> None:
    """The cache keeps a data set's files as links to `blobs`; only those are followed."""
    repository = tmp_path / "hub" / "datasets--owner--terms"
    snapshot = repository / "snapshots" / ("a" * 40)
    (repository / "blobs").mkdir(parents=True)
    (snapshot / "data").mkdir(parents=True)
    (repository / "blobs" / "0123").write_text(ROW, encoding="utf-8")
    (snapshot / "data" / "train.jsonl").symlink_to("../../../blobs/0123")
    for source in (snapshot, snapshot / "data"):
        assert load_dictionary([str(source)]).sources[0].rows == 1
    (snapshot / "data" / "more.jsonl").symlink_to(outside)
    with pytest.raises(DataError, match=r"more\.jsonl: a link that leads out of"):
        load_dictionary([str(snapshot)])


def test_the_sample_may_be_installed_as_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Installers that keep a cache can link the package's files to it."""
    package = tmp_path / "site-packages" / "lorachain"
    installed = Path(str(package_files("lorachain")))
    package.mkdir(parents=True)
    (package / "data").mkdir()
    (package / "data" / "samples").mkdir()
    (package / "data" / "samples" / "exam").mkdir()
    (package / "data" / "samples" / "exam" / "doctor_train.jsonl").symlink_to(
        installed / "data" / "samples" / "exam" / "doctor" / "train.jsonl"
    )
    monkeypatch.setattr(sources, "package_files", lambda name: package)
    assert load_exam(["sample"], "train").questions[0].subject == "doctor"
