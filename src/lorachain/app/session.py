"""What the page works on: one chain, and one model in memory for every visitor."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lorachain.app.answering import Asking, Progress
from lorachain.ask.answers import Sampling
from lorachain.ask.forms import AskedPrompt
from lorachain.ask.held_model import HeldModel
from lorachain.chain.context import ChainContext
from lorachain.chain.scored_model import find_scored_model
from lorachain.chain.stages import chain_stages
from lorachain.errors import ConfigError
from lorachain.records import ExamQuestion
from lorachain.tokens import TokenEncoder
from lorachain.workspace import TRAINING_INFO


@dataclass(slots=True)
class Session:
    """The chain that is shown."""

    context: ChainContext
    others: tuple[str, ...] = ()
    """Directories and hub ids that can be asked besides the chain. A visitor cannot name more."""
    results: tuple[Path, ...] = ()
    """Of `lorachain eval`; the last is compared with the first."""
    held: HeldModel = field(default_factory=HeldModel)
    _asking: Asking | None = None

    def model_names(self) -> list[str]:
        """What can be asked now: the base, the finished stages, and the others."""
        stages = [s.name for s in chain_stages() if (self.context.output(s) / TRAINING_INFO).is_file()]
        return ["base", *stages, *self.others]

    def default_models(self) -> tuple[str, str]:
        """The last finished stage beside the base; the base alone where nothing is finished."""
        names = self.model_names()
        stages = names[1 : len(names) - len(self.others)]
        return ("base", stages[-1]) if stages else ("base", "")

    def answers(
        self,
        names: Sequence[str],
        prompts: Callable[[TokenEncoder], list[AskedPrompt]],
        sampling: Sampling,
        question: ExamQuestion | None = None,
    ) -> Iterator[tuple[Progress, ...]]:
        """The progress of every model, as `Asking.answers`.

        Raises:
            LorachainError: one of the models is not offered, cannot be loaded, or cannot be asked.
        """
        offered = self.model_names()
        chosen = list(dict.fromkeys(name for name in names if name))
        for name in chosen:
            if name not in offered:
                raise ConfigError(f"{name!r} is not offered; allowed: {', '.join(offered)}")
        models = [find_scored_model(self.context, name) for name in chosen]
        self._asking = Asking(self.context, self.held, models, prompts, sampling, question)
        yield from self._asking.answers()

    def stop(self) -> None:
        """Ends the answer that is being generated, if there is one."""
        if self._asking is not None:
            self._asking.stop()
