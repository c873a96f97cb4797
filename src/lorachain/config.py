"""The chain's settings: defaults (a TOML file) < the user's file < the command line; unknown keys are refused."""

import tomllib
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lorachain.errors import ConfigError
from lorachain.workspace import StageName

DEFAULT_CHAIN = "korean_medical.toml"
Positive = Annotated[int, Field(ge=1)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Quantization = Literal["none", "nf4", "int8"]
"""What the base's linear layers are held in while a LoRA is trained on them."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LoraSettings(_Strict):
    rank: Annotated[int, Field(ge=1, le=1024)]
    alpha: Positive
    dropout: Fraction
    use_rslora: bool
    target_modules: Annotated[list[str], Field(min_length=1)]


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
        """What changes the result; how often it is saved does not."""
        return self.model_dump(exclude={"save_every_minutes", "save_every_steps", "keep_checkpoints"})


class ValidationConfig(_Strict):
    token_budget: Positive
    max_questions: Annotated[int, Field(ge=0)]
    heldout_documents: Positive
    exact_match_entries: Positive


class StageConfig(_Strict):
    epochs: Positive
    learning_rate: Annotated[float, Field(gt=0, lt=1)]
    batch_size: Positive
    max_length: Annotated[int, Field(ge=16)]
    max_samples: Positive | None = None


class Sources(_Strict):
    plain_text: Annotated[list[str], Field(min_length=1)]
    dictionary: Annotated[list[str], Field(min_length=1)]
    exam: Annotated[list[str], Field(min_length=1)]


SourceSet = Literal["embedded", "hub"]


class ChainConfig(_Strict):
    """The whole chain. `sources` holds one set a kind of model; `chain.stages` picks the model's."""

    name: str
    seed: Annotated[int, Field(ge=0)]
    device: str
    dtype: Literal["bfloat16", "float32"]
    quantization: Quantization
    lora: LoraSettings
    training: TrainingConfig
    validation: ValidationConfig
    stages: dict[StageName, StageConfig]
    sources: dict[SourceSet, Sources]


def load_config(user_file: Path | None = None, overrides: Mapping[str, Any] | None = None) -> ChainConfig:
    """Defaults, then `user_file`, then `overrides` (nested like the file).

    Raises:
        ConfigError: the file cannot be read, a key is unknown, or a value is not allowed.
    """
    values: dict[str, Any] = tomllib.loads((files("lorachain") / "chains" / DEFAULT_CHAIN).read_text(encoding="utf-8"))
    if user_file is not None:
        _merge(values, _read_toml(user_file))
    _merge(values, overrides or {})
    try:
        return ChainConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_explain(error, user_file)) from error


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"--config {path}: {error}") from error


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
        if problem["type"] == "extra_forbidden":
            lines.append(f"unknown setting {key!r} (value {problem['input']!r})")
        else:
            lines.append(f"setting {key!r} is {problem['input']!r}: {problem['msg'].lower()}")
    where = f" in {user_file} or on the command line" if user_file else ""
    return "; ".join(lines) + f"{where}. `lorachain run --dry-run` prints every setting with its value"
