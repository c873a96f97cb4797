"""What a source string names, what was read from it, and its fingerprint for provenance.

A source is `sample` (the embedded one), an existing file or folder, or a data set on the hub
(`owner/name` or `owner/name:config`). A local path named like one of the others is written `./sample`.
"""

import hashlib
import json
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from importlib.resources import files as package_files
from pathlib import Path
from typing import Literal

from lorachain.data import hub
from lorachain.data.rows import TABLE_SUFFIXES, Located, Tally, read_rows
from lorachain.data.text_io import open_file
from lorachain.errors import DataError

SAMPLE = "sample"
Kind = Literal["sample", "local", "hub"]
_HUB_ID = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/[\w.-]+)(?::(?P<config>[\w.-]+))?", re.ASCII)


@dataclass(frozen=True)
class SourceInfo:
    """Where records came from, for `training_info.json` and for telling whether a stage is stale."""

    name: str
    """As the user wrote it."""
    kind: Kind
    files: dict[str, str]
    """SHA-256 of each file that was read, by its path relative to the source. Empty for the hub."""
    sha256: str
    """Of what was read, wherever it lay: over the files' names within a folder (of a single file its suffix) and
    hashes; for the hub, over the rows in the order read; for an exam over its short name too."""
    short_name: str
    """What records call it; in an exam's records it is the exam's name."""
    rows: int
    """Records read and found valid, before duplicates and subjects not asked for are left out."""
    bad_rows: int
    revision: str | None = None
    """The hub's commit; None for files, and offline where the cache does not tell it."""
    revision_files: str | None = None
    """SHA-256 over that commit's files (`hub.Commit`); None for files, and offline."""
    read_to_end: bool = True
    """False where `max_samples` was reached before: files after the last one read then decide nothing."""

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


@dataclass(frozen=True)
class Source:
    """A source string, resolved. `path` for sample and local, `repo` and `config` for the hub."""

    name: str
    kind: Kind
    path: Path | None = None
    repo: str = ""
    config: str | None = None

    @property
    def short_name(self) -> str:
        """`sample`, the file's or folder's own name, or the last part of the hub id."""
        if self.path is None:
            return self.repo.rsplit("/", 1)[1]
        path = Path(os.path.abspath(self.path))
        return SAMPLE if self.kind == "sample" else path.name if path.is_dir() else path.stem


def resolve(name: str, *, sample: str) -> Source:
    """What `name` stands for. `sample` is the path of the embedded sample's part under `data/samples`.

    Raises:
        DataError: it is neither the sample, nor a path, nor formed as a hub id.
    """
    if name == SAMPLE:
        path = Path(str(package_files("lorachain").joinpath("data", "samples"))) / sample
        if not path.exists():
            raise DataError(f"sample: the installed package lacks {sample}. Install lorachain anew, or name a path.")
        return Source(name, "sample", path)
    try:
        path = Path(name).expanduser()
        if name.strip() and os.path.lexists(path):
            return Source(name, "local", path)
    except (OSError, RuntimeError, ValueError) as error:  # no home folder, a NUL in the name
        raise DataError(f"{name!r}: no path ({error}).") from error
    match = _HUB_ID.fullmatch(name)
    if match is None or path.suffix.casefold() in (*TABLE_SUFFIXES, ".txt"):
        raise DataError(
            f"{name!r}: neither a path that exists (current folder: {Path.cwd()}) nor a hub id (owner/name or "
            "owner/name:config) nor `sample`. Check the spelling."
        )
    return Source(name, "hub", None, match["repo"], match["config"])


def walk(root: Path, suffixes: Iterable[str]) -> list[Path]:
    """The files under `root` (or `root` itself) with one of `suffixes`, sorted; links to folders are not followed.

    Raises:
        DataError: a folder without such a file, or a folder that cannot be listed.
    """
    if not root.is_dir():
        return [root]

    def fail(error: OSError) -> None:
        raise DataError(f"{error.filename}: cannot be listed ({error.strerror}).") from error

    wanted = tuple(suffixes)
    found = [
        Path(folder, name)
        for folder, _, names in os.walk(root, onerror=fail)
        for name in names
        if Path(name).suffix.casefold() in wanted and not name.startswith(".")
    ]
    if not found:
        raise DataError(f"{root}: the folder holds no file of a known type ({', '.join(wanted)}).")
    return sorted(found, key=lambda path: path.relative_to(root).as_posix())


