"""The training data: packs of stage 00 and stage 02 and their optimizer steps, the same for all contenders."""

import json
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lorachain.data.exam import load_exam
from lorachain.data.plain_text import stream_plain_text
from lorachain.prompts import exam_examples, plain_text_example
from lorachain.records import ExamQuestion
from lorachain.tokens import TokenEncoder, TokenRow, split_long
from lorachain.tokens import pack as pack_rows
from lorachain.training.batch_schedule import BUCKET_STEPS, BatchSchedule, Pack

SAMPLE = "sample"
TITLES = {
    "02": "stage 02, answer only",
    "02-reasoning": "stage 02 with reasoning",
    "00": "stage 00, plain text",
}
EXAM_BATCH, TEXT_BATCH = 8, 4
"""Packs per optimizer step, as in the chain's defaults."""


@dataclass(frozen=True)
class Workload:
    """Packs of at least BUCKET_STEPS optimizer steps, so that bucketing by length works as in a long run."""

    name: str
    source: str
    batch_size: int
    packs: list[list[TokenRow]]

    @property
    def packed(self) -> bool:
        return self.name == "00"

    def supervised_share(self) -> float:
        rows = [row for pack in self.packs for row in pack]
        return sum(row.supervised for row in rows) / sum(map(len, rows))


def total_tokens(rows: Iterable[TokenRow]) -> int:
    return sum(len(row) for row in rows)


def build(
    name: str, encoder: TokenEncoder, real_data: Path | None, *, pack_length: int, steps: int = BUCKET_STEPS
) -> Workload:
    """The workload `name` of TITLES, from the directory of real data or, without one, from the embedded sample.

    The training questions of the published exam have no reasoning, so "02-reasoning" always uses the sample: both
    sequences that stage 02 makes of a question with reasoning.
    """
    if name == "00":
        source = str(real_data / "plain") if real_data else SAMPLE
        return Workload(name, _shown(source, real_data), TEXT_BATCH, _packs(source, encoder, pack_length, steps))
    reasoned = name == "02-reasoning"
    source = str(real_data / "kormedmcqa") if real_data and not reasoned else SAMPLE
    questions = load_exam([source], "train").questions
    random.Random(0).shuffle(questions)
    packs = [[row] for q in questions for row in _exam_rows(q, encoder, reasoned=reasoned)]
    return Workload(name, _shown(source, real_data), EXAM_BATCH, packs[: EXAM_BATCH * steps])


def _shown(source: str, real_data: Path | None) -> str:
    return source if source == SAMPLE else f"LORACHAIN_REAL_DATA/{Path(source).relative_to(real_data or '')}"


def _exam_rows(question: ExamQuestion, encoder: TokenEncoder, *, reasoned: bool) -> list[TokenRow]:
    if reasoned and not question.reasoning:
        return []
    examples = exam_examples(question, "options")
    return [encoder.encode(example) for example in (examples if reasoned else examples[-1:])]


def _packs(source: str, encoder: TokenEncoder, length: int, steps: int) -> list[list[TokenRow]]:
    """Full packs only: documents are added until there are enough to fill them."""
    count = TEXT_BATCH * steps
    rows: list[TokenRow] = []
    tokens = 0
    for document in stream_plain_text([source]):
        pieces = split_long(encoder.encode(plain_text_example(document)), length)
        rows += pieces
        tokens += total_tokens(pieces)
        if tokens > count * length:
            break
    packs = [[rows[i] for i in group] for group in pack_rows([len(row) for row in rows], length)]
    kept = count if len(packs) >= count else len(packs) // TEXT_BATCH * TEXT_BATCH
    return sorted(packs, key=lambda rows: -sum(map(len, rows)))[:kept]


class FirstSteps(BatchSchedule):
    """The first `count` optimizer steps of a workload."""

    def __init__(
        self, packs: Sequence[Pack], *, count: int, batch_size: int, micro_batch_tokens: int, pad_id: int, seed: int
    ) -> None:
        super().__init__(
            lambda epoch: packs,
            epochs=1,
            batch_size=batch_size,
            micro_batch_tokens=micro_batch_tokens,
            pad_id=pad_id,
            seed=seed,
        )
        self.count = count

    def __len__(self) -> int:
        return min(self.count, self.steps_per_epoch)

    def packs_by_step(self) -> list[list[Pack]]:
        return [self.packs_of_step(step) for step in range(len(self))]


def write_workload(workload: Workload, path: Path) -> None:
    packs = [[[row.ids, row.supervised_from] for row in pack] for pack in workload.packs]
    content = {"name": workload.name, "source": workload.source, "batch_size": workload.batch_size, "packs": packs}
    path.write_text(json.dumps(content), encoding="utf-8")


def read_workload(path: Path) -> Workload:
    content = json.loads(path.read_text(encoding="utf-8"))
    content["packs"] = [[TokenRow(ids, first) for ids, first in pack] for pack in content["packs"]]
    return Workload(**content)
