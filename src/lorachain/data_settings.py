"""Settings of the data gates, the `[data]` table of the chain file (docs/data-gates.md)."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

PersonalKind = Literal["resident", "alien", "phone", "email", "card", "account", "chart"]
FindingKind = PersonalKind | Literal["name"]
"""Names are searched for by a model, where there is one (`PersonalConfig.names`)."""
PERSONAL_KINDS: tuple[PersonalKind, ...] = ("resident", "alien", "phone", "email", "card", "account", "chart")


class _Strict(BaseModel):
    # Strict: `true` is not the number 1, and "8" is not 8.
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class ContaminationConfig(_Strict):
    """Held-out exam questions in training data."""

    action: Literal["remove", "refuse", "report"] = "remove"
    """With `report`, what contains a question verbatim is still left out, as in every version."""
    threshold: Annotated[float, Field(ge=0.3, le=1)] = 0.7
    """Share of a question's character n-grams that a text must contain."""
    hashes: list[str] = Field(default_factory=list)
    """Files of `lorachain data hash-exam`: questions that are known by salted hashes only."""


class DuplicatesConfig(_Strict):
    """Documents and instructions that occur more than once, within and across sources."""

    action: Literal["remove", "refuse", "report"] = "remove"
    similarity: Annotated[float, Field(ge=0.5, le=1)] = 0.8
    """Estimated Jaccard similarity from which two texts are near duplicates; 1: only exact duplicates."""


class PersonalConfig(_Strict):
    """Personal data in training data."""

    action: Literal["refuse", "mask", "report", "off"] = "refuse"
    kinds: Annotated[list[PersonalKind], Field(min_length=1)] = Field(default_factory=lambda: list(PERSONAL_KINDS))
    chart_pattern: str = ""
    """A regular expression of bounded width for chart numbers; empty: none are searched for."""
    names: Literal["off", "ner"] = "off"
    """`ner`: names of people too, by the model in `names_model`."""
    names_model: str = ""
    """A local folder with a token classification model."""


class QualityConfig(_Strict):
    """Limits of plain text; the defaults leave nothing out. What they would leave out is reported anyway."""

    min_characters: Annotated[int, Field(ge=0)] = 0
    min_hangul: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of Hangul among the letters."""
    max_repetition: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Share of the character n-grams that occurred before in the same text."""
    max_boilerplate: Annotated[float, Field(ge=0, le=1)] = 1.0
    """Share of the text in lines such as copyright notices and menus."""


class DataConfig(_Strict):
    """What every source passes before it is trained on."""

    processes: Annotated[int, Field(ge=0, le=256)] = 0
    """0: one per core, at most 8."""
    contamination: ContaminationConfig = ContaminationConfig()
    duplicates: DuplicatesConfig = DuplicatesConfig()
    personal: PersonalConfig = PersonalConfig()
    quality: QualityConfig = QualityConfig()

    def deciding(self) -> dict[str, Any]:
        """The settings that differ from the defaults and change what is trained on; empty for the defaults."""
        values = self.model_dump(exclude={"processes"})
        defaults = DataConfig().model_dump(exclude={"processes"})
        return {
            gate: changed
            for gate, settings in values.items()
            if (changed := {key: value for key, value in settings.items() if value != defaults[gate][key]})
        }
