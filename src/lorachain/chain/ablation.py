"""`lorachain ablate`: trains and scores each arm with each seed, and compares them at equal supervised tokens."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lorachain.artifacts import Ablation, ArmScore, Measure, TrainingInfo, read_stage_info
from lorachain.artifacts.ablation import ArmStage, ItemScores
from lorachain.atomic import remove_tree
from lorachain.chain.ablation_arms import Arm, NaturalRun, arm_config
from lorachain.chain.context import ChainContext, stage_sources
from lorachain.chain.exams import ExamQuestions, load_exam_questions
from lorachain.chain.pipeline import run_stages
from lorachain.chain.replay import mean_supervised
from lorachain.chain.runtime import Runtime
from lorachain.chain.scored_model import find_scored_model
from lorachain.chain.stages import stage_table, training_stages
from lorachain.chain.task_inputs import task_inputs
from lorachain.chain.tasks.base import Measures, StageTask
from lorachain.errors import WorkspaceError
from lorachain.evaluation.ablation_statistics import summarize_arms
from lorachain.evaluation.protocols.base import LETTERS_VERSION, OPTIONS_VERSION
from lorachain.evaluation.validation import validate
from lorachain.memory import release
from lorachain.prompts import PROMPT_VERSION
from lorachain.provenance import git_commit, package_versions, sha256_json
from lorachain.registry import weights_folder
from lorachain.tokens import TokenEncoder
from lorachain.weights.load import load_tokenizer
from lorachain.workspace import refuse_links

RESULT, SCORE = "ablation.json", "score.json"
BASE = Arm("base", "the base, untrained", (), "base")


@dataclass(frozen=True, slots=True)
class AblationData:
    """What every arm is scored on, and how much the chain trains."""

    questions: ExamQuestions
    tasks: dict[str, StageTask]
    """By stage: the data of the chain, with what each stage measures."""
    measured: tuple[str, ...]
    """The stages whose own measures are compared; the exam is scored without its task."""
    natural: dict[str, NaturalRun]
    """By stage: what the chain trains with its own settings."""

    def fingerprint(self) -> list[str]:
        """Of everything that was read."""
        sources = [source for task in self.tasks.values() for source in task.sources]
        return [source.sha256 for source in (*sources, *self.questions.sources)]


def ablate(
    context: ChainContext,
    runtime: Runtime,
    arms: Sequence[Arm],
    *,
    seeds: Sequence[int],
    budget: int | None = None,
    keep_models: bool = False,
) -> Ablation:
    """Trains and scores every arm with every seed; what was finished before is not repeated.

    Args:
        budget: supervised tokens of each arm; None: what the chain trains with its settings.
        keep_models: keep the weights of an arm after it was scored.

    Raises:
        ConfigError: a budget too small for a step.
        LorachainError: as `run_stages`. TrainingInterrupted: on a signal, after saving.
    """
    place = context.workspace.ablation(context.model)
    refuse_links(place)
    data = load_ablation_data(context)
    tokens = budget or sum(run.supervised_tokens for run in data.natural.values())
    scores: dict[str, list[ArmScore]] = {BASE.name: [_score_base(context, runtime, data, seeds[0])] * len(seeds)}
    for seed in seeds:
        for arm in arms:
            config = arm_config(arm, context.config, budget=tokens, natural=data.natural, seed=seed)
            arm_context = replace(
                context,
                workspace=context.workspace.ablation_arm(context.model, arm.name, seed),
                config=config,
                confirm=lambda question: True,  # nothing but this command writes there
            )
            scores.setdefault(arm.name, []).append(_run_arm(arm_context, runtime, arm, data, keep_models=keep_models))
    result = Ablation(
        model=context.model,
        seeds=tuple(seeds),
        budget=tokens,
        split="dev",
        prompt_version=PROMPT_VERSION,
        configuration=context.config.model_dump(mode="json"),
        versions=package_versions(),
        git_commit=git_commit(),
        arms=summarize_arms(scores, {arm.name: arm.title for arm in (BASE, *arms)}),
    )
    place.mkdir(parents=True, exist_ok=True)
    result.write(place / RESULT)
    return result


def load_ablation_data(context: ChainContext) -> AblationData:
    """The data of the chain's training stages, tokenized.

    Raises:
        DataError: a source cannot be read.
    """
    config = context.config
    base = weights_folder(context.entry)
    questions = load_exam_questions(
        context.sources.exam, max_questions=config.validation.max_questions, skip_bad_rows=context.skip_bad_rows
    )
    encoder = TokenEncoder(load_tokenizer(base))
    tasks: dict[str, StageTask] = {}
    for stage in training_stages():
        inputs = task_inputs(
            context,
            stage,
            stage_sources(context.sources, stage),
            questions,
            base=base,
            encoder=encoder,
            cache=context.workspace.ablation(context.model) / "tokens" / stage.name,
            on_message=context.reporter.message,
        )
        tasks[stage.name] = stage.load_task()(inputs)
    natural = {name: _natural_run(context, name, task) for name, task in tasks.items()}
    measured = tuple(stage.name for stage in training_stages() if stage.source != "exam")
    return AblationData(questions, tasks, measured, natural)


def _natural_run(context: ChainContext, stage: str, task: StageTask) -> NaturalRun:
    settings = context.config.stages[stage]
    packs = task.packs_of_epoch(0)
    per_epoch, steps_per_epoch = len(packs) * mean_supervised(packs), -(-len(packs) // settings.batch_size)
    tokens = settings.supervised_tokens or round(settings.epochs * per_epoch)
    return NaturalRun(tokens, max(1, round(steps_per_epoch * tokens / per_epoch)))


def _run_arm(context: ChainContext, runtime: Runtime, arm: Arm, data: AblationData, *, keep_models: bool) -> ArmScore:
    """Trains and scores one arm with one seed, unless its score is there."""
    fingerprint = _fingerprint(context, arm, data)
    path = context.workspace.root / SCORE
    if (known := _known_score(path, fingerprint)) is not None:
        context.reporter.message(f"{arm.name}, seed {context.config.seed}: scored before, skipped")
        return known
    context.reporter.message(f"{arm.name}, seed {context.config.seed}: {arm.title}")
    started = time.monotonic()
    with stage_table(arm.table):
        run_stages(context, runtime, arm.runs)
        infos = {stage.name: read_stage_info(context.output(stage)) for stage in arm.runs}
        scores = _score(context, runtime, arm.scored, data)
    score = ArmScore(
        arm=arm.name,
        seed=context.config.seed,
        fingerprint=fingerprint,
        adapter_sha256=infos[arm.scored].adapter_sha256,
        stages=tuple(_arm_stage(info) for info in infos.values() if isinstance(info, TrainingInfo)),
        scores=scores,
        seconds=round(time.monotonic() - started, 1),
    )
    score.write(path)
    if not keep_models:
        _remove_models(context, arm)
    return score


def _score_base(context: ChainContext, runtime: Runtime, data: AblationData, seed: int) -> ArmScore:
    """The untrained base, for which the seed makes no difference."""
    fingerprint = _fingerprint(context, BASE, data)
    path = context.workspace.ablation(context.model) / BASE.name / SCORE
    if (known := _known_score(path, fingerprint)) is not None:
        return known
    started = time.monotonic()
    score = ArmScore(
        arm=BASE.name,
        seed=seed,
        fingerprint=fingerprint,
        adapter_sha256=None,
        stages=(),
        scores=_score(context, runtime, BASE.scored, data),
        seconds=round(time.monotonic() - started, 1),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    score.write(path)
    return score


def _fingerprint(context: ChainContext, arm: Arm, data: AblationData) -> str:
    """Of everything that decides the scores: settings, model, data, and what is scored."""
    config = context.config.model_dump(mode="json", exclude={"name", "device"})
    scored_on = [question.id for question in data.questions.dev]
    table = [(stage.name, stage.parent) for stage in arm.runs]
    entry = context.entry.model_dump(mode="json")
    measured = {name: task.counts for name, task in data.tasks.items()}
    prompts = [PROMPT_VERSION] if PROMPT_VERSION > 1 else []  # scores from before there was a version are of the first
    return sha256_json([arm.name, table, config, entry, data.fingerprint(), scored_on, measured, *prompts])


def _known_score(path: Path, fingerprint: str) -> ArmScore | None:
    try:
        score = ArmScore.read(path)
    except WorkspaceError:
        return None
    return score if score.fingerprint == fingerprint else None


def _arm_stage(info: TrainingInfo) -> ArmStage:
    facts = info.training
    return ArmStage(
        stage=info.stage,
        supervised_tokens=facts.supervised_tokens,
        tokens=facts.tokens,
        optimizer_steps=facts.optimizer_steps,
        seconds=facts.seconds,
        replayed={part.kind: part.share for part in info.replay},
    )


def _score(context: ChainContext, runtime: Runtime, scored: str, data: AblationData) -> tuple[ItemScores, ...]:
    """The exam by both protocols, and what each stage measures, of one model."""
    model, encoder = find_scored_model(context, scored).load(runtime.device, runtime.dtype)
    questions = data.questions.dev
    with context.reporter.bar(f"scoring on {len(questions)} dev questions", len(questions)) as bar:
        budget = context.config.validation.token_budget
        result = validate(model, encoder, questions, token_budget=budget, on_progress=bar)
    measures: Measures = {}
    for name in data.measured:
        measures |= data.tasks[name].measure(model)
    del model
    release()
    versions = {"letters": LETTERS_VERSION, "options": OPTIONS_VERSION}
    exam = [
        ItemScores(
            measure=f"exam, {protocol}",
            kind="share",
            protocol_version=versions[protocol],
            data_sha256=result.data_sha256,
            unit="questions",
            correct="".join("01"[hit] for hit in result.correct(protocol)),
        )
        for protocol in result.protocols
    ]
    return (*exam, *(_items(measure) for measure in measures.values() if measure.value is not None))


def _items(measure: Measure) -> ItemScores:
    """A stage's own measure, item by item, as its detail has it."""
    detail: dict[str, Any] = measure.detail
    common = {"measure": measure.name, "protocol_version": measure.protocol_version}
    if "document_nll" in detail:
        return ItemScores(
            **common,
            kind="perplexity",
            data_sha256=detail["rows_sha256"],
            unit="documents",
            nll=tuple(detail["document_nll"]),
            tokens=tuple(detail["document_tokens"]),
        )
    names = {name: part for name, part in sorted(detail["by_direction"].items()) if name != "term->definition"}
    return ItemScores(
        **common,
        kind="share",
        data_sha256=sha256_json([detail["entries_sha256"], list(names)]),
        unit="answers",
        correct="".join(part["correct"] for part in names.values()),
    )


def _remove_models(context: ChainContext, arm: Arm) -> None:
    """Weights, checkpoints and cached tokens of an arm that was scored."""
    workspace, model = context.workspace, context.model
    for stage in arm.table:
        remove_tree(workspace.output(stage.output, model))
        if stage.kind == "training":
            remove_tree(workspace.training(stage.name, model))
            for store in _stores(workspace.token_cache(stage.name, model)):
                remove_tree(store)


def _stores(cache: Path) -> list[Path]:
    caches = [cache, cache.with_name("instruct-tokens"), cache.with_name("known-tokens")]
    return [path for folder in caches if folder.is_dir() for path in folder.iterdir() if path.is_dir()]
