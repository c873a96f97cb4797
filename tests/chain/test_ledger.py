"""The ledger of a chain: what is measured once, what is measured again, and what an interruption changes."""

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from artifact_making import exact_match_measure, perplexity_measure
from chain_making import FinishedChain, options_of
from conftest import make_tokenizer
from lorachain.artifacts import Ledger, StepModel, ValidationHistory
from lorachain.chain import ledger as ledger_module
from lorachain.chain import ledger_jobs
from lorachain.chain.ledger import load_step
from lorachain.chain.ledger_data import LedgerData
from lorachain.chain.ledger_steps import Step, Stored
from lorachain.chain.runtime import Runtime
from lorachain.evaluation import exact_match
from lorachain.evaluation.perplexity import rows_sha256
from lorachain.records import Term
from lorachain.tokens import TokenEncoder, TokenRow

Run = Callable[..., tuple[int, str, str]]


def ledger_path(root: Path) -> Path:
    return root / "model" / "ledger" / "tiny" / "ledger.json"


def measured(root: Path) -> Ledger:
    return Ledger.read(ledger_path(root))


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The first measure of every job that a model computes, as it is computed."""
    names: list[str] = []
    original = ledger_jobs.jobs

    def logged(*arguments: Any, **options: Any) -> Any:
        for job in original(*arguments, **options):

            def score(subject: Any, job: Any = job) -> Any:
                names.append(job.measures[0])
                return job.score(subject)

            yield ledger_jobs.Job(
                job.measures, job.version, job.data_sha256, score, job.reuse, job.of_adapters_only, job.has_noise
            )

    monkeypatch.setattr(ledger_module, "jobs", logged)
    return names


def test_what_stages_scored_is_copied(finished_chain: Callable[..., FinishedChain]) -> None:
    root = finished_chain("text").root
    ledger = measured(root)
    history = ValidationHistory.read(root / "model" / "02_trained" / "tiny" / "kormedmcqa_validation_results.json")
    scores = {(score.stage, score.epoch): score.result for score in history.results}
    info = json.loads((root / "model" / "02_trained" / "tiny" / "training_info.json").read_text(encoding="utf-8"))
    kept = info["validation"]["epoch_kept"]
    for step, key in (
        ("base", ("00", 0)),
        ("00", ("00", 1)),
        ("01", ("01", 2)),
        ("merge", ("02", 0)),
        ("02", ("02", kept)),
    ):
        for protocol in ("letters", "options"):
            row = ledger.step(step)
            cell = row.cell(f"exam_{protocol}") if row else None
            assert cell
            assert cell.detail["chosen"] == scores[key].questions.chosen[protocol]


def test_perplexity_is_copied_where_the_documents_are_the_same() -> None:
    rows = [TokenRow([2, 10, 11], 1, record=0), TokenRow([2, 12, 13, 14], 1, record=1)]
    detail = {"rows_sha256": rows_sha256(rows), "document_nll": [2.0, 6.0], "document_tokens": [2, 3]}
    measure = perplexity_measure(5.0).model_copy(update={"detail": detail})
    job = next(iter(ledger_jobs.jobs(LedgerData(texts={"plain_text": rows}), intruder_layers=1)))
    (cell,) = job.reuse(Stored(measures={"heldout_perplexity": measure})) or []
    assert cell.value == pytest.approx(math.exp(8 / 5))
    assert cell.sums == (2.0, 6.0)
    for other in ({}, {**detail, "rows_sha256": "ab"}):
        changed = measure.model_copy(update={"detail": other})
        assert job.reuse(Stored(measures={"heldout_perplexity": changed})) is None
    assert job.reuse(Stored()) is None


def test_exact_match_is_copied_for_the_first_entries() -> None:
    terms = [Term("가", "나", "a"), Term("다", None, "b"), Term("라", "마", None), Term("바", "사", "c")]
    digest = exact_match.entries_sha256(terms)
    parts = {"definition->term": "101", "english->term": "110", "term->english": "011"}
    detail = {"entries_sha256": digest, "by_direction": {way: {"correct": bits} for way, bits in parts.items()}}
    measure = exact_match_measure(0.5).model_copy(update={"detail": detail})
    job = next(iter(ledger_jobs.jobs(LedgerData(terms=terms, asked_terms=3), intruder_layers=1)))
    cells = job.reuse(Stored(measures={"exact_match": measure})) or []
    assert {cell.measure: cell.correct for cell in cells} == {
        "exact_match_definition_to_term": "10",  # the second entry has no definition
        "exact_match_english_to_term": "11",  # the third has no English name
        "exact_match_term_to_english": "01",
    }
    assert job.data_sha256 == exact_match.entries_sha256(terms[:3])
    other = measure.model_copy(update={"protocol_version": "0"})
    assert job.reuse(Stored(measures={"exact_match": other})) is None


def test_nothing_is_measured_twice(finished_copy: Path, scored: list[str], lorachain: Run) -> None:
    before = ledger_path(finished_copy).read_bytes()
    # Without --config: the settings of the chain and of its ledger are those that were recorded.
    code, out, err = lorachain("ledger", "--measure", "--model", "tiny", "--workspace", finished_copy)
    assert code == 0, err
    assert scored == []
    assert ledger_path(finished_copy).read_bytes() == before
    assert "what every step scores" in out


def test_measured_afterwards_it_is_the_same(finished_copy: Path, scored: list[str], lorachain: Run) -> None:
    """From the files of the finished chain, without its gates; stored scores are not computed again."""
    before = measured(finished_copy)
    shutil.rmtree(ledger_path(finished_copy).parent)
    code, _, err = lorachain("ledger", "--measure", *options_of(finished_copy))
    assert code == 0, err
    after = measured(finished_copy)
    without_gates = tuple(step.model_copy(update={"gates": ()}) for step in before.steps)
    assert after == before.model_copy(update={"steps": without_gates, "gates": {}})
    # Noise is measured by scoring once more; of the chain's steps only what no stage has scored.
    assert scored.count("exam_letters") == 1
    assert scored.count("exact_match_definition_to_term") == 1 + 3  # base, merge and 02
    assert scored.count("plain_text") == 1 + 5  # documents are longer than a piece: their beginnings are others
    assert scored.count("korean") == 1 + 5


def test_killed_and_resumed_it_has_the_same_bytes(
    finished_copy: Path, lorachain: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at its first write, twice within a row, and after several rows."""
    before = ledger_path(finished_copy).read_bytes()
    ledger = json.loads(before)
    ledger["steps"], ledger["noise"] = [], {}
    gates = {step["name"]: step["gates"] for step in json.loads(before)["steps"]}
    ledger_path(finished_copy).write_text(json.dumps(ledger), encoding="utf-8")
    original = Ledger.write
    for written in (0, 6, 1, 24):
        left = [original] * written

        def write(self: Ledger, path: Path, left: list[Any] = left) -> None:
            if not left:
                raise KeyboardInterrupt
            left.pop()(self, path)

        monkeypatch.setattr(Ledger, "write", write)
        assert lorachain("ledger", "--measure", *options_of(finished_copy))[0] == 130
        assert ledger_path(finished_copy).read_bytes() != before
    monkeypatch.setattr(Ledger, "write", original)
    code, _, err = lorachain("ledger", "--measure", *options_of(finished_copy))
    assert code == 0, err
    resumed = json.loads(ledger_path(finished_copy).read_text(encoding="utf-8"))
    for step in resumed["steps"]:
        step["gates"] = gates[step["name"]]  # which only a run evaluates
    assert json.dumps(resumed, ensure_ascii=False, indent=2) + "\n" == before.decode()


