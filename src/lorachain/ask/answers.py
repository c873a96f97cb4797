"""Answers of several models to one question, one model in memory at a time, token by token."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

from torch import nn

from lorachain.ask.forms import AskedPrompt
from lorachain.ask.held_model import HeldModel
from lorachain.chain.context import ChainContext
from lorachain.chain.runtime import dtype_of
from lorachain.chain.scored_model import ScoredModel, find_scored_model
from lorachain.chain.stages import training_stages
from lorachain.errors import ConfigError
from lorachain.evaluation.scoring import QuestionScore, score_questions
from lorachain.inference.generate import generate
from lorachain.records import ExamQuestion
from lorachain.tokens import TokenEncoder
from lorachain.weights.load import resolve_device
from lorachain.workspace import TRAINING_INFO

_PART_OF_CHARACTER = "\ufffd"


@dataclass(frozen=True, slots=True)
class Sampling:
    """How tokens are drawn; a temperature of 0 is greedy."""

    temperature: float = 0.0
    seed: int = 0
    max_new_tokens: int | None = None
    """None: what the form allows."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a model answered to one prompt."""

    label: str
    text: str
    tokens: int
    """The end token included."""
    first_seconds: float
    """From the prompt to the first token."""
    seconds: float
    complete: bool
    """False where it was cut at the limit."""


@dataclass(frozen=True, slots=True)
class Answered:
    """A model's answers."""

    name: str
    load_seconds: float
    answers: tuple[Answer, ...]
    score: QuestionScore | None
    """Of an exam question: the log-probabilities of its options."""

    @property
    def first_seconds(self) -> float:
        """From the first prompt to its first token."""
        return self.answers[0].first_seconds if self.answers else 0.0

    @property
    def tokens(self) -> int:
        return sum(answer.tokens for answer in self.answers)

    @property
    def seconds(self) -> float:
        return sum(answer.seconds for answer in self.answers)

    @property
    def tokens_per_second(self) -> float:
        return self.tokens / max(self.seconds, 1e-9)

    @property
    def complete(self) -> bool:
        """False where an answer was cut at the limit."""
        return all(answer.complete for answer in self.answers)


class View(Protocol):
    """Where answers are shown as they are generated."""

    def loading(self, name: str) -> None: ...
    def text(self, name: str, label: str, text: str) -> None:
        """The answer so far; called again with more of it."""
        ...

    def answered(self, answered: Answered) -> None: ...


def models_to_ask(context: ChainContext, names: Sequence[str]) -> list[ScoredModel]:
    """The models of these names; without names the last trained stage of the chain, or else its base.

    Raises:
        ModelError, AdapterError, WorkspaceError: one of them cannot be had.
    """
    if not names:
        trained = [s.name for s in training_stages() if (context.output(s) / TRAINING_INFO).is_file()]
        names = [trained[-1] if trained else "base"]
    return [find_scored_model(context, name) for name in names]


def ask(
    context: ChainContext,
    models: Sequence[ScoredModel],
    prompts: Callable[[TokenEncoder], list[AskedPrompt]],
    view: View,
    *,
    sampling: Sampling,
    question: ExamQuestion | None = None,
    held: HeldModel | None = None,
) -> list[Answered]:
    """The answers of every model, in the order of the models.

    Args:
        prompts: what is asked, given the model's tokenizer.
        question: an exam question whose options are scored too.
        held: keeps the last model for the next question; without it, every model is released when it has answered.

    Raises:
        LorachainError: a model cannot be loaded or asked.
    """
    device = resolve_device(context.config.device)
    keeper = held if held is not None else HeldModel()
    results = []
    for model in models:
        keeper.release_other_than(model)
        view.loading(model.name)
        start = time.monotonic()
        loaded, encoder = keeper.load(model, device, dtype_of(context.config))
        load_seconds = time.monotonic() - start
        answers = [_answer(model.name, loaded, encoder, prompt, view, sampling) for prompt in prompts(encoder)]
        score = score_questions(loaded, encoder, [question])[0] if question is not None else None
        results.append(Answered(model.name, load_seconds, tuple(answers), score))
        view.answered(results[-1])
        del loaded
        if held is None:
            keeper.release()
    return results


def _answer(
    name: str, model: nn.Module, encoder: TokenEncoder, prompt: AskedPrompt, view: View, sampling: Sampling
) -> Answer:
    limit = sampling.max_new_tokens or prompt.max_new_tokens
    _check_length(name, model, len(prompt.ids), limit)
    start = time.monotonic()
    first: list[float] = []

    def on_token(index: int, ids: Sequence[int]) -> None:
        first.append(time.monotonic() - start)
        text = encoder.tokenizer.decode(list(ids), skip_special_tokens=True)
        view.text(name, prompt.label, _shown(text.removesuffix(_PART_OF_CHARACTER), prompt))

    (generation,) = generate(
        model,
        encoder,
        [prompt.ids],
        stop=lambda text: prompt.one_line and "\n" in text.lstrip(),
        max_new_tokens=limit,
        temperature=sampling.temperature,
        seeds=[sampling.seed],
        on_token=on_token,
    )
    text = _shown(generation.text, prompt)
    view.text(name, prompt.label, text)
    return Answer(
        label=prompt.label,
        text=text,
        tokens=generation.tokens,
        first_seconds=first[0],
        seconds=time.monotonic() - start,
        complete=generation.ended,
    )


def _check_length(name: str, model: nn.Module, tokens: int, new: int) -> None:
    """Raises ConfigError where prompt and answer are longer than the model reads."""
    longest: int = cast(Any, model).config.get_text_config().max_position_embeddings
    if tokens + new > longest:
        raise ConfigError(
            f"the question has {tokens:,} tokens and its answer up to {new:,} (--max-new-tokens); {name} reads at most "
            f"{longest:,} together. Ask a shorter question"
        )


def _shown(text: str, prompt: AskedPrompt) -> str:
    return text.strip().split("\n")[0] if prompt.one_line else text
