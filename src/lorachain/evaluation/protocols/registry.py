"""Protocols by name."""

from collections.abc import Callable
from typing import Any

from lorachain.errors import ConfigError
from lorachain.evaluation.protocols.base import ExamProtocol, Shots
from lorachain.evaluation.protocols.kormedeval import KorMedEval
from lorachain.evaluation.protocols.letters import Letters
from lorachain.evaluation.protocols.lm_eval import LmEval
from lorachain.evaluation.protocols.options import Cloze, Options
from lorachain.evaluation.protocols.reasoning import Reasoning
from lorachain.inference.engines.base import TextEngine
from lorachain.prompts import AnswerStyle

PROTOCOLS = ("letters", "options", "cloze", "lm-eval-3.0", "kormedeval", "reasoning")


def make_protocol(
    name: str,
    *,
    shots: int | None = None,
    examples: Shots | None = None,
    rotations: int | None = None,
    samples: int | None = None,
    temperature: float | None = None,
    max_new_tokens: int | None = None,
    seed: int | None = None,
    token_budget: int = 8192,
    engine: TextEngine | None = None,
    style: AnswerStyle | None = None,
) -> ExamProtocol:
    """The protocol `name`; a setting that is None has the protocol's own default.

    `engine` generates the texts in place of the model in memory; `style` is what the model's direct answers name first.
    A protocol without texts ignores `style`.

    Raises:
        ConfigError: the name is unknown, or the protocol has no such setting.
    """
    settings: dict[str, Any] = {
        "shots": shots, "rotations": rotations, "samples": samples, "temperature": temperature,
        "max_new_tokens": max_new_tokens, "seed": seed, "engine": engine, "style": style,
    }  # fmt: skip
    protocols: dict[str, tuple[Callable[..., ExamProtocol], tuple[str, ...]]] = {
        "letters": (Letters, ("shots", "rotations")),
        "options": (Options, ()),
        "cloze": (Cloze, ()),
        "lm-eval-3.0": (LmEval, ("shots",)),
        "kormedeval": (KorMedEval, ("max_new_tokens",)),
        "reasoning": (Reasoning, ("samples", "temperature", "max_new_tokens", "seed", "engine", "style")),
    }
    if name not in protocols:
        raise ConfigError(f"protocol {name!r} is unknown; allowed: {', '.join(PROTOCOLS)}")
    protocol, known = protocols[name]
    given = {key: value for key, value in settings.items() if value is not None}
    # Every evaluation has a seed and a style; a protocol that draws or answers nothing ignores them.
    unknown = sorted(given.keys() - set(known) - {"seed", "style"})
    if unknown:
        allowed = ", ".join(key for key in known if key != "style") or "none"
        raise ConfigError(f"protocol {name!r} has no setting {', '.join(unknown)}; it has: {allowed}")
    arguments = {("orders" if key == "rotations" else key): given[key] for key in known if key in given}
    if "shots" in known:
        arguments["examples"] = examples or {}
    return protocol(token_budget=token_budget, **arguments)
