"""A protocol by its name."""

from collections.abc import Callable
from typing import Any

from lorachain.errors import ConfigError
from lorachain.evaluation.protocols.base import ExamProtocol, Shots
from lorachain.evaluation.protocols.kormedeval import KorMedEval
from lorachain.evaluation.protocols.letters import Letters
from lorachain.evaluation.protocols.lm_eval import LmEval
from lorachain.evaluation.protocols.options import Cloze, Options
from lorachain.evaluation.protocols.reasoning import Reasoning

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
) -> ExamProtocol:
    """A protocol by name; what is None keeps the protocol's own default.

    Raises:
        ConfigError: the name is unknown, or a setting was given that this protocol does not have.
    """
    given: dict[str, Any] = {
        "shots": shots, "rotations": rotations, "samples": samples, "temperature": temperature,
        "max_new_tokens": max_new_tokens, "seed": seed,
    }  # fmt: skip
    takes: dict[str, tuple[Callable[..., ExamProtocol], tuple[str, ...]]] = {
        "letters": (Letters, ("shots", "rotations")),
        "options": (Options, ()),
        "cloze": (Cloze, ()),
        "lm-eval-3.0": (LmEval, ("shots",)),
        "kormedeval": (KorMedEval, ("max_new_tokens",)),
        "reasoning": (Reasoning, ("samples", "temperature", "max_new_tokens", "seed")),
    }
    if name not in takes:
        raise ConfigError(f"protocol {name!r} is unknown; allowed: {', '.join(PROTOCOLS)}")
    build, known = takes[name]
    settings = {key: value for key, value in given.items() if value is not None}
    # Every evaluation has a seed; only a protocol that draws takes notice of it.
    foreign = sorted(set(settings) - set(known) - {"seed"})
    if foreign:
        raise ConfigError(
            f"protocol {name!r} has no setting {', '.join(foreign)}; it has: {', '.join(known) or 'none'}"
        )
    named = {("orders" if key == "rotations" else key): settings[key] for key in known if key in settings}
    if "shots" in known:
        named["examples"] = examples or {}
    return build(token_budget=token_budget, **named)
