"""What a source string names, what was read from it, and its fingerprint for provenance.

A source is `sample` (the embedded one) or `sample:quick-look` (a small part of it, `data/quick_look.py`), an existing
file or directory, or a data set on the hub (`owner/name` or `owner/name:config`). A local path named like one of the
others is written `./sample`. Options of reading follow after `#` (`read_options`): `terms.csv#encoding=cp949`.
"""

import hashlib
import json
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from importlib.resources import files as package_files
from pathlib import Path
from typing import Literal

from lorachain.data import hub
from lorachain.data.columns import renamed
from lorachain.data.normalization import normalize_name, normalize_row
from lorachain.data.read_options import ReadOptions, parse_options
from lorachain.data.rows import Located, Tally
from lorachain.data.splits import canonical_split
from lorachain.data.tables import DEFAULTS, TABLE_SUFFIXES, read_rows
from lorachain.data.text_file import open_file
from lorachain.errors import DataError

SAMPLE = "sample"
QUICK_LOOK = "sample:quick-look"
_SAMPLE_DIRECTORIES = {SAMPLE: ".", QUICK_LOOK: "quick_look"}
"""Below data/samples, by the source's name."""
Kind = Literal["sample", "local", "hub"]
_HUB_ID = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/[\w.-]+)(?::(?P<config>[\w.-]+))?", re.ASCII)


@dataclass(frozen=True)
class SourceInfo:
    """Where records came from, for `training_info.json` and to decide whether a stage is stale."""

    name: str
    """As the user wrote it."""
    kind: Kind
    files: dict[str, str]
    """SHA-256 of each file that was read, by its path relative to the source. Empty for the hub."""
    sha256: str
    """Of what was read, independent of where it is: of the files' hashes and their names within a directory (of a
    single file its suffix); for the hub, of the rows in the order read; for an exam, of its short name too."""
    short_name: str
    """What records call it; in an exam's records it is the exam's name."""
    rows: int
    """Valid records that were read, before duplicates and unselected subjects are left out."""
    bad_rows: int
    revision: str | None = None
    """The hub's commit; None for files, and offline where the cache does not tell it."""
    revision_files: str | None = None
    """SHA-256 of that commit's files (`hub.Commit`); None for files, and offline."""
    read_to_end: bool = True
    """False where `max_samples` was reached before: files after the last one read then have no influence."""
    reasoning_writers: dict[str, int] = field(default_factory=dict)
    """Of an exam: who wrote the reasoning that came with it, and of how many questions."""

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
    options: ReadOptions = DEFAULTS

    @property
    def short_name(self) -> str:
        """`sample` or `sample-quick-look`, the file's or directory's own name, or the last part of the hub id."""
        if self.path is None:
            return self.repo.rsplit("/", 1)[1]
        path = Path(os.path.abspath(self.path))
        if self.kind == "sample":
            return self.name.replace(":", "-")
        return normalize_name(path.name if path.is_dir() else path.stem)


def resolve(name: str, *, sample: str) -> Source:
    """What `name` stands for. `sample` is the path of the embedded sample's part under `data/samples`.

    Raises:
        DataError: it is neither the sample, nor a path, nor formed like a hub id.
    """
    if (directory := _SAMPLE_DIRECTORIES.get(name)) is not None:
        path = _samples() / directory / sample
        if not path.exists():
            raise DataError(f"{name}: the installed package lacks {sample}. {_without_the_sample(name)}")
        return Source(name, "sample", path)
    place, options = split_options(name)
    if (local := _existing_path(place)) is not None:
        return Source(name, "local", local, options=options)
    match = _HUB_ID.fullmatch(place)
    if match is None or suffix_of(place) in (*TABLE_SUFFIXES, ".txt"):
        raise DataError(
            f"{name!r}: neither a path that exists (current directory: {Path.cwd()}) nor a hub id (owner/name or "
            "owner/name:config) nor `sample`. Check the spelling."
        )
    if options.split is not None and canonical_split(options.split) == "test":
        raise DataError(f"{name}: the test split is read by `lorachain eval --split test` and nothing else.")
    return Source(name, "hub", None, match["repo"], match["config"], options)


