"""A workspace as a finished chain leaves it, without training: every file that a report reads, with hostile texts."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from artifact_making import (
    HASH,
    exact_match_measure,
    exam_cell,
    ledger_step,
    logit_diff,
    perplexity_measure,
    reasoning_report,
    source_record,
    training_info,
)
from lorachain.artifacts import EpochScore, Ledger, LossRow, MergeReport, TrainingInfo, ValidationHistory
from lorachain.artifacts.ledger import GateResult, Noise
from lorachain.artifacts.merging import MergeTotals
from lorachain.artifacts.stages import Measures, StageSettings, StageValidation
from lorachain.chain.history import score_epoch
from lorachain.data.exam_writer import write_exam
from lorachain.evaluation.ledger_statistics import changes
from lorachain.evaluation.validation_result import summarize_validation
from lorachain.provenance import sha256_file
from lorachain.records import LETTERS, ExamQuestion
from lorachain.training.loss_log import LossLog
from lorachain.workspace import Workspace

SCRIPT = "<script>document.title='stolen'</script><img src=x onerror=alert(1)>"
QUESTIONS = 40
MODEL = "tiny"


def questions(exam: str) -> list[ExamQuestion]:
    """Questions of two subjects; every fifth has a script in its text and in an option."""
    made = []
    for number in range(QUESTIONS):
        hostile = SCRIPT if number % 5 == 0 else ""
        subject = "doctor" if number % 2 else "nurse"
        a, b, c, d, e = (f"선지 {number}-{letter} {hostile}" for letter in LETTERS)
        text = f"문항 {number}: 가장 알맞은 것은? {hostile} | *별* [링크](javascript:alert(1))"
        made.append(
            ExamQuestion(f"{subject}-2026-1-{number + 1}", subject, text, (a, b, c, d, e), number % 5, None, exam)
        )
    return made


def make_report_workspace(root: Path, *, finished: bool = True) -> Path:
    """The workspace `root`; unless `finished`, only stage 00 is trained and there is neither ledger nor reasoning."""
    workspace = Workspace(root)
    (root / "model" / "raw").mkdir(parents=True)
    entry = {MODEL: {"local_path": str(root / "weights"), "sources": "embedded"}}
    (root / "model" / "raw" / "model_paths.json").write_text(json.dumps(entry), encoding="utf-8")
    write_exam({"dev": questions("exam")}, root / "exam")
    scores: list[EpochScore] = []
    for stage in ("00", "01", "02") if finished else ("00",):
        _trained(workspace, root, stage, scores)
    if finished:
        _merge(workspace)
        _ledger().write(workspace.ledger(MODEL))
        _reasoning(workspace)
    return root


def _trained(workspace: Workspace, root: Path, stage: str, scores: list[EpochScore]) -> None:
    from lorachain.chain.exams import load_exam_questions

    asked = load_exam_questions([str(root / "exam")], max_questions=0, skip_bad_rows=False).dev
    shift = {"00": 3, "01": 2, "02": 1}[stage]
    for epoch in (0, 1):
        wrong = shift + 1 - epoch
        chosen = "".join(LETTERS[(q.answer + (i % (wrong + 1) > 0)) % 5] for i, q in enumerate(asked))
        result = summarize_validation(asked, {"letters": chosen}, "dev", 1.5)
        scores.append(score_epoch(stage, epoch, 30 * epoch, result, scores))
    before, after = scores[-2].result, scores[-1].result
    measures = {
        "00": Measures(before={"p": perplexity_measure(42.125)}, after={"p": perplexity_measure(30.0625)}),
        "01": Measures(before={"e": exact_match_measure(0.1)}, after={"e": exact_match_measure(0.8)}),
        "02": Measures(before={}, after={}),
    }[stage]
    settings = StageSettings(
        stage={}, training={}, validation={"max_questions": 0}, dtype="bfloat16", quantization="none",
        answer_style="letters",
    )  # fmt: skip
    losses = tuple(3.0 / (1 + step / 10) for step in range(30))
    info = training_info(stage)
    info = training_info(
        stage,
        depends_on=info.depends_on.model_copy(update={"settings": settings}),
        exam_sources=(source_record(name=str(root / "exam"), kind="local", short_name="exam"),),
        sources=(source_record(name=f"source {SCRIPT}", kind="local"),),
        measures=measures,
        training=info.training.model_copy(update={"losses": losses, "optimizer_steps": 30}),
        validation=StageValidation(
            selected_by="letters",
            before={name: score.headline for name, score in before.protocols.items()},
            after={name: score.headline for name, score in after.protocols.items()},
            epoch_kept=1,
        ),
    )
    folder = workspace.output(f"{stage}_trained", MODEL)
    folder.mkdir(parents=True)
    info.write(folder / "training_info.json")
    ValidationHistory(results=tuple(scores)).write(folder / "kormedmcqa_validation_results.json")
    log = LossLog(workspace.loss_log(stage, MODEL))
    for step, loss in enumerate(losses, start=1):
        log.append(
            LossRow(step=step, epoch=step / 30, loss=loss, learning_rate=2e-4, grad_norm=1.0, num_tokens=9 * step)
        )


def read_info(root: Path, stage: str) -> TrainingInfo:
    return TrainingInfo.read(root / "model" / f"{stage}_trained" / MODEL / "training_info.json")


def _merge(workspace: Workspace) -> None:
    totals = MergeTotals(
        targets=126, untouched=110, adapter_tensors=252, max_error_half_ulps=0.75, updates=4096,
        lost_to_rounding=431, lost_to_rounding_share=431 / 4096,
    )  # fmt: skip
    report = MergeReport(
        totals=totals, base_path=None, base_name="base", base_sha256=HASH, adapter_path=SCRIPT, adapter_sha256=HASH,
        adapter_tensors=252, merged_sha256=HASH, targets=(), untouched={}, probe=logit_diff(), quantization="none",
        weights="original", dequantized={}, quantized_base=None, packages={},
    )  # fmt: skip
    report.write(workspace.output("01_another_lora_added", MODEL) / "base" / "merge_report.json")


def _ledger() -> Ledger:
    """Of three steps: 00 worse than the base by one measure, 02 better by it."""
    n = 60
    cells = {
        "base": exam_cell("1" * 30 + "0" * (n - 30)),
        "00": exam_cell("1" * 8 + "0" * (n - 8)),
        "02": exam_cell("1" * 55 + "0" * (n - 55)),
    }
    base = ledger_step("base", None, cells["base"])
    steps = [base]
    for name, parent in (("00", base), ("02", None)):
        earlier = parent or steps[-1]
        against = {
            "base": changes([cells[name]], base.cells, {})["exam_letters"],
            "parent": changes([cells[name]], earlier.cells, {})["exam_letters"],
        }
        cell = cells[name].model_copy(update={"against": against})
        gate = GateResult(
            measure="exam_letters", against="base", tolerated=2.0, unit="points", loss=36.7, p_holm=0.001,
            on_fail="warn", outcome="failed", summary=f"lost {SCRIPT}",
        )  # fmt: skip
        steps.append(ledger_step(name, earlier.name, cell).model_copy(update={"gates": (gate,)}))
    noise = {"exam_letters": Noise(version="1", data_sha256=HASH, value=0.125, n=8)}
    return Ledger(model=MODEL, settings={}, noise=noise, steps=tuple(steps))


def _reasoning(workspace: Workspace) -> None:
    folder = workspace.output("02_training", MODEL) / "reasoning"
    folder.mkdir(parents=True)
    row = {"question": f"exam/{SCRIPT}", "right": "A", "chosen": "A", "kept": True, "rejected_by": None}
    rows = [
        {**row, "text": f"풀이 {SCRIPT}\n\n## 제목\n정답: A"},
        {**row, "kept": False, "rejected_by": "right", "chosen": "B", "text": "틀린 풀이"},
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "samples.parquet")
    report = reasoning_report().model_copy(update={"samples_sha256": sha256_file(folder / "samples.parquet")})
    report.write(folder / "reasoning_report.json")
