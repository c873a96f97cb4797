"""Does a source still hold what was read from it? Content decides: no date, no place, no way of spelling it."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from lorachain.data import hub
from lorachain.data.exam_files import exam_files
from lorachain.data.plain_text import plain_text_files
from lorachain.data.rows import TABLE_SUFFIXES
from lorachain.data.sources import Source, SourceInfo, name_within, resolve, suffix_of, walk
from lorachain.errors import DataError
from lorachain.provenance import sha256_file

Reading = Literal["plain text", "dictionary", "exam for training", "exam for validation"]
_SAMPLES: dict[Reading, str] = {
    "plain text": "plain_text.jsonl",
    "dictionary": "dictionary.jsonl",
    "exam for training": "exam",
    "exam for validation": "exam",
}
_FILES: dict[Reading, Callable[[Path], list[Path]]] = {
    "plain text": plain_text_files,
    "dictionary": lambda root: walk(root, TABLE_SUFFIXES),
    "exam for training": lambda root: [file.path for file in exam_files(root) if file.split == "train"],
    "exam for validation": lambda root: [file.path for file in exam_files(root) if file.split in ("dev", "fewshot")],
}


def changed_since(
    read: Mapping[str, Any],
    name: str,
    reading: Reading,
    *,
    ask_hub: bool = False,
    on_message: Callable[[str], None] = lambda text: None,
) -> str:
    """What of the source `name` is not as it was read, in a few words; empty where nothing is.

    Args:
        read: the `SourceInfo` of that reading, as a dictionary.
        ask_hub: for a hub data set, whether the hub is asked for its commit; otherwise only an offline cache is.
        on_message: is told where the hub could not be asked; the data set then counts as unchanged.

    Raises:
        DataError: `name` is no source, or its folder cannot be listed or holds no data.
    """
    source = resolve(name, sample=_SAMPLES[reading])
    another = f"the source was {read['name']} ({read['kind']}), is {name} ({source.kind})"
    if (source.kind == "hub") != (read["kind"] == "hub"):
        return another
    if source.path is None:
        if name != read["name"]:
            return another
        return _moved_on_the_hub(read, source, ask_hub, on_message)
    if reading.startswith("exam") and source.short_name != read.get("short_name", source.short_name):
        return another  # the exam's name stands in every question
    difference = _difference(read, source, source.path, reading)
    return another if difference and name != read["name"] else difference


def reads_the_same(info: SourceInfo, reading: Reading) -> bool:
    """Whether reading the source again is certain to give what it gave: unlike `changed_since`, a hub data set whose
    commit is not known may give something else.

    Raises:
        DataError: the source is gone or cannot be read, or the hub cannot be asked.
    """
    source = resolve(info.name, sample=_SAMPLES[reading])
    if source.kind != info.kind:
        return False
    if source.path is not None:
        return not changed_since(info.as_dict(), info.name, reading)
    if info.rows == info.bad_rows == 0:
        return True  # named, and never reached
    now = hub.commit_of(source.repo).revision or hub.cached_revision(source.repo, source.config)
    return now is not None and now == info.revision


def _difference(read: Mapping[str, Any], source: Source, root: Path, reading: Reading) -> str:
    files: dict[str, str] = read["files"]
    if not root.is_dir():
        if not files and not read.get("read_to_end", False):
            return ""  # named, and never reached
        same = [suffix_of(name) == suffix_of(root.name) and _sha256(root) == sha for name, sha in files.items()]
        return "" if same == [True] else f"{root.name} changed"
    found = {name_within(source, path): path for path in _FILES[reading](root)}
    end = None if read.get("read_to_end", False) else max(files, default="")
    for name in sorted(found.keys() | files.keys()):
        if end is not None and name > end:
            break
        if name not in found:
            return f"{name} of {source.name} is gone"
        if name not in files:
            return f"{name} was added to {source.name}"
        if _sha256(found[name]) != files[name]:
            return f"{name} changed"
    return ""


def _sha256(path: Path) -> str:
    """Raises DataError where it cannot be read."""
    try:
        return sha256_file(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error}).") from error


def _moved_on_the_hub(read: Mapping[str, Any], source: Source, ask_hub: bool, on_message: Callable[[str], None]) -> str:
    before = read.get("revision")
    if before is None:
        return ""
    if hub.offline():
        cached = hub.cached_revision(source.repo, source.config)
        if cached in (None, before):
            return ""
        return f"the cache holds {source.name} at commit {str(cached)[:8]}, commit {before[:8]} was read"
    if not ask_hub:
        return ""
    try:
        now = hub.commit_of(source.repo)
    except DataError as error:
        on_message(f"whether {source.name} changed cannot be asked, it counts as unchanged ({error})")
        return ""
    if now.revision == before or now.files_sha256 == read.get("revision_files"):
        return ""
    return f"{source.name} changed on the hub: commit {before[:8]} was read, it is at {str(now.revision)[:8]}"
