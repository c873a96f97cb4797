"""Reads the chain's settings: defaults < --config file < --set key=value < named options."""

import tomllib
from collections.abc import Iterable, Mapping
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from lorachain.config import OF_SOME_STAGES, ChainConfig, StageConfig
from lorachain.errors import ConfigError

DEFAULT_CHAIN = "korean_medical.toml"
_RENAMED = {"validation.recall_entries": "validation.exact_match_entries"}


def read_config(
    stages: Mapping[str, StageConfig], user_file: Path | None = None, overrides: Iterable[Mapping[str, Any]] = ()
) -> ChainConfig:
    """Defaults, then `user_file`, then each of `overrides` (nested like the file).

    Args:
        stages: the stages of the chain with their default settings; no other stage may be configured.

    Raises:
        ConfigError: the file cannot be read, a key is unknown, or a value is not allowed.
    """
    values: dict[str, Any] = tomllib.loads((files("lorachain") / "chains" / DEFAULT_CHAIN).read_text(encoding="utf-8"))
    values["stages"] = {name: settings.model_dump() for name, settings in stages.items()}
    for layer in ([read_toml(user_file)] if user_file is not None else []) + list(overrides):
        _merge(values, layer)
    if unknown := sorted(values["stages"].keys() - stages.keys()) if isinstance(values["stages"], dict) else []:
        raise ConfigError(f"unknown stage {unknown[0]!r} in [stages]{_where(user_file)}; allowed: {', '.join(stages)}")
    try:
        config = ChainConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_explain(error, user_file)) from error
    for name, settings in config.stages.items():
        for key, marks, data in OF_SOME_STAGES:
            if getattr(settings, key) is not None and getattr(stages[name], marks) is None:
                allowed = ", ".join(stage for stage, default in stages.items() if getattr(default, marks) is not None)
                raise ConfigError(
                    f"stages.{name}.{key} is {getattr(settings, key)}, but stage {name} trains no {data}; "
                    f"it is a setting of: {allowed}"
                )
    return config


def parse_setting(text: str) -> dict[str, Any]:
    """`lora.rank=32` as {"lora": {"rank": 32}}. The value is TOML; a value that is not is taken as a string.

    Raises:
        ConfigError: there is no `=`, or the key is not dotted names.
    """
    key, equals, value = text.partition("=")
    parts = [part.strip() for part in key.split(".")]
    if not equals or not all(parts):
        raise ConfigError(f"--set {text!r} is not KEY=VALUE; give a dotted key and a value, such as lora.rank=32")
    try:
        document = tomllib.loads(f"value = {value.strip()}")
    except tomllib.TOMLDecodeError:
        document = {}
    # A value of several lines could bring keys of its own.
    parsed: Any = document["value"] if document.keys() == {"value"} else value.strip()
    for part in reversed(parts):
        parsed = {part: parsed}
    return dict(parsed)


def read_toml(path: Path) -> dict[str, Any]:
    """A configuration file, or one of the installed examples by its name, such as `quick_look`.

    Raises:
        ConfigError: it cannot be read, is not UTF-8, or is not TOML.
    """
    try:
        return tomllib.loads(_config_bytes(path).decode("utf-8-sig"))
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        examples = ", ".join(sorted(example.name.removesuffix(".toml") for example in _examples().iterdir()))
        raise ConfigError(
            f"--config {path} cannot be read: {reason}; give a TOML file, or an installed example: {examples}"
        ) from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"--config {path} is not UTF-8: byte 0x{error.object[error.start]:02x} at offset {error.start} "
            "(CP949, EUC-KR?); save it as UTF-8"
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"--config {path} is not valid TOML: {error}") from error


def _config_bytes(path: Path) -> bytes:
    example = _examples().joinpath(f"{path}.toml")
    if not path.exists() and path.name == str(path) and not path.suffix and example.is_file():
        return example.read_bytes()
    return path.read_bytes()


def _examples() -> Traversable:
    return files("lorachain").joinpath("examples")


def _merge(into: dict[str, Any], values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = value


def _explain(error: ValidationError, user_file: Path | None) -> str:
    lines = []
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"])
        if key in _RENAMED:
            lines.append(f"setting {key!r} is now called {_RENAMED[key]!r}")
        elif problem["type"] == "extra_forbidden":
            lines.append(f"unknown setting {key!r} (value {problem['input']!r})")
        elif problem["type"] == "missing":
            lines.append(f"setting {key!r} is missing")
        else:
            lines.append(f"setting {key!r} is {problem['input']!r}: {problem['msg'].lower()}")
    return "; ".join(lines) + f"{_where(user_file)}. `lorachain run --dry-run` prints every setting with its value"


def _where(user_file: Path | None) -> str:
    return f" in {user_file} or on the command line" if user_file else ""