def name_within(source: Source, path: Path) -> str:
    """A file's path relative to its source; of a source that is one file, that file's name."""
    root = source.path
    return path.relative_to(root).as_posix() if root is not None and path != root else path.name


def suffix_of(name: str) -> str:
    """What decides how a file is read."""
    return Path(name).suffix.casefold()


class SourceReader:
    """Reads the rows of one source and keeps what `SourceInfo` needs: hashes, counts, revision."""

    def __init__(self, source: Source, *, skip_bad_rows: bool = False, named: bool = False) -> None:
        """`named`: the source's short name goes into what is read."""
        self.source = source
        self.tally = Tally(skip_bad_rows)
        self.named = named
        self.read_to_end = True
        self._files: dict[str, str] = {}
        self._stream = hashlib.sha256()
        self._commit: hub.Commit | None = None
        self._cached: str | None = None

    def open(self, path: Path) -> Path:
        """Takes a file into the fingerprint, before it is read; returns it.

        Raises:
            DataError: it cannot be read.
        """
        name = name_within(self.source, path)
        try:
            with open_file(path) as file:
                self._files[name] = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error}).") from error
        return path

    def again(self) -> "SourceReader":
        """A reader of the same source at the same commit, with counts of its own."""
        other = SourceReader(self.source, skip_bad_rows=self.tally.skip_bad_rows, named=self.named)
        other._commit = self._commit
        return other

    def also_read(self, other: "SourceReader") -> None:
        """Takes the files of a second reading of the same source into the fingerprint."""
        self._files |= other._files

    def file_rows(self, path: Path) -> Iterator[Located]:
        """Raises DataError as `read_rows` does."""
        return read_rows(self.open(path), self.tally)

    def hub_revision(self) -> str | None:
        """Pins the commit at the first call, so that all that is read is of one commit."""
        if self._commit is None:
            self._commit = hub.commit_of(self.source.repo)
        return self._commit.revision

    def hub_rows(self, config: str | None, split: str, *, streaming: bool) -> Iterator[Located]:
        """Raises DataError as `hub.rows` does."""
        repo, revision = self.source.repo, self.hub_revision()
        label = repo if config is None else f"{repo}:{config}"
        if revision is None:
            self._cached = hub.cached_revision(repo, config)
        for index, row in enumerate(hub.rows(repo, config, split, revision, streaming=streaming), start=1):
            text = json.dumps(row, ensure_ascii=False, sort_keys=True, default=str)
            self._stream.update(text.encode("utf-8", "surrogatepass") + b"\n")
            yield Located(f"{label}:{split} row {index}", row)

    def all_rows(self) -> Iterator[Located]:
        """Every row of every table of a source without splits; on the hub, of its split `train`, streamed."""
        if self.source.path is None:
            yield from self.hub_rows(self.source.config, "train", streaming=True)
            return
        for path in walk(self.source.path, TABLE_SUFFIXES):
            yield from self.file_rows(path)

    def require_rows(self, what: str) -> None:
        """Raises:
        DataError: the source was read and gave nothing.
        """
        if self.tally.rows == 0:
            bad = f" {self.tally.bad_rows} bad rows were passed over; the first: {self.tally.first_bad}"
            raise DataError(f"{self.source.name}: no {what} found.{bad if self.tally.bad_rows else ''}")

    def info(self) -> SourceInfo:
        """What was read so far."""
        listing = f"hub\0{self._stream.hexdigest()}\n"
        if self.source.kind != "hub":
            alone = self.source.path is not None and self.source.path.is_file()
            listing = "".join(
                f"{suffix_of(name) if alone else name}\0{self._files[name]}\n" for name in sorted(self._files)
            )
        if self.named:
            listing = f"{self.source.short_name}\0\n{listing}"
        commit = self._commit or hub.Commit(None, None)
        return SourceInfo(
            name=self.source.name,
            kind=self.source.kind,
            files=dict(sorted(self._files.items())),
            sha256=hashlib.sha256(listing.encode("utf-8", "surrogateescape")).hexdigest(),
            short_name=self.source.short_name,
            rows=self.tally.rows,
            bad_rows=self.tally.bad_rows,
            revision=commit.revision or self._cached,
            revision_files=commit.files_sha256,
            read_to_end=self.read_to_end,
        )
