"""Answers as they are generated, for a page that is drawn again and again."""

import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from lorachain.ask.answers import Answered, Sampling, ask
from lorachain.ask.forms import AskedPrompt
from lorachain.ask.held_model import HeldModel
from lorachain.chain.context import ChainContext
from lorachain.chain.scored_model import ScoredModel
from lorachain.records import ExamQuestion
from lorachain.tokens import TokenEncoder

_SECONDS = 0.1
"""Between two drawings at least: every token of a small model would be more than a browser needs."""


class _StoppedError(Exception):
    """Ends the generation at the next token."""


@dataclass(frozen=True, slots=True)
class Progress:
    """How far one model is."""

    name: str
    state: Literal["waiting", "loading", "answering", "answered"] = "waiting"
    texts: tuple[tuple[str, str], ...] = ()
    """Label and text so far, of each prompt."""
    answered: Answered | None = None


@dataclass(slots=True)
class Asking:
    """One question to several models, answered in a thread of its own."""

    context: ChainContext
    held: HeldModel
    models: Sequence[ScoredModel]
    prompts: Callable[[TokenEncoder], list[AskedPrompt]]
    sampling: Sampling
    question: ExamQuestion | None = None
    _progress: dict[str, Progress] = field(default_factory=dict)
    _changed: threading.Event = field(default_factory=threading.Event)
    _stopped: bool = False
    _error: BaseException | None = None

    def stop(self) -> None:
        """Ends the generation at its next token."""
        self._stopped = True

    def answers(self) -> Iterator[tuple[Progress, ...]]:
        """The progress of every model, in the order of the models, whenever it has changed, and at the end.

        The model that is in memory already answers first. If the caller stops early, so does the generation.

        Raises:
            LorachainError: a model cannot be loaded or asked; what was answered before it was yielded.
        """
        self._progress = {model.name: Progress(model.name) for model in self.models}
        thread = threading.Thread(target=self._ask, name="asking")
        thread.start()
        try:
            while thread.is_alive():
                if self._changed.wait(_SECONDS):
                    self._changed.clear()
                    yield tuple(self._progress.values())
                    thread.join(_SECONDS)
        finally:
            self.stop()
            thread.join()
        yield tuple(self._progress.values())
        if self._error is not None:
            raise self._error

    def _ask(self) -> None:
        order = sorted(self.models, key=lambda model: not self.held.holds(model))
        try:
            ask(
                self.context,
                order,
                self.prompts,
                self,
                sampling=self.sampling,
                question=self.question,
                held=self.held,
            )
        except _StoppedError:
            pass
        except BaseException as error:  # raised in the thread that draws
            self._error = error

    # ---- the view that `ask` shows answers in ----

    def loading(self, name: str) -> None:
        self._show(Progress(name, "loading"))

    def text(self, name: str, label: str, text: str) -> None:
        before = dict(self._progress[name].texts)
        self._show(Progress(name, "answering", tuple({**before, label: text}.items())))

    def answered(self, answered: Answered) -> None:
        texts = tuple((answer.label, answer.text) for answer in answered.answers)
        self._show(Progress(answered.name, "answered", texts, answered))

    def _show(self, progress: Progress) -> None:
        self._progress[progress.name] = progress
        self._changed.set()
        if self._stopped:
            raise _StoppedError