def split_options(name: str) -> tuple[str, ReadOptions]:
    """A source's name without its options, and these; a path that exists under the whole name has none.

    Raises:
        DataError: the options are not as `parse_options` expects.
    """
    place, mark, options = name.rpartition("#")
    if not mark or _existing_path(name) is not None:
        return name, DEFAULTS
    return place, parse_options(options, name)


def with_defaults(name: str, defaults: ReadOptions) -> str:
    """The source with `defaults` where it has no options of its own. The sample needs none.

    Raises:
        DataError: as `split_options`.
    """
    if name in _SAMPLE_DIRECTORIES or defaults == DEFAULTS:
        return name
    place, own = split_options(name)
    options = str(own.over(defaults))
    return f"{place}#{options}" if options else place


def _existing_path(name: str) -> Path | None:
    try:
        return _existing(name)
    except (OSError, RuntimeError, ValueError) as error:  # no home directory, a NUL in the name
        raise DataError(f"{name!r}: not a path ({error}).") from error


def _without_the_sample(name: str) -> str:
    if name == QUICK_LOOK:
        return f"`{QUICK_LOOK}` has a dictionary and an exam; for other data name `{SAMPLE}` or another source."
    return "Install lorachain again, or name another source."


def _existing(name: str) -> Path | None:
    """The path that exists under this name, composed or decomposed: macOS stores 의사 in another form than is typed."""
    if not name.strip():
        return None
    spellings = dict.fromkeys((name, unicodedata.normalize("NFC", name), unicodedata.normalize("NFD", name)))
    return next((path for path in (Path(s).expanduser() for s in spellings) if os.path.lexists(path)), None)


def walk(root: Path, suffixes: Iterable[str]) -> list[Path]:
    """The files under `root` (or `root` itself) with one of `suffixes`, sorted. Links to directories are not followed.

    Raises:
        DataError: a directory without such a file, a directory that cannot be listed, or a link that leads out of
            `root` (only `root` itself may be a link).
    """
    if not root.is_dir():
        return [root]

    def fail(error: OSError) -> None:
        raise DataError(f"{error.filename}: cannot be listed ({error.strerror}).") from error

    known = tuple(suffixes)
    allowed = _link_targets(root)
    files: list[Path] = []
    for directory, subdirectories, names in os.walk(root, onerror=fail):
        visible = [name for name in names if Path(name).suffix.casefold() in known and not name.startswith((".", "~$"))]
        files += [Path(directory, name) for name in visible]
        for name in (*visible, *(name for name in subdirectories if not name.startswith("."))):
            _refuse_link_outside(Path(directory, name), root, allowed)
    if not files:
        raise DataError(f"{root}: the directory has no file of a known type ({', '.join(known)}).")
    return sorted(files, key=lambda path: path.relative_to(root).as_posix())


def _link_targets(root: Path) -> list[Path]:
    """Where links in `root` may lead: into it, and from a snapshot of the hub's cache to the files of the cache. The
    embedded sample may be installed as links."""
    resolved = Path(os.path.realpath(root))
    snapshots = [path for path in (resolved, *resolved.parents) if path.parent.name == "snapshots"]
    caches = [path.parents[1] / "blobs" for path in snapshots]
    return [Path("/")] if root.is_relative_to(_samples()) else [resolved, *caches]


def _refuse_link_outside(path: Path, root: Path, allowed: list[Path]) -> None:
    if path.is_symlink():
        target = Path(os.path.realpath(path))
        if not any(target.is_relative_to(directory) for directory in allowed):
            raise DataError(
                f"{path}: a link that leads out of {root}, to {target}. Only what is in the named directory is read: "
                f"remove the link, copy the data there, or name {target} as another source."
            )


def _samples() -> Path:
    return Path(str(package_files("lorachain").joinpath("data", "samples")))


