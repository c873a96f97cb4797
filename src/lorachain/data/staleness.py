"""Whether a source still contains what was read from it. Only content counts, no date, location or path spelling."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

from lorachain.data import hub
from lorachain.data.exam_files import exam_files
from lorachain.data.plain_text import plain_text_files
from lorachain.data.read_options import ReadOptions
from lorachain.data.sources import Source, SourceInfo, name_within, resolve, split_options, suffix_of, walk
from lorachain.data.tables import DEFAULTS, TABLE_SUFFIXES
from lorachain.errors import DataError
from lorachain.provenance import sha256_file

Reading = Literal["plain text", "dictionary", "instructions", "exam for training", "exam for validation"]
SAMPLE_PARTS: dict[Reading, str] = {
    "plain text": "plain_text.jsonl",
    "dictionary": "dictionary.jsonl",
    "instructions": "instruct.jsonl",
    "exam for training": "exam",
    "exam for validation": "exam",
}
_FILES: dict[Reading, Callable[[Path], list[Path]]] = {
    "plain text": plain_text_files,
    "dictionary": lambda root: walk(root, TABLE_SUFFIXES),
    "instructions": lambda root: walk(root, TABLE_SUFFIXES),
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
    """What of the source `name` differs from what was read, in a few words; empty where nothing does.

    Args:
        read: the `SourceInfo` of that reading, as a dictionary.
        ask_hub: for a hub data set, whether to query the hub for its commit; otherwise only an offline cache is.
        on_message: called where the hub could not be queried; the data set then counts as unchanged.

    Raises:
        DataError: `name` is not a source, or its directory cannot be listed or has no data.
    """
    source = resolve(name, sample=SAMPLE_PARTS[reading])
    different = f"the source was {read['name']} ({read['kind']}), is {name} ({source.kind})"
    if (source.kind == "hub") != (read["kind"] == "hub"):
        return different
    if source.path is not None and source.options != _options_of(read["name"]):
        return f"the source was read as {read['name']}, is now {name}"
    if source.path is None:
        if name != read["name"]:
            return different
        return _changed_on_the_hub(read, source, ask_hub, on_message)
    if reading.startswith("exam") and source.short_name != read.get("short_name", source.short_name):
        return different  # the exam's name is part of every question
    difference = _difference(read, source, source.path, reading)
    return different if difference and name != read["name"] else difference


def reads_the_same(info: SourceInfo, reading: Reading) -> bool:
    """Whether reading the source again is certain to give the same: unlike for `changed_since`, a hub data set whose
    commit is not known may have changed.

    Raises:
        DataError: the source is gone or cannot be read, or the hub cannot be queried.
    """
    source = resolve(info.name, sample=SAMPLE_PARTS[reading])
    if source.kind != info.kind:
        return False
    if source.path is not None:
        return not changed_since(info.as_dict(), info.name, reading)
    if info.rows == info.bad_rows == 0:
        return True  # named and never reached
    now = hub.commit_of(source.repo).revision or hub.cached_revision(source.repo, source.config)
    return now is not None and now == info.revision


def _options_of(name: str) -> ReadOptions:
    try:
        return split_options(name)[1]
    except DataError:  # a file that is gone, whose own name has a `#`
        return DEFAULTS


def _difference(read: Mapping[str, Any], source: Source, root: Path, reading: Reading) -> str:
    files: dict[str, str] = read["files"]
    if not root.is_dir():
        if not files:
            return ""  # named and never reached, or an exam file of another split
        same = [suffix_of(name) == suffix_of(root.name) and _sha256(root) == sha for name, sha in files.items()]
        return "" if same == [True] else f"{root.name} changed"
    present = {name_within(source, path): path for path in _FILES[reading](root)}
    last = None if read.get("read_to_end", False) else max(files, default="")
    for name in sorted(present.keys() | files.keys()):
        if last is not None and name > last:
            break
        if name not in present:
            return f"{name} of {source.name} is gone"
        if name not in files:
            return f"{name} was added to {source.name}"
        if _sha256(present[name]) != files[name]:
            return f"{name} changed"
    return ""


def _sha256(path: Path) -> str:
    """Raises DataError where it cannot be read."""
    try:
        return sha256_file(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error}).") from error


def _changed_on_the_hub(
    read: Mapping[str, Any], source: Source, ask_hub: bool, on_message: Callable[[str], None]
) -> str:
    before = read.get("revision")
    if before is None:
        return ""
    if hub.offline():
        cached = hub.cached_revision(source.repo, source.config)
        if cached in (None, before):
            return ""
        return f"{source.name} was read at commit {before[:8]}, the cache has commit {str(cached)[:8]}"
    if not ask_hub:
        return ""
    try:
        now = hub.commit_of(source.repo)
    except DataError as error:
        on_message(f"cannot check whether {source.name} changed, it counts as unchanged ({error})")
        return ""
    if now.revision == before or now.files_sha256 == read.get("revision_files"):
        return ""
    return f"{source.name} changed on the hub: commit {before[:8]} was read, it is now at {str(now.revision)[:8]}"
