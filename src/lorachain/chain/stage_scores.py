"""The exam scores of a training stage: before training, and of each epoch."""

from lorachain.artifacts import EpochScore, TrainingInfo
from lorachain.chain.history import score_epoch
from lorachain.chain.parents import Parent
from lorachain.chain.stage_run import StageInputs, StageRun
from lorachain.evaluation.questions import question_set_hash
from lorachain.evaluation.validation import validate
from lorachain.evaluation.validation_result import summarize_validation
from lorachain.inference.shared_work import shared_inference
from lorachain.prompts import PROMPT_VERSION
from lorachain.weights.lora import PeftModel


def record_score(run: StageRun, score: EpochScore) -> None:
    """Keeps a score on disk, in the main process."""
    if run.runtime.processes.main:
        run.record.put(score)
    run.runtime.processes.wait()


def start_score(run: StageRun, model: PeftModel) -> EpochScore:
    """The score before training: one that was measured of the same model before, or a new one."""
    known = run.runtime.processes.broadcast(lambda: _inherited_start(run) or _start_in_ledger(run))
    return known or validate_epoch(run, model, epoch=0, step=0)


def _inherited_start(run: StageRun) -> EpochScore | None:
    """The parent's last score, where this stage starts with the very model that it belongs to."""
    inputs = run.inputs
    same_model = isinstance(inputs.parent.info, TrainingInfo) and inputs.parent.info.stage == run.stage.parent
    if not same_model or not inputs.inherited or not _held_as_in_parent(inputs):
        return None
    last = inputs.inherited[-1]
    asked = (question_set_hash(inputs.questions.dev), PROMPT_VERSION)
    if (last.result.data_sha256, last.result.prompt_version) != asked or not _is_kept_epoch(inputs.parent, last):
        return None
    return score_epoch(run.stage.name, 0, 0, last.result, inputs.inherited)


def _start_in_ledger(run: StageRun) -> EpochScore | None:
    """The parent's score in the ledger, where the same model was scored on the same questions."""
    chosen = run.ledger.exam_answers(question_set_hash(run.inputs.questions.dev))
    if chosen is None:
        return None
    result = summarize_validation(run.inputs.questions.dev, chosen, "dev", 0.0)
    return score_epoch(run.stage.name, 0, 0, result, run.inputs.inherited)


def _is_kept_epoch(parent: Parent, score: EpochScore) -> bool:
    """Whether the score belongs to the adapter that the parent published."""
    return isinstance(parent.info, TrainingInfo) and parent.info.validation.epoch_kept == score.epoch


def _held_as_in_parent(inputs: StageInputs) -> bool:
    """Whether the base is held in the same type as when the parent was validated."""
    if not isinstance(inputs.parent.info, TrainingInfo):
        return False
    before, now = inputs.parent.info.depends_on.settings, inputs.depends_on.settings
    return (before.dtype, before.quantization) == (now.dtype, now.quantization)


def validate_epoch(run: StageRun, model: PeftModel, *, epoch: int, step: int) -> EpochScore:
    """The exam score of the model after `epoch`, by both protocols; the processes share the questions."""
    questions = run.inputs.questions.dev
    budget = run.context.config.validation.token_budget
    with (
        shared_inference(run.runtime.processes),
        run.context.reporter.bar(f"validating on {len(questions)} dev questions", len(questions)) as bar,
    ):
        result = validate(model, run.inputs.encoder, questions, token_budget=budget, on_progress=bar)
    return score_epoch(run.stage.name, epoch, step, result, [*run.inputs.inherited, *run.record.scores])
