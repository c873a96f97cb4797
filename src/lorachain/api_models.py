"""The Python API, continued: what `lorachain doctor`, `fit` and `ask` do; see docs/python.md.

The packages of those names are attributes of `lorachain` once they are imported, so the functions have longer names.
"""

from collections.abc import Callable, Sequence

from lorachain.artifacts import DoctorReport, FitReport
from lorachain.ask.answers import Answered, Sampling, ask, models_to_ask
from lorachain.ask.exam_question import find_question
from lorachain.ask.forms import Form, check_form, prompts_of_question, prompts_of_text
from lorachain.chain.context import ChainContext
from lorachain.chain.debug_log import quiet_libraries
from lorachain.config import SourceKind
from lorachain.doctor.examine import Server, examine
from lorachain.errors import ConfigError
from lorachain.fit.card import parse_size
from lorachain.fit.report import fit


def run_doctor(
    chain: ChainContext,
    what: str | None = None,
    *,
    kinds: Sequence[SourceKind] | None = None,
    serving: str | None = None,
    server_model: str | None = None,
) -> DoctorReport:
    """Checks of machine, hub, model and data; `report.failed` says whether one failed.

    Args:
        what: a stage, a directory or a hub id; None: the base of the chain, with its data.
        kinds: of the chain's sources to check; None: all of them with the base, none with `what`.
        serving: the address of a running server to compare with the weights; `server_model` is its name for them.

    Raises:
        LorachainError: the model cannot be found.
    """
    quiet_libraries()
    server = Server(serving, server_model) if serving is not None else None
    return examine(chain, what, kinds=kinds, server=server, on_finding=lambda finding: None)


def fit_model(
    chain: ChainContext, what: str | None = None, *, gpu: str | None = None, measure: Sequence[str] = ()
) -> FitReport:
    """Memory of each stage and disk of a whole chain with the chain's settings, and settings for a card.

    Args:
        what: a directory with a config.json, or a hub id; None: the chain's own base.
        gpu: the card's memory, such as `24GB`; None: that of the device, where it is a GPU.
        measure: stages of which two steps are trained.

    Raises:
        LorachainError: a model or stage is missing, or `gpu` is no size.
    """
    quiet_libraries()
    return fit(chain, what, capacity=parse_size(gpu) if gpu is not None else None, measure=measure)


def ask_models(
    chain: ChainContext,
    text: str | None = None,
    *,
    question: str | None = None,
    models: Sequence[str] = (),
    form: Form | None = None,
    explain: bool = False,
    temperature: float = 0.0,
    seed: int = 0,
    max_new_tokens: int | None = None,
    on_text: Callable[[str, str, str], None] | None = None,
) -> list[Answered]:
    """Answers of several models to one question, in their order; one model is in memory at a time.

    Args:
        text: what is asked, in `form`: `dictionary`, `exam`, `chat` or `plain`; None: `chat` where there is a template.
        question: instead of `text`, the id of a question of the chain's exam, whose options are scored too; `explain`:
            also an answer after reasoning.
        models: `base`, stages, directories or hub ids; none: the last trained stage.
        on_text: called with a model's name, the cue and the answer so far, after each token.

    Raises:
        ConfigError: not exactly one of `text` and `question`, or a setting that does not belong to it.
        LorachainError: a model or the question cannot be found.
    """
    quiet_libraries()
    view, sampling = _View(on_text), Sampling(temperature, seed, max_new_tokens)
    if (text is None) == (question is None):
        raise ConfigError("give `text`, or `question` with the id of an exam question")
    if text is not None:
        if explain:
            raise ConfigError("`explain` belongs to `question`")
        asked = text
        checked = check_form(form)
        return ask(
            chain,
            models_to_ask(chain, models),
            lambda encoder: prompts_of_text(asked, checked, encoder),
            view,
            sampling=sampling,
        )
    if form is not None:
        raise ConfigError("`form` has no effect on `question`, which is asked as stage 02 trains it")
    found, _ = find_question(chain.sources.exam, str(question), skip_bad_rows=chain.skip_bad_rows)
    return ask(
        chain,
        models_to_ask(chain, models),
        lambda encoder: prompts_of_question(found, encoder, explain=explain),
        view,
        sampling=sampling,
        question=found,
    )


class _View:
    """Passes on the text of answers alone."""

    def __init__(self, on_text: Callable[[str, str, str], None] | None) -> None:
        self._on_text = on_text

    def loading(self, name: str) -> None: ...

    def text(self, name: str, label: str, text: str) -> None:
        if self._on_text is not None:
            self._on_text(name, label, text)

    def answered(self, answered: Answered) -> None: ...


__all__ = ["ask_models", "fit_model", "run_doctor"]
