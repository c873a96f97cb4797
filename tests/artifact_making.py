"""Valid artifacts with values that tests can recognize."""

from typing import Any

from lorachain.artifacts import (
    Ablation,
    ArmScore,
    Cell,
    DataReport,
    EpochScore,
    EvalResult,
    GateResult,
    HashedExam,
    Ledger,
    LedgerStep,
    LogitDiff,
    Measure,
    Noise,
    StepModel,
    TrainingInfo,
)
from lorachain.artifacts.ablation import AblationArm, AblationCell, AgainstChain, ArmStage, ItemScores, PairedSeed
from lorachain.artifacts.evaluation import (
    Baselines,
    MacroScore,
    MajorityLetter,
    QuestionSet,
    RowsFile,
    Score,
    ScoredModelIdentity,
    TokenCounts,
)
from lorachain.artifacts.reasoning import Funnel, ReasoningInputs, ReasoningReport, WriterIdentity
from lorachain.artifacts.stages import (
    DataIdentity,
    Measures,
    ParentIdentity,
    SourceRecord,
    StageSettings,
    StageValidation,
    TrainingFacts,
    TrainingInputs,
)
from lorachain.artifacts.validation import Proportion, ProtocolScore
from lorachain.data.gates.hashed_exam import hash_exam
from lorachain.data.gates.screen import open_data_gates
from lorachain.data.gates.views import PLAIN_TEXT
from lorachain.data_settings import DataConfig
from lorachain.evaluation.statistics import proportion
from lorachain.records import ExamQuestion, PlainText

HASH = "ab" * 32


def logit_diff(**changes: Any) -> LogitDiff:
    values = {"rows": 24, "max_abs_logit": 0.5, "mean_abs_logit": 0.1, "mean_kl": 0.01, "max_kl": 0.02}
    return LogitDiff(**{**values, "argmax_agreement": 1.0, "letter_agreement": 1.0, **changes})


def protocol_score(accuracy: float, low: float, high: float) -> ProtocolScore:
    return ProtocolScore(
        protocol="letters",
        protocol_version="1",
        split="dev",
        n=1039,
        correct=round(1039 * accuracy),
        accuracy=accuracy,
        wilson95=(low, high),
        summary="above chance (p < 0.001)",
    )


def source_record(**changes: Any) -> SourceRecord:
    values = {"name": "sample", "kind": "sample", "files": {"a.jsonl": HASH}, "sha256": HASH, "short_name": "sample"}
    return SourceRecord(**{**values, "rows": 3401, "bad_rows": 0, **changes})


def perplexity_measure(value: float) -> Measure:
    return Measure(
        name="perplexity", protocol_version="1", split="held-out documents", value=value, n=1071, unit="tokens"
    )


def exact_match_measure(value: float | None, n: int = 30) -> Measure:
    wilson95 = None if value is None else (max(0.0, value - 0.1), min(1.0, value + 0.1))
    return Measure(
        name="exact match",
        protocol_version="1",
        split="trained entries",
        value=value,
        n=n,
        unit="answers",
        wilson95=wilson95,
        detail={"exact": round((value or 0) * n)},
    )


def training_info(stage: str = "02", **changes: Any) -> TrainingInfo:
    """A valid training_info.json; `changes` replace its fields."""
    settings = StageSettings(
        stage={}, training={}, validation={}, dtype="bfloat16", quantization="none", answer_style="letters"
    )
    fields: dict[str, Any] = {
        "stage": stage,
        "model": "tiny",
        "finished": "2026-01-01T10:00:00+0000",
        "depends_on": TrainingInputs(
            parent=ParentIdentity(folder="01_another_lora_added/tiny", adapter_sha256=HASH, base_sha256=HASH),
            data=DataIdentity(sources=HASH, dev=HASH),
            settings=settings,
            seed=0,
        ),
        "depends_on_sha256": HASH,
        "base": "google/gemma-3-270m",
        "base_sha256": HASH,
        "adapter_sha256": HASH,
        "sources": (source_record(),),
        "exam_sources": (source_record(),),
        "counts": {"questions": 3000, "questions_also_in_dev_left_out": 2},
        "training": TrainingFacts(
            optimizer_steps=1234,
            tokens=5_678_901,
            supervised_tokens=1_000_000,
            seconds=10.0,
            tokens_per_second=567_890.1,
            peak_memory_bytes=10**9,
            loss_first=3.0,
            loss_last_tenth=1.0,
            losses=(3.0, 1.0),
            device="cpu",
        ),
        "validation": StageValidation(
            selected_by="letters",
            before={"letters": protocol_score(0.4721, 0.4418, 0.5025)},
            after={"letters": protocol_score(0.5534, 0.523, 0.5833)},
            epoch_kept=3,
        ),
        "measures": Measures(before={}, after={}),
        "configuration": {},
        "versions": {"lorachain": "0"},
        "git_commit": None,
    }
    return TrainingInfo(**{**fields, **changes})


