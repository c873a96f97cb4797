"""General instructions, which no stage of its own trains: they are replayed in the batches of others."""

from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from lorachain.chain.tasks.base import Measures, TaskInputs, single_row_packs
from lorachain.chain.tasks.token_cache import records_sha256
from lorachain.data.decontamination import ExamScreen
from lorachain.data.instruct import load_instructions
from lorachain.data.sources import SourceInfo
from lorachain.errors import DataError
from lorachain.prompts import instruction_example
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
    screen = ExamScreen(inputs.held_out)
    kept = [item for item in loaded.instructions if not screen.contains(item.text)]

    def rows() -> Iterator[TokenRow]:
        for record, item in enumerate(kept):
            yield inputs.encoder.encode(instruction_example(item), record)

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
            "instructions": len(fitting),
            "instructions_with_exam_questions_left_out": len(loaded.instructions) - len(kept),
            "longer_than_max_length_left_out": len(kept) - len(fitting),
        },
        store=store,
        fitting=fitting,
    )
