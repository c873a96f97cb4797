"""The base of every JSON file that lorachain writes: strict types, a schema version, migrations, atomic writes."""

import json
from math import isfinite
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from lorachain.errors import WorkspaceError
from lorachain.provenance import load_json, write_json


class Record(BaseModel):
    """A typed part of a file. Unknown keys, wrong types and numbers that are not finite are refused."""

    # Numbers that are not finite reach `as_dict` unchanged, so that `write` refuses them; the default is null.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, ser_json_inf_nan="constants")

    def as_dict(self) -> dict[str, Any]:
        """The record as JSON values."""
        return self.model_dump(mode="json")


class PromptedInputs(Record):
    """What something was made from, prompts among it."""

    prompt_version: int = 1
    """`prompts.PROMPT_VERSION`; what was written before there was one is of version 1."""

    def identity(self) -> dict[str, Any]:
        """What a fingerprint is made of. Prompt version 1 is left out, so that work in progress from before there was a
        version is continued."""
        values = self.as_dict()
        return {key: value for key, value in values.items() if key != "prompt_version" or value != 1}


class Artifact(Record):
    """A JSON file of ours. A subclass sets `schema_version` and, where files of an older one exist, `migrate`."""

    title: ClassVar[str]
    """What the file is called in messages and in `docs/schemas`."""
    remedy: ClassVar[str] = "run its stage again"
    """The next step where the file is missing or damaged."""

    schema_version: int = 1

    @classmethod
    def current_version(cls) -> int:
        return int(cls.model_fields["schema_version"].default)

    @classmethod
    def migrate(cls, stored: dict[str, Any]) -> dict[str, Any]:
        """The fields of an older version, `stored["schema_version"]`, as those of the current one."""
        raise ValueError(f"schema version {stored['schema_version']} is no longer read")

    @classmethod
    def read(cls, path: Path) -> Self:
        """The file at `path`.

        Raises:
            WorkspaceError: it is missing, is not JSON, or does not match the schema; names the key and the value.
        """
        try:
            stored = load_json(path)
            if not isinstance(stored, dict):
                raise ValueError(f"it holds {type(stored).__name__}, not an object")
            return cls.parse(stored)
        except ValidationError as error:
            raise WorkspaceError(f"{path} is not a valid {cls.title}: {first_problem(error)}; {cls.remedy}") from error
        except RecursionError as error:
            raise WorkspaceError(f"{path} is not a valid {cls.title}: it is nested too deeply; {cls.remedy}") from error
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise WorkspaceError(f"{path} cannot be read ({cls.title}): {reason}; {cls.remedy}") from error
        except ValueError as error:
            raise WorkspaceError(f"{path} is not a valid {cls.title}: {error}; {cls.remedy}") from error

    @classmethod
    def parse(cls, stored: dict[str, Any]) -> Self:
        """An artifact from JSON values of this or an older schema version.

        Raises:
            ValueError: the version is unknown, or (pydantic's ValidationError) a field is wrong.
        """
        current, found = cls.current_version(), stored.get("schema_version")
        if type(found) is not int or found < 1:
            raise ValueError(f"schema_version is {found!r}; expected a whole number")
        if found > current:
            raise ValueError(
                f"schema version {found} is from a newer lorachain, this one reads up to {current}: upgrade it"
            )
        require_finite(stored)
        if found < current:
            try:
                stored = cls.migrate(stored)
            except (KeyError, TypeError, AttributeError) as error:
                message = f"it does not match schema version {found} ({type(error).__name__}: {error})"
                raise ValueError(message) from error
        return cls.model_validate_json(json.dumps(stored | {"schema_version": current}), strict=True)

    def write(self, path: Path) -> None:
        """Replaces the file at `path` atomically.

        Raises:
            ValueError: a number is not finite. WorkspaceError: the disk is full.
        """
        values = self.as_dict()
        require_finite(values)
        write_json(path, values)


def first_problem(error: ValidationError) -> str:
    """The first problem pydantic found, as `key is VALUE: reason`."""
    problem = error.errors()[0]
    key = ".".join(str(part) for part in problem["loc"]) or "the file"
    value = repr(problem["input"])
    shown = value if len(value) <= 80 else f"{value[:80]}..."
    if problem["type"] == "extra_forbidden":
        return f"unknown key {key!r} (value {shown})"
    if problem["type"] == "missing":
        return f"{key!r} is missing"
    return f"{key!r} is {shown}: {problem['msg'].lower()}"


def require_finite(value: Any, key: str = "") -> None:
    """Raises ValueError that names the first number that is not finite, at any depth of a JSON value."""
    if isinstance(value, dict):
        for name, item in value.items():
            require_finite(item, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            require_finite(item, f"{key}.{number}")
    elif isinstance(value, float) and not isfinite(value):
        raise ValueError(f"{key!r} is {value}: numbers must be finite")


def renamed(value: Any, names: dict[str, str]) -> Any:
    """A JSON value with keys renamed at every depth: what most migrations need."""
    if isinstance(value, dict):
        return {names.get(key, key): renamed(item, names) for key, item in value.items()}
    if isinstance(value, list):
        return [renamed(item, names) for item in value]
    return value
