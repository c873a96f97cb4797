"""Tokens kept from start to start of a stage: made once, found again by the content of what they were made from.

A folder of the cache holds `rows.arrow` and `made_from.json`, which says what decides the rows. Where that is another
now, or a byte of the rows is, they are made anew; a start with the cache sees the very rows that one without it sees.
"""

import hashlib
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import fields
from importlib.metadata import version
from importlib.resources import files as package_files
from pathlib import Path
from typing import Any

from lorachain.provenance import load_json, sha256_file, sha256_json, write_json
from lorachain.records import ExamQuestion, Term
from lorachain.token_store import TokenStore, write_token_store
from lorachain.tokens import TokenRow
from lorachain.workspace import atomic_folder

ROWS, MADE_FROM = "rows.arrow", "made_from.json"
_CODE = (
    *("records.py", "prompts.py", "content_letters.py", "letter_uses.py", "option_references.py"),
    *("chat_template.py", "tokens.py", "token_store.py", "data", "chain/tasks.py"),
)
"""What of this package decides the rows: an edit there makes other rows."""
_LIBRARIES = ("tokenizers", "transformers")
Facts = dict[str, Any]


class TokenCache:
    """Stores of rows below `folder`, each a folder of its own, whole or absent.

    Args:
        decided_by: all that decides the rows of every store, but the name of the store and what its facts tell.
        on_message: is told of a store that is broken.
    """

    def __init__(self, folder: Path, decided_by: dict[str, Any], on_message: Callable[[str], None]) -> None:
        self._folder = folder
        libraries = {name: version(name) for name in _LIBRARIES}
        self._identity = sha256_json({"code": _code_sha256(), "libraries": libraries, **decided_by})
        self._on_message = on_message

    def rows(self, name: str, make: Callable[[], Iterable[TokenRow]]) -> TokenStore:
        """The store `name`, made where it is not there or made from something else."""
        found = self.find(name, lambda facts: True)
        return found[0] if found else self.keep(name, make(), lambda: {})

    def find(self, name: str, holds: Callable[[Facts], bool]) -> tuple[TokenStore, Facts] | None:
        """The store `name` with its facts, where it is whole and of this identity, and `holds` says so of its facts."""
        folder = self._folder / name
        if not folder.exists():
            return None
        try:
            stored = load_json(folder / MADE_FROM)
            if stored["identity"] != self._identity or not holds(stored["facts"]):
                return None
            if sha256_file(folder / ROWS) != stored["rows_sha256"]:
                raise ValueError(f"{ROWS} is not what {MADE_FROM} says")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            self._on_message(f"the tokens kept in {folder} are broken ({error}); they are made again")
            return None
        return TokenStore(folder / ROWS), stored["facts"]

    def keep(self, name: str, rows: Iterable[TokenRow], facts: Callable[[], Facts]) -> TokenStore:
        """Writes the store `name`; `facts` is asked once all rows were read. Stores of another identity are removed."""
        folder = self._folder / name
        with atomic_folder(folder) as staging:
            write_token_store(staging / ROWS, rows)
            digest = sha256_file(staging / ROWS)
            write_json(staging / MADE_FROM, {"identity": self._identity, "facts": facts(), "rows_sha256": digest})
        for other in self._folder.iterdir():
            if not self._is_ours(other):
                shutil.rmtree(other) if other.is_dir() else other.unlink()
        return TokenStore(folder / ROWS)

    def _is_ours(self, folder: Path) -> bool:
        try:
            return bool(load_json(folder / MADE_FROM)["identity"] == self._identity)
        except (OSError, ValueError, KeyError, TypeError):
            return False


def records_sha256(records: Sequence[Term] | Sequence[ExamQuestion]) -> str:
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
