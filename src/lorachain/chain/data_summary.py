"""What the sources of a chain contain, with the tokens and the chat template of its model."""

from collections.abc import Sequence

from lorachain.artifacts.data_summary import ReadAs, SourceSummary
from lorachain.chain.context import ChainContext
from lorachain.data.sources import resolve
from lorachain.data.staleness import Reading
from lorachain.data.summary import SAMPLES, summarize_source
from lorachain.prompts import AnswerStyle
from lorachain.registry import has_weights, weights_folder

READ_AS: dict[Reading, ReadAs] = {
    "plain text": "plain text",
    "dictionary": "dictionary",
    "instructions": "instructions",
    "exam for training": "exam",
    "exam for validation": "exam",
}
PLANNED_RECORDS = 1000
"""Of each source, for a plan: it must not take long."""


def summarize_sources(
    sources: Sequence[tuple[str, ReadAs | None]], context: ChainContext | None, *, max_records: int | None = None
) -> list[SourceSummary]:
    """One summary per source.

    Args:
        context: whose tokenizer, chat template and style of answers are used; None: none, and letters.

    Raises:
        DataError: a source cannot be read. ModelError: the model's tokenizer cannot be loaded.
    """
    if context is None:
        return [summarize_source(name, read_as, max_records=max_records) for name, read_as in sources]
    from lorachain.chain.debug_log import quiet_libraries
    from lorachain.tokens import TokenEncoder
    from lorachain.weights.load import load_tokenizer

    quiet_libraries()
    encoder = TokenEncoder(load_tokenizer(weights_folder(context.entry, context.reporter.message)))
    style: AnswerStyle = context.entry.answer_style
    return [
        summarize_source(name, read_as, style=style, encoder=encoder, max_records=max_records)
        for name, read_as in sources
    ]


def planned_summaries(context: ChainContext, read: Sequence[tuple[str, Reading]]) -> list[SourceSummary]:
    """Summaries of the first records of the sources that are at hand: a plan downloads no data and no weights."""
    wanted = dict.fromkeys((name, READ_AS[reading]) for name, reading in read)
    local = [(name, kind) for name, kind in wanted if resolve(name, sample=SAMPLES[kind]).path is not None]
    at_hand = context if has_weights(context.entry) else None
    return summarize_sources(local, at_hand, max_records=PLANNED_RECORDS)