def name_within(source: Source, path: Path) -> str:
    """A file's path relative to its source; of a source that is one file, that file's name."""
    root = source.path
    return path.relative_to(root).as_posix() if root is not None and path != root else path.name


def suffix_of(name: str) -> str:
    """The suffix that decides how a file is read."""
    return Path(name).suffix.casefold()


@dataclass
class SourceReader:
    """Reads the rows of one source and keeps what `SourceInfo` needs: hashes, counts, revision."""

    source: Source
    tally: Tally
    named: bool = False
    """Whether the source's short name goes into its fingerprint."""
    read_to_end: bool = True
    _files: dict[str, str] = field(default_factory=dict)
    _stream: "hashlib._Hash" = field(default_factory=hashlib.sha256)
    _commit: hub.Commit | None = None
    _cached: str | None = None

    def open(self, path: Path) -> Path:
        """Adds a file to the fingerprint before it is read; returns it.

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

    def same_commit(self) -> "SourceReader":
        """A new reader of the same source at the same commit, with its own counts."""
        return SourceReader(self.source, Tally(self.tally.skip_bad_rows), self.named, _commit=self._commit)

    def add_files(self, other: "SourceReader") -> None:
        """Adds the files of another reader of the same source to the fingerprint."""
        self._files |= other._files

    def file_rows(self, path: Path) -> Iterator[Located]:
        """Raises DataError as `read_rows` does."""
        yield from read_rows(self.open(path), self.tally, self.source.options)

    def hub_revision(self) -> str | None:
        """The commit, fixed at the first call so that everything read is of one commit."""
        if self._commit is None:
            self._commit = hub.commit_of(self.source.repo)
        return self._commit.revision

    def hub_rows(self, config: str | None, split: str, *, streaming: bool) -> Iterator[Located]:
        """Raises DataError as `hub.rows` does, and for a column of the options that does not exist."""
        rows = self._hub_rows(config, split, streaming=streaming)
        columns = self.source.options.columns
        return renamed(rows, columns, self.source.repo, tabular=True) if columns else rows

    def _hub_rows(self, config: str | None, split: str, *, streaming: bool) -> Iterator[Located]:
        repo, revision = self.source.repo, self.hub_revision()
        label = repo if config is None else f"{repo}:{config}"
        if revision is None:
            self._cached = hub.cached_revision(repo, config)
        for number, row in enumerate(hub.rows(repo, config, split, revision, streaming=streaming), start=1):
            text = json.dumps(row, ensure_ascii=False, sort_keys=True, default=str)
            self._stream.update(text.encode("utf-8", "surrogatepass") + b"\n")
            yield Located(f"{label}:{split} row {number}", number, normalize_row(row))

    def all_rows(self) -> Iterator[Located]:
        """Every row of every table of a source without splits; on the hub, of its split `train` or the one that its
        options name, streamed."""
        if self.source.path is None:
            yield from self.hub_rows(self.source.config, self.source.options.split or "train", streaming=True)
            return
        for path in walk(self.source.path, TABLE_SUFFIXES):
            yield from self.file_rows(path)

    def require_rows(self, what: str) -> None:
        """Raises:
        DataError: the source was read and no valid record was found.
        """
        if self.tally.rows == 0:
            rows = "bad row was" if self.tally.bad_rows == 1 else "bad rows were"
            bad = f" {self.tally.bad_rows} {rows} skipped; the first: {self.tally.first_bad}"
            raise DataError(f"{self.source.name}: no {what} found.{bad if self.tally.bad_rows else ''}")

    def info(self) -> SourceInfo:
        """What was read so far."""
        listing = f"hub\0{self._stream.hexdigest()}\n"
        if self.source.kind != "hub":
            single = self.source.path is not None and self.source.path.is_file()
            listing = "".join(
                f"{suffix_of(name) if single else name}\0{self._files[name]}\n" for name in sorted(self._files)
            )
        if self.named:
            listing = f"{self.source.short_name}\0\n{listing}"
        if options := str(self.source.options):
            listing = f"{options}\0\n{listing}"
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
            reasoning_writers=dict(sorted(self.tally.writers.items())),
        )
