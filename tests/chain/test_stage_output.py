"""The output directory of a training stage: adapter, tokenizer, every score, and what was used."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from lorachain.artifacts import read_training_info
from lorachain.artifacts.stages import ReplayedData
from lorachain.chain import stage_output
from lorachain.chain.history import read_history
from lorachain.chain.stage_output import write_output
from lorachain.chain.touched import touched_questions
from lorachain.provenance import ADAPTER_CONFIG, ADAPTER_WEIGHTS, adapter_sha256
from lorachain.training.progress import Progress
from stage_making import EXAM_SOURCE, FINGERPRINT, SCORES, SOURCE, Task, make_context, make_run, measure_of, score


class Replayed:
    """Replay that records what it is told."""

    def record(self, step: int, steps_per_epoch: int, supervised: int) -> tuple[ReplayedData, ...]:
        return (
            ReplayedData(
                kind="instruct",
                share_wanted=0.1,
                share=0.1,
                supervised_tokens=supervised,
                tokens=step,
                examples_per_epoch=steps_per_epoch,
                pool=1,
                most_uses=1,
                sources=(),
            ),
        )


@pytest.fixture
def written_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """An adapter and a tokenizer as files of which only the name matters."""

    def save_adapter(model: Any, folder: Path, tensors: Any) -> None:
        (folder / ADAPTER_WEIGHTS).write_bytes(tensors)
        (folder / ADAPTER_CONFIG).write_text("{}", encoding="utf-8")

    class Tokenizer:
        def __init__(self, folder: Path) -> None:
            self.name = folder.name

        def save_pretrained(self, folder: Path) -> None:
            (folder / "tokenizer.json").write_text(self.name, encoding="utf-8")

    monkeypatch.setattr(stage_output, "save_adapter", save_adapter)
    monkeypatch.setattr(stage_output, "load_tokenizer", Tokenizer)


ADAPTER = {
    "peft_type": "LORA",
    "r": 4,
    "lora_alpha": 12,
    "lora_dropout": 0.25,
    "use_rslora": True,
    "target_modules": ["q_proj"],
}
PROGRESS = Progress(
    step=9, tokens=1000, supervised_tokens=300, seconds=8.04, losses=[float(n) for n in range(25, 0, -1)]
)


def test_the_output_has_every_score_and_says_what_was_used(tmp_path: Path, written_parts: None) -> None:
    context = make_context(tmp_path, "stages.01.batch_size=3", "lora.rank=64", "seed=5")
    (tmp_path / "parent").mkdir()
    (tmp_path / "parent" / ADAPTER_CONFIG).write_text(json.dumps(ADAPTER), encoding="utf-8")
    inherited = [score("00", 0, 0, 1), score("00", 1, 5, 2)]
    run = make_run(context, scores=SCORES, inherited=inherited, replay=Replayed(), task=Task(packs=10))
    run.record.before = {"exact_match": measure_of(0.1)}
    write_output(run, cast(Any, None), cast(Any, b"weights"), PROGRESS, SCORES[3], {"exact_match": measure_of(0.9)})

    folder = run.unpublished
    history = read_history(folder)
    assert [(one.stage, one.epoch) for one in history] == [
        ("00", 0), ("00", 1), ("01", 0), ("01", 1), ("01", 2), ("01", 3),
    ]  # fmt: skip
    assert (folder / "tokenizer.json").read_text(encoding="utf-8") == "parent"
    info = read_training_info(folder)
    assert (info.stage, info.model, info.depends_on_sha256) == ("01", "tiny", FINGERPRINT)
    assert info.depends_on == run.inputs.depends_on
    parent = run.inputs.parent.info
    assert (info.base, info.base_sha256) == (parent.base, parent.base_sha256)
    assert info.adapter_sha256 == adapter_sha256(folder)
    assert [source.sha256 for source in info.sources] == [SOURCE.sha256]
    assert [source.sha256 for source in info.exam_sources] == [EXAM_SOURCE.sha256]
    assert info.counts == {"terms": 12}
    # Ten packs in batches of three: four steps in an epoch.
    (replayed,) = info.replay
    assert (replayed.tokens, replayed.examples_per_epoch, replayed.supervised_tokens) == (9, 4, 300)
    assert info.validation.selected_by == "options"
    assert info.validation.epoch_kept == 2
    assert info.validation.before is not None
    assert {name: one.correct for name, one in info.validation.before.items()} == {"letters": 9, "options": 9}
    assert {name: one.correct for name, one in info.validation.after.items()} == {"letters": 5, "options": 7}
    assert {name: one.value for name, one in info.measures.before.items()} == {"exact_match": 0.1}
    assert {name: one.value for name, one in info.measures.after.items()} == {"exact_match": 0.9}
    used = info.configuration
    assert used["lora"] == {"rank": 4, "alpha": 12, "dropout": 0.25, "use_rslora": True, "target_modules": ["q_proj"]}
    assert (used["seed"], used["dtype"], used["quantization"], used["device"]) == (5, "bfloat16", "none", "cpu")
    assert used["stage"]["batch_size"] == 3
    assert used["training"] == context.config.training.model_dump(mode="json")
    assert used["validation"] == context.config.validation.model_dump(mode="json")
    assert used["sources"] == {"dictionary": context.sources.dictionary, "exam": context.sources.exam}


def test_without_replay_and_start_score_there_is_none(tmp_path: Path, written_parts: None) -> None:
    (tmp_path / "parent").mkdir()
    (tmp_path / "parent" / ADAPTER_CONFIG).write_text(json.dumps(ADAPTER), encoding="utf-8")
    run = make_run(make_context(tmp_path), scores=SCORES[1:2])
    write_output(run, cast(Any, None), cast(Any, b"weights"), PROGRESS, SCORES[1], {})
    info = read_training_info(run.unpublished)
    assert info.replay == ()
    assert info.validation.before is None
    assert info.measures.before == {}


@pytest.mark.parametrize(
    ("losses", "last_tenth"),
    [([5.0], 5.0), ([float(n) for n in range(25, 0, -1)], 1.5), ([float(n) for n in range(9)], 8.0)],
)
def test_training_facts(tmp_path: Path, losses: list[float], last_tenth: float) -> None:
    runtime = make_run(make_context(tmp_path)).runtime
    facts = stage_output._training_facts(replace(PROGRESS, losses=losses), runtime)
    assert (facts.optimizer_steps, facts.tokens, facts.supervised_tokens) == (9, 1000, 300)
    assert (facts.seconds, facts.tokens_per_second) == (8.0, 124.4)
    assert (facts.loss_first, facts.loss_last_tenth, facts.losses) == (losses[0], last_tenth, tuple(losses))
    assert facts.device == "cpu"
    assert facts.peak_memory_bytes > 0


@pytest.mark.parametrize("which", ["touched", "clean"])
def test_measures_of_touched_questions_are_of_the_start_and_of_the_epoch_that_was_kept(
    tmp_path: Path, written_parts: None, monkeypatch: pytest.MonkeyPatch, which: str
) -> None:
    (tmp_path / "parent").mkdir()
    (tmp_path / "parent" / ADAPTER_CONFIG).write_text(json.dumps(ADAPTER), encoding="utf-8")
    run = make_run(make_context(tmp_path), scores=SCORES)
    assert touched_questions(run.context, run.stage) == set()
    monkeypatch.setattr(stage_output, "touched_questions", lambda context, stage: {"real/q0", "real/q8"})
    write_output(run, cast(Any, None), cast(Any, b"weights"), PROGRESS, SCORES[3], {})
    info = read_training_info(run.unpublished)
    name = f"exam_{which}"
    before, after = info.measures.before[name], info.measures.after[name]
    # By `options`, the first nine and the first seven of ten are right.
    assert (before.detail["protocol"], after.detail["protocol"]) == ("options", "options")
    expected = {"touched": (2, 1, 2), "clean": (7, 6, 8)}[which]
    assert (before.detail["correct"], after.detail["correct"], after.n) == expected