def exam_cell(correct: str, measure: str = "exam_letters") -> Cell:
    """A share of right answers without its comparisons."""
    return Cell(
        measure=measure,
        kind="share",
        version="1",
        data_sha256=HASH,
        value=correct.count("1") / len(correct),
        n=len(correct),
        unit="questions",
        interval95=(0.0, 1.0),
        correct=correct,
    )


def ledger_step(name: str, parent: str | None, *cells: Cell) -> LedgerStep:
    adapter = None if name in ("base", "merge") else HASH
    model = StepModel(base_sha256=HASH, adapter_sha256=adapter, quantization="none", dtype="bfloat16")
    return LedgerStep(name=name, parent=parent, model=model, cells=cells)


def ledger() -> Ledger:
    """A ledger with a row, a cell with its comparison, a gate and a noise."""
    from lorachain.evaluation.ledger_statistics import changes

    base = ledger_step("base", None, exam_cell("1100"))
    change = changes([exam_cell("0110")], base.cells, {})["exam_letters"]
    tuned = exam_cell("0110").model_copy(update={"against": {"base": change, "parent": change}})
    gate = GateResult(
        measure="exam_letters",
        against="base",
        tolerated=2.0,
        unit="points",
        loss=0.0,
        p_holm=1.0,
        on_fail="stop",
        outcome="passed",
        summary="no difference",
    )
    row = ledger_step("00", "base", tuned).model_copy(update={"gates": (gate,)})
    noise = {"exam_letters": Noise(version="1", data_sha256=HASH, value=0.25, n=4)}
    return Ledger(model="tiny", settings={"documents": 4}, noise=noise, steps=(base, row))


def arm_score() -> ArmScore:
    return ArmScore(
        arm="only-02",
        seed=3,
        fingerprint=HASH,
        adapter_sha256=HASH,
        stages=(
            ArmStage(
                stage="02",
                supervised_tokens=900,
                tokens=4000,
                optimizer_steps=30,
                seconds=5.5,
                replayed={"instruct": 0.1},
            ),
        ),
        scores=(
            ItemScores(
                measure="exam, letters",
                kind="share",
                protocol_version="1",
                data_sha256=HASH,
                unit="questions",
                correct="0110",
            ),
        ),
        seconds=60.5,
    )


def ablation() -> Ablation:
    against = AgainstChain(
        difference=-0.25,
        interval95=(-0.5, 0.1),
        test="sign flips",
        p=0.25,
        p_holm=0.5,
        verdict="not significantly different",
        by_seed=(PairedSeed(seed=3, lost=2, gained=1, mcnemar_p=1.0),),
    )
    cell = AblationCell(
        measure="exam, letters",
        protocol_version="1",
        value=0.5,
        interval95=(0.2, 0.8),
        n=4,
        unit="questions",
        by_seed=(0.5,),
        against_chain=against,
    )
    return Ablation(
        model="tiny",
        seeds=(3,),
        budget=1000,
        split="dev",
        configuration={"seed": 0},
        versions={"lorachain": "0"},
        git_commit=None,
        arms=(AblationArm(arm="only-02", title="02 alone", supervised_tokens=(900,), cells=(cell,)),),
    )


