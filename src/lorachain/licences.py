"""The terms of the base and of the data, and the notice that must accompany weights made from them."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Terms:
    """A licence, by the hub's identifier for it."""

    identifier: str
    """`license` of a model card's header: "gemma", or "other" with `name` and `link`."""
    name: str
    link: str
    notice: str
    """The sentence that the terms require to be passed on (Gemma: section 3.1; HAI-DEF: section 3.1)."""


GEMMA = Terms(
    identifier="gemma",
    name="Gemma Terms of Use",
    link="https://ai.google.dev/gemma/terms",
    notice="Gemma is provided under and subject to the Gemma Terms of Use found at ai.google.dev/gemma/terms",
)
HAI_DEF = Terms(
    identifier="other",
    name="Health AI Developer Foundations Terms of Use",
    link="https://developers.google.com/health-ai-developer-foundations/terms",
    notice="HAI-DEF is provided under and subject to the Health AI Developer Foundations Terms of Use found at "
    "https://developers.google.com/health-ai-developer-foundations/terms",
)

_DATA_LICENCES = {
    "sample": "CC0 1.0, lorachain's own teaching material",
    "wikimedia/wikipedia": "CC BY-SA 4.0 and GFDL, Wikipedia's authors",
    "sean0042/KorMedMCQA": "CC BY-NC 2.0, Kweon et al. 2024 (arXiv 2403.01469): not for commercial use",
}
UNKNOWN_LICENCE = "not known to lorachain: state it before you share this model"


def terms_of_base(base: str) -> list[Terms]:
    """The terms of a base by its hub id or name: MedGemma comes under HAI-DEF's and is built from Gemma."""
    return [HAI_DEF, GEMMA] if base.removeprefix("google/").startswith("medgemma") else [GEMMA]


def licence_of_source(name: str) -> str:
    """The licence of a data source (a hub id, with or without its configuration, or "sample")."""
    return _DATA_LICENCES.get(name.split(":")[0], UNKNOWN_LICENCE)


def notice_text(base: str) -> str:
    """The content of the NOTICE file beside weights made from `base`."""
    sentences = [*(terms.notice for terms in terms_of_base(base)), f"These weights are a modified version of {base}."]
    return "\n".join(sentences) + "\n"


def writer_licence(model: str) -> str:
    """What the terms of the model that wrote a text ask of those who train on it."""
    if "gemma" in model.casefold():
        return (
            "Written by a Gemma model. By the Gemma Terms of Use, a model trained on its output to perform like it is "
            f"a Model Derivative: the same terms apply to it and are passed on with it ({GEMMA.link})."
        )
    return (
        f"The terms of {model} are not known to lorachain. Check whether they allow training a model on its output, "
        "before you share the text or the model."
    )
