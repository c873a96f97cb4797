"""The chain's settings: defaults < --config file < --set key=value < named options; unknown keys are refused."""

import tomllib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lorachain.errors import ConfigError

DEFAULT_CHAIN = "korean_medical.toml"
Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Quantization = Literal["none", "nf4", "int8"]
"""What the base's linear layers are held in while a LoRA is trained on them."""
_RENAMED = {"validation.recall_entries": "validation.exact_match_entries"}
MAX_SEED = 2**32 - 1
"""numpy's generators take no larger seed."""


class _Strict(BaseModel):
    # Strict: `true` is not the number 1, and "8" is not 8.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class LoraSettings(_Strict):
    rank: Annotated[int, Field(ge=1, le=1024)]
    alpha: Positive | None = None
    """None: twice the rank."""
    dropout: Fraction
    use_rslora: bool
    target_modules: Annotated[list[str], Field(min_length=1)]

    def resolved(self) -> dict[str, Any]:
        """The settings with alpha filled in."""
        return self.model_dump() | {"alpha": self.resolved_alpha}

    @property
    def resolved_alpha(self) -> int:
        return self.alpha if self.alpha is not None else 2 * self.rank


class TrainingConfig(_Strict):
    """What all stages share."""

    warmup_ratio: Fraction
    scheduler: Literal["cosine", "linear", "constant", "constant_with_warmup"]
    weight_decay: Annotated[float, Field(ge=0)]
    max_grad_norm: Annotated[float, Field(gt=0)]
    micro_batch_tokens: Positive
    gradient_checkpointing: bool | Literal["auto"]
    save_every_minutes: Annotated[float, Field(gt=0)]
    save_every_steps: Annotated[int, Field(ge=0)]
    keep_checkpoints: Positive

    def deciding(self) -> dict[str, Any]:
        """The settings that change the result; how often a checkpoint is saved does not."""
        return self.model_dump(exclude={"save_every_minutes", "save_every_steps", "keep_checkpoints"})


class ValidationConfig(_Strict):
    token_budget: Positive
    max_questions: Annotated[int, Field(ge=0)]
    heldout_documents: Positive
    exact_match_entries: Positive


class StageConfig(_Strict):
    epochs: Annotated[int, Field(ge=1, le=10_000)]
    learning_rate: Annotated[float, Field(gt=0, lt=1)]
    batch_size: Annotated[int, Field(ge=1, le=65_536)]
    max_length: Annotated[int, Field(ge=16, le=131_072)]
    max_samples: Positive | None = None


class Sources(_Strict):
    plain_text: Annotated[list[str], Field(min_length=1)]
    dictionary: Annotated[list[str], Field(min_length=1)]
    exam: Annotated[list[str], Field(min_length=1)]


SourceSet = Literal["embedded", "hub"]
SourceKind = Literal["plain_text", "dictionary", "exam"]


class ChainConfig(_Strict):
    """The whole chain. `sources` holds one set per kind of model; a model's registry entry says which one it reads."""

    name: str
    seed: Annotated[int, Field(ge=0, le=MAX_SEED)]
    device: str
    dtype: Literal["bfloat16", "float32"]
    quantization: Quantization
    lora: LoraSettings
    training: TrainingConfig
    validation: ValidationConfig
    stages: dict[str, StageConfig]
    sources: dict[SourceSet, Sources]


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
        return ChainConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_explain(error, user_file)) from error


def parse_setting(text: str) -> dict[str, Any]:
    """`lora.rank=32` as {"lora": {"rank": 32}}. The value is TOML; a value that is not is taken as a string.

    Raises:
        ConfigError: there is no `=`, or the key is not dotted names.
    """
    key, equals, value = text.partition("=")
    parts = [part.strip() for part in key.split(".")]
    if not equals or not all(parts):
        raise ConfigError(f"--set {text!r} is not KEY=VALUE; give a dotted key and a value, such as lora.rank=32")
    parsed: Any = value.strip()
    with suppress(tomllib.TOMLDecodeError):
        document = tomllib.loads(f"value = {parsed}")
        if document.keys() == {"value"}:  # a line break in it would start another setting
            parsed = document["value"]
    for part in reversed(parts):
        parsed = {part: parsed}
    return dict(parsed)


def read_toml(path: Path) -> dict[str, Any]:
    """A configuration file.

    Raises:
        ConfigError: it cannot be read, is not UTF-8, or is not TOML.
    """
    try:
        return tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"--config {path} cannot be read: {(error.strerror or str(error)).lower()}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"--config {path} is not UTF-8: byte 0x{error.object[error.start]:02x} at offset {error.start} "
            "(CP949, EUC-KR?); save it as UTF-8"
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"--config {path} is not valid TOML: {error}") from error


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
