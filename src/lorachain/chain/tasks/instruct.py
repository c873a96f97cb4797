"""General instructions, which no stage of its own trains: they are replayed in the batches of others."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from lorachain.chain.tasks.base import Measures, TaskInputs, single_row_packs
from lorachain.chain.tasks.gated import open_gates, other_counts, write_report
from lorachain.chain.tasks.token_cache import records_sha256
from lorachain.data.gates.views import INSTRUCT
from lorachain.data.instruct import load_instructions
from lorachain.data.sources import SourceInfo
from lorachain.errors import DataError
from lorachain.prompts import instruction_examples
from lorachain.token_store import StoredPacks, TokenStore
from lorachain.tokens import TokenRow


@dataclass(frozen=True, slots=True)
class InstructTask:
    sources: list[SourceInfo]
    counts: dict[str, int]
    store: TokenStore
    fitting: list[int]
    """Rows of the store that fit `max_length`."""

    def packs_of_epoch(self, epoch: int) -> StoredPacks:
        return single_row_packs(self.store, self.fitting)

    def measure(self, model: nn.Module) -> Measures:
        return {}


def load_instruct_task(inputs: TaskInputs) -> InstructTask:
    """The instructions that contain no held-out question and fit `max_length`.

    Raises:
        DataError: a source cannot be read, or no instruction is left.
    """
    loaded = load_instructions(inputs.sources, skip_bad_rows=inputs.skip_bad_rows, max_samples=inputs.stage.max_samples)
    gates = open_gates(inputs, INSTRUCT)
    kept = list(gates.kept(loaded.instructions))
    report = write_report(inputs, gates, loaded.sources)

    def rows() -> Iterator[TokenRow]:
        for record, item in enumerate(kept):
            for example in instruction_examples(item, inputs.encoder.turns):
                yield inputs.encoder.encode(example, record)

    store = inputs.token_cache({"instructions": records_sha256(kept)}).rows("instructions", rows)
    fitting = [row for row, length in enumerate(store.lengths.tolist()) if length <= inputs.stage.max_length]
    if not fitting:
        raise DataError(
            f"none of {len(loaded.instructions)} instructions of {', '.join(inputs.sources)} is left: each is longer "
            f"than {inputs.stage.max_length} tokens or contains a dev question. Name others as the source `instruct`"
        )
    return InstructTask(
        sources=loaded.sources,
        counts={
            "instructions": len(fitting),  # of a conversation, each answer
            "instructions_with_exam_questions_left_out": report.contamination.removed,
            "longer_than_max_length_left_out": len(store.lengths) - len(fitting),
            **other_counts(report),
        },
        store=store,
        fitting=fitting,
    )
