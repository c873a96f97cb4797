"""Which forms of a question stage 02 trains in each epoch."""

from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import make_tokenizer
from lorachain.chain.context import load_config
from lorachain.chain.tasks.base import TaskInputs
from lorachain.chain.tasks.exam import ExamTask, load_exam_task
from lorachain.config_reading import parse_setting
from lorachain.errors import ConfigError
from lorachain.prompts import JSON_INSTRUCTION
from lorachain.tokens import TokenEncoder

Load = Callable[[float | None], ExamTask]
ENCODER = TokenEncoder(make_tokenizer())


@pytest.fixture
def load(tmp_path: Path) -> Load:
    config = load_config()

    def make(json_share: float | None) -> ExamTask:
        settings = {"json_share": json_share, "max_samples": 20, "max_length": 6000}
        return load_exam_task(
            TaskInputs(
                encoder=ENCODER,
                stage=config.stages["02"].model_copy(update=settings),
                validation=config.validation,
                seed=0,
                sources=["sample"],
                dev=[],
                held_out=[],
                answer_style="letters",
                cache=tmp_path / "tokens",
                tokenizer_sha256="of the tokenizer",
                skip_bad_rows=False,
                on_message=lambda message: None,
            )
        )

    return make


def texts(task: ExamTask, epoch: int) -> list[str]:
    """Each row as the model sees it."""
    packs = task.packs_of_epoch(epoch)
    return [ENCODER.tokenizer.decode(row.ids) for index in range(len(packs)) for row in packs[index]]


def test_a_share_of_the_questions_asks_for_json_too(load: Load) -> None:
    without, some, every = (texts(load(share), 0) for share in (0.0, 0.25, 1.0))
    as_json = [[text for text in found if '{"정답": "' in text.rpartition("출력 형식")[2]] for found in (some, every)]
    assert not any(JSON_INSTRUCTION[:20] in text for text in without)
    assert [len(found) for found in as_json] == [5, 20]
    for found in (some, every):
        assert [text for text in found if JSON_INSTRUCTION[:20] not in text] == without


def test_each_epoch_draws_its_own_questions_and_has_as_many_packs(load: Load) -> None:
    task = load(0.25)
    epochs = [task.packs_of_epoch(epoch) for epoch in range(3)]
    assert len({len(packs) for packs in epochs}) == 1
    drawn = [
        tuple(row.record for index in range(len(packs)) for row in packs[index] if row.form == "") for packs in epochs
    ]
    assert len(set(drawn)) == 3
    assert [len(set(records)) for records in drawn] == [5, 5, 5]


def test_it_is_a_setting_of_exams_only() -> None:
    with pytest.raises(ConfigError, match=r"stages\.01\.json_share is 0\.5, but stage 01 trains no exam; .*: 02"):
        load_config(overrides=[parse_setting("stages.01.json_share=0.5")])
