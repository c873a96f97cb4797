"""Tokens kept between starts of a stage, found again by the content of what they were made from.

A directory of the cache holds `rows.arrow` and `made_from.json`, which records what decides the rows. Where that or a
byte of the rows differs, the tokens are created again: a start with the cache sees the rows that one without it sees.
Whoever can write to the workspace can write both files, so both are signed with a key of the user's account: tokens
that came with the workspace are not used.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from importlib.metadata import version
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

from lorachain.artifacts import TokenCacheManifest
from lorachain.atomic import atomic_folder, remove_tree
from lorachain.errors import WorkspaceError
from lorachain.provenance import sha256_file, sha256_json
from lorachain.records import ExamQuestion, Instruction, Term
from lorachain.token_store import TokenStore, write_token_store
from lorachain.tokens import TokenRow
from lorachain.user_key import is_signed, signature

ROWS, MADE_FROM = "rows.arrow", "made_from.json"
_NOT_SIGNED = ""
_CODE = (
    *("records.py", "prompts.py", "dictionary_forms.py", "chat_template.py", "content_letters.py", "letter_uses.py"),
    *("option_references.py", "tokens.py", "token_store.py", "data_settings.py", "data", "data/gates", "chain/tasks"),
)
"""What in this package decides the rows: an edit there makes other rows."""
_LIBRARIES = ("tokenizers", "transformers")
Facts = dict[str, Any]


class TokenCache:
    """Stores of rows below `folder`, each in its own directory, complete or absent.

    Args:
        decided_by: everything that decides the rows of every store, except the store's name and its facts.
        on_message: receives a message where a store is damaged.
    """

    def __init__(self, folder: Path, decided_by: dict[str, Any], on_message: Callable[[str], None]) -> None:
        self._folder = folder
        self._decided_by = decided_by
        self._on_message = on_message
        self._said_why_unsigned = False

    @property
    def _identity(self) -> str:
        libraries = {name: version(name) for name in _LIBRARIES}
        return sha256_json({"code": _code_sha256(), "libraries": libraries, **self._decided_by})

    def rows(self, name: str, make: Callable[[], Iterable[TokenRow]]) -> TokenStore:
        """The store `name`, created where it is missing or was made from something else."""
        cached = self.find(name, lambda facts: True)
        store, _ = cached or self.keep(name, make(), lambda: {})
        return store

    def find(self, name: str, is_current: Callable[[Facts], bool]) -> tuple[TokenStore, Facts] | None:
        """The store `name` with its facts, if it is complete, of this identity and `is_current` accepts the facts."""
        folder = self._folder / name
        if not folder.exists():
            return None
        try:
            manifest = TokenCacheManifest.read(folder / MADE_FROM)
            if manifest.identity != self._identity:
                return None
            if not self._is_ours(name, manifest):
                return None
            if not is_current(manifest.facts):
                return None
            if sha256_file(folder / ROWS) != manifest.rows_sha256:
                raise ValueError(f"{ROWS} does not match {MADE_FROM}")
        except (WorkspaceError, OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            self._on_message(f"the cached tokens in {folder} are damaged ({error}); they are created again")
            return None
        return TokenStore(folder / ROWS), manifest.facts

    def keep(self, name: str, rows: Iterable[TokenRow], facts: Callable[[], Facts]) -> tuple[TokenStore, Facts]:
        """Writes the store `name`; `facts` is called after the last row. Stores of another identity are removed."""
        folder = self._folder / name
        with atomic_folder(folder) as staging:
            write_token_store(staging / ROWS, rows)
            digest = sha256_file(staging / ROWS)
            collected = facts()
            manifest = TokenCacheManifest(
                identity=self._identity, facts=collected, rows_sha256=digest, signature=_NOT_SIGNED
            )
            manifest = manifest.model_copy(update={"signature": self._signature(name, manifest)})
            manifest.write(staging / MADE_FROM)
        for other in self._folder.iterdir():
            if not other.name.startswith(".") and (other / MADE_FROM).exists() and not self._has_this_identity(other):
                remove_tree(other)
        return TokenStore(folder / ROWS), collected

    def _is_ours(self, name: str, manifest: TokenCacheManifest) -> bool:
        """Whether this user signed the store; a message says why not."""
        try:
            if is_signed(_signed_part(name, manifest), manifest.signature):
                return True
        except WorkspaceError as error:
            self._say_unsigned(error)
            return False
        self._on_message(
            f"the cached tokens in {self._folder / name} were not made by your account on this machine; they are "
            "created again"
        )
        return False

    def _signature(self, name: str, manifest: TokenCacheManifest) -> str:
        try:
            return signature(_signed_part(name, manifest))
        except WorkspaceError as error:
            self._say_unsigned(error)
            return _NOT_SIGNED

    def _say_unsigned(self, error: WorkspaceError) -> None:
        if not self._said_why_unsigned:
            self._on_message(f"tokens are created again at each start: {error}")
        self._said_why_unsigned = True

    def _has_this_identity(self, folder: Path) -> bool:
        try:
            return TokenCacheManifest.read(folder / MADE_FROM).identity == self._identity
        except WorkspaceError:
            return False


def _signed_part(name: str, manifest: TokenCacheManifest) -> dict[str, Any]:
    """Everything that decides what is trained on; the name, so that two stores of one workspace cannot be exchanged."""
    return {"kind": "tokens", "name": name, **manifest.model_dump(mode="json", exclude={"signature"})}


def records_sha256(records: Sequence[Term] | Sequence[ExamQuestion] | Sequence[Instruction]) -> str:
    """Of all fields of records, in order."""
    return sha256_json([[getattr(record, field.name) for field in fields(record)] for record in records])


def _code_sha256() -> str:
    package = package_files("lorachain")
    digest = hashlib.sha256()
    for name in _CODE:
        part = package.joinpath(name)
        for file in sorted(part.iterdir(), key=lambda f: f.name) if part.is_dir() else [part]:
            if file.name.endswith(".py"):
                digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()