def test_only_what_changed_is_measured_again(finished_copy: Path, scored: list[str], lorachain: Run) -> None:
    mine = finished_copy / "mine.txt"
    mine.write_text("내가 쓴 글이다.\n", encoding="utf-8")
    place = ("--model", "tiny", "--workspace", finished_copy)
    code, out, err = lorachain("ledger", *place, "--ledger-text", mine)
    assert code == 0, err
    assert set(scored) == {"text_mine"}
    assert scored.count("text_mine") == 1 + 5
    assert "perplexity, mine" in out
    scored.clear()
    mine.write_text("내가 다시 쓴 글이다.\n", encoding="utf-8")
    assert lorachain("ledger", *place, "--measure")[0] == 0
    assert set(scored) == {"text_mine"}
    scored.clear()
    assert lorachain("ledger", *place, "--measure")[0] == 0
    assert scored == []


def test_lost_hidden_states_are_computed_again(finished_copy: Path, scored: list[str], lorachain: Run) -> None:
    before = ledger_path(finished_copy).read_bytes()
    for folder in ledger_path(finished_copy).parent.glob("hidden_states-*"):
        (folder / "hidden_states.safetensors").write_bytes(b"damaged")
    assert lorachain("ledger", "--measure", "--model", "tiny", "--workspace", finished_copy)[0] == 0
    assert scored == ["kl_plain_text", "kl_dictionary", "kl_exam"]
    assert ledger_path(finished_copy).read_bytes() == before


def test_a_source_that_is_gone_leaves_out_its_measures(finished_copy: Path, lorachain: Run) -> None:
    shutil.rmtree(ledger_path(finished_copy).parent)
    for stage in ("00", "01", "02"):
        path = finished_copy / "model" / f"{stage}_trained" / "tiny" / "training_info.json"
        info = json.loads(path.read_text(encoding="utf-8"))
        if stage == "01":
            info["sources"][0]["name"] = str(finished_copy / "gone.jsonl")
        path.write_text(json.dumps(info), encoding="utf-8")
    code, out, err = lorachain("ledger", "--measure", *options_of(finished_copy))
    assert code == 0, err
    assert "the ledger leaves out what stage 01 trains" in err
    assert "exact match" not in out
    assert "perplexity, general Korean" in out


def test_without_a_ledger(started: Path, lorachain: Run) -> None:
    code, _, err = lorachain("ledger", "--model", "tiny", "--workspace", started)
    assert code == 2
    assert "nothing of tiny was measured yet; measure it with: lorachain ledger --measure --model tiny" in err


def test_a_chain_that_does_not_measure(started: Path, lorachain: Run, scored: list[str]) -> None:
    """The gate of the exam needs only what the stages validate anyway."""
    code, _, err = lorachain("train", "00", *options_of(started), "--set", "ledger.measure=false")
    assert code == 0, err
    assert scored == []
    ledger = measured(started)
    for step in ledger.steps:
        assert {cell.measure for cell in step.cells} == {"exam_letters", "exam_options"}
    assert [gate.outcome for gate in ledger.steps[1].gates] == ["passed"]
    assert lorachain("ledger", "--model", "tiny", "--workspace", started)[0] == 0


@pytest.mark.parametrize("held", [torch.float32, torch.bfloat16])
def test_a_step_is_loaded_in_the_type_that_it_was_trained_in(save_tiny: Callable[..., Path], held: torch.dtype) -> None:
    """Whatever type the running command holds its own model in: the row says which one was measured."""
    base, encoder = save_tiny("text"), TokenEncoder(make_tokenizer())
    for dtype, expected in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        model = StepModel(base_sha256="0" * 64, adapter_sha256=None, quantization="none", dtype=dtype)
        loaded, _ = load_step(Runtime(torch.device("cpu"), held), Step("base", None, base, None, model), encoder)
        assert next(loaded.parameters()).dtype == expected