def reasoning_report() -> ReasoningReport:
    funnel = Funnel(
        questions=2, questions_kept=1, drawn=4, hinted=0, rejected={"right": 3}, failed={"right": 3}, kept=1, tokens=80
    )
    inputs = ReasoningInputs(
        writer=WriterIdentity(engine="openai", version="1", model="large", weights_sha256=None),
        scorer_sha256=HASH,
        questions=HASH,
        held_out=HASH,
        examples=HASH,
        dictionary=HASH,
        settings={"temperature": 0.8},
        answer_style="letters",
        seed=0,
    )
    return ReasoningReport(
        depends_on=inputs,
        depends_on_sha256=HASH,
        by_parent=True,
        samples_per_question=2,
        checks={"right": "the answer is right"},
        total=funnel,
        per_subject={"doctor": funnel},
        skipped={"also held out": 1},
        sources=(),
        exam_sources=(),
        dictionary_sources=(),
        samples_sha256=HASH,
        licence="none",
    )


def epoch_score(stage: str, epoch: int, correct: dict[str, tuple[int, int]]) -> EpochScore:
    """A validation by `letters` with so many right answers of n per subject."""
    from lorachain.evaluation.validation_result import summarize_validation
    from lorachain.records import ExamQuestion

    questions, chosen = [], ""
    for subject, (right, n) in correct.items():
        for number in range(n):
            text = f"{subject} {number}"
            questions.append(ExamQuestion(text, subject, text, ("가", "나", "다", "라", "마"), 0, exam="kormedmcqa"))
            chosen += "A" if number < right else "B"
    result = summarize_validation(questions, {"letters": chosen}, "dev", 1.0)
    return EpochScore(stage=stage, epoch=epoch, step=epoch, at="2026-01-01", result=result, compared_with={})


def eval_result(correct: dict[str, tuple[int, int]], **changes: Any) -> EvalResult:
    """A result of `lorachain eval` with so many right answers of n per subject."""
    n, right = sum(n for _, n in correct.values()), sum(right for right, _ in correct.values())
    fields: dict[str, Any] = {
        "model": ScoredModelIdentity(name="02", base_sha256=HASH, adapter_sha256=HASH, quantization="none"),
        "protocol": "lm-eval-3.0",
        "protocol_version": "3.0",
        "settings": {"shots": 5, "max_new_tokens": 1024},
        "split": "test",
        "data": QuestionSet(sha256=HASH, n=n, exams=("kormedmcqa",), subjects=tuple(correct), selection={}),
        "score": Score(**proportion(right, n), chance=0.2, p_chance=0.01, summary="above chance (p = 0.010)"),
        "per_subject": {subject: Proportion(**proportion(*counts)) for subject, counts in correct.items()},
        "macro": MacroScore(n=n, subjects=len(correct), accuracy=0.5, bootstrap95=None),
        "baselines": Baselines(
            always_majority_letter=MajorityLetter(letter="A", **proportion(right, n)),
            always_longest_option=Proportion(**proportion(right, n)),
        ),
        "report": {},
        "tokens": TokenCounts(prompt=1, generated=1),
        "seconds": 1.0,
        "versions": {},
        "rows": RowsFile(file="02.parquet", sha256=HASH),
    }
    return EvalResult(**{**fields, **changes})


def data_report() -> DataReport:
    """A report with a finding of every gate."""
    question = _held_out_question()
    settings = DataConfig.model_validate(
        {"processes": 1, "contamination": {"action": "report"}, "personal": {"action": "mask"}}
    )
    gates = open_data_gates(PLAIN_TEXT, settings, {"dev": [question]})
    texts = [
        question.question.replace("남자가", "남자는"),
        "전화 010-1234-5678",
        "간은 담즙을 만든다.",
        "간은 담즙을 만든다.",
    ]
    assert len(list(gates.kept(PlainText(text, f"a.jsonl:{n}") for n, text in enumerate(texts, start=1)))) == 3
    return gates.report(["a.jsonl"])


def hashed_exam() -> HashedExam:
    return hash_exam("test", [_held_out_question()])


def _held_out_question() -> ExamQuestion:
    stem = "52세 남자가 발열과 옆구리 통증으로 병원에 왔다. 가장 알맞은 진단은 무엇인가?"
    return ExamQuestion("q", "s", stem, ("급성 신우신염", "급성 방광염", "요로결석", "신장 농양", "급성 전립샘염"), 0)
