"""One training stage from parent folder to trained folder: measure, train, validate each epoch, choose, write."""

import logging
import time
from collections.abc import Callable
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from lorachain.chain.context import STAGE_TITLES, ChainContext
from lorachain.chain.debug_log import step_summary
from lorachain.chain.exams import load_dev, load_held_out
from lorachain.chain.history import RUN_RECORD, EpochScore, RunRecord, read_history, score, write_history
from lorachain.chain.parents import Parent, find_parent
from lorachain.chain.resume import ResumePoint, find_resume_point, forget_after
from lorachain.chain.tasks import TASKS, StageTask, TaskInputs, sources_hash
from lorachain.evaluation.validation import question_set_hash, validate
from lorachain.memory import peak, reset_peak
from lorachain.provenance import SCHEMA_VERSION, TRAINING_INFO, git_commit, package_versions, sha256_json, write_json
from lorachain.records import ExamQuestion
from lorachain.tokens import TokenEncoder
from lorachain.training.batch_schedule import BatchSchedule
from lorachain.training.checkpoints import checkpoint_directory
from lorachain.training.progress import Progress, TrainingSettings
from lorachain.training.sharding import shard_layers
from lorachain.training.trainer import train
from lorachain.weights.load import load_model, load_tokenizer, tokenizer_sha256
from lorachain.weights.lora import ADAPTER_WEIGHTS, PeftModel, load_adapter, save_adapter, set_adapter_tensors
from lorachain.weights.lora_file import adapter_sha256
from lorachain.weights.quantized import require_quantizer
from lorachain.workspace import StageName, atomic_folder, require_space

logger = logging.getLogger(__name__)

_CHECKPOINT_FACTOR = 8
"""A checkpoint is the adapter and three float32 copies of it; keep_checkpoints and the best of them lie on disk."""


class StageRun:
    """A stage being trained. `run()` goes through it once; what an earlier, interrupted run found is used again.

    Raises (all methods):
        WorkspaceError: no parent, or no space. DataError: a source. AdapterError: the parent does not fit its base.
        TrainingInterrupted: on a signal, after saving.
    """

    def __init__(self, context: ChainContext, stage: StageName, *, from_base: bool = False) -> None:
        require_quantizer(context.config.quantization)  # reading the data may take long
        self.context = context
        self.processes = context.processes
        self.stage = stage
        self.parent: Parent = find_parent(context, stage, from_base)
        self.run_folder = context.workspace.training(stage, context.model)
        adapter_bytes = (self.parent.folder / ADAPTER_WEIGHTS).stat().st_size
        require_space(self.run_folder, adapter_bytes * _CHECKPOINT_FACTOR)
        self.encoder = TokenEncoder(load_tokenizer(self.parent.base))
        dev = load_dev(context)
        self.dev: list[ExamQuestion] = dev.questions
        self.exam_sources = dev.sources
        self.task = self._load_task()
        self.depends_on = self._depends_on()
        self.fingerprint = sha256_json(self.depends_on)
        # The other processes keep no record: what was found before is the main one's business.
        self.record = (
            RunRecord.open(self.run_folder, self.fingerprint)
            if self.processes.main
            else RunRecord(self.run_folder / RUN_RECORD, self.fingerprint)
        )
        if self.record.moved_aside:
            context.reporter.message(
                f"an earlier run of stage {stage} had other settings or data, or its record is broken: it is moved to "
                f"{self.record.moved_aside}, and the stage starts anew"
            )
        self.inherited: list[EpochScore] = read_history(self.parent.folder)

    def _load_task(self) -> StageTask:
        context = self.context
        rank = f"-{self.processes.rank}" if self.processes.rank else ""
        return TASKS[self.stage](
            TaskInputs(
                encoder=self.encoder,
                config=context.config,
                stage=context.stage(self.stage),
                sources=context.sources,
                held_out=load_held_out(context),
                answer_style=context.entry.answer_style,
                # Beside the run's folder: what the run depends on is known only after the data was read.
                data_folder=self.run_folder.with_name(f".{self.run_folder.name}.data{rank}"),
                tokenizer_sha256=tokenizer_sha256(self.parent.base),
                skip_bad_rows=context.skip_bad_rows,
                on_message=context.reporter.message,
            )
        )

    def _depends_on(self) -> dict[str, Any]:
        """All that decides the result. Where one of these changes, the stage is stale."""
        return {
            "parent": self.parent.identity(),
            "data": {"sources": sources_hash(self.task.sources), "dev": sources_hash(self.exam_sources)},
            "settings": self.context.deciding_settings(self.stage),
            "seed": self.context.config.seed,
        }

    def run(self) -> None:
        """Trains and writes {stage}_trained/{model}."""
        context = self.context
        reset_peak(context.device)
        context.reporter.message(
            f"stage {self.stage}, {STAGE_TITLES[self.stage]}: {context.model} on {context.device}, "
            + ", ".join(f"{count:,} {what.replace('_', ' ')}" for what, count in self.task.counts.items() if count)
        )
        model = load_adapter(
            load_model(self.parent.base, context.device, context.dtype, context.config.quantization),
            self.parent.folder,
            trainable=True,
        )
        if self.processes.sharded:
            shard_layers(model)
        self._measure_before(model)
        progress, tensors = self._train(model)
        chosen = self.processes.broadcast(self._choose)
        if chosen.step < progress.step:
            tensors = load_file(checkpoint_directory(self.run_folder, chosen.step) / ADAPTER_WEIGHTS)
        set_adapter_tensors(model, tensors)
        after = self.processes.on_main(lambda: self.task.measure(model))
        if after is not None:
            self._write(model, tensors, progress, chosen, after)
        self.processes.wait()

    def _measure_before(self, model: PeftModel) -> None:
        """What an interrupted run found already is not measured again."""
        measured, validated = self.processes.broadcast(
            lambda: (self.record.before is not None, self.record.score_of(0) is not None)
        )
        if not measured and (before := self.processes.on_main(lambda: self.task.measure(model))) is not None:
            self.record.before = before
            self.record.write()
        if not validated:
            self._put_score(lambda: self._carried_start() or self._validate(model, epoch=0, step=0))

    def _put_score(self, validation: Callable[[], EpochScore]) -> None:
        found = self.processes.on_main(validation)
        if found is not None:
            self.record.put(found)
        self.processes.wait()

    def _carried_start(self) -> EpochScore | None:
        """Stage 01 starts with the very model that stage 00 validated last: measured once, told twice."""
        if self.stage != "01" or not self.inherited or self._held_otherwise():
            return None
        last = self.inherited[-1].validation
        if last.data_sha256 != question_set_hash(self.dev):
            return None
        return score(self.stage, 0, 0, last, self.inherited)

    def _held_otherwise(self) -> bool:
        """Whether the base is held in another type than when the parent was trained."""
        before, now = (found["settings"] for found in (self.parent.info["depends_on"], self.depends_on))
        return any(before.get(key) != now[key] for key in ("dtype", "quantization"))

    def _validate(self, model: PeftModel, *, epoch: int, step: int) -> EpochScore:
        budget = self.context.config.validation.token_budget
        title = f"validating on {len(self.dev)} dev questions"
        with self.context.reporter.bar(title, len(self.dev)) as bar:
            result = validate(model, self.encoder, self.dev, token_budget=budget, on_progress=bar)
        return score(self.stage, epoch, step, result, [*self.inherited, *self.record.scores])

    @property
    def _choosing(self) -> str | None:
        """The protocol that picks the epoch to keep; None where the last is kept."""
        return self.context.entry.answer_style if self.stage == "02" else None

    def _resume_point(self, step_marker: str) -> ResumePoint:
        point = find_resume_point(self.run_folder, self.record, self._choosing)
        forget_after(point.found.step, self.record, self.context.workspace.debug_log(self.stage), step_marker)
        return point

    def _train(self, model: PeftModel) -> tuple[Progress, dict[str, Tensor]]:
        context, config = self.context, self.context.config
        settings = context.stage(self.stage)
        steps = BatchSchedule(
            self.task.packs_of_epoch,
            epochs=settings.epochs,
            batch_size=settings.batch_size,
            micro_batch_tokens=config.training.micro_batch_tokens,
            pad_id=self.encoder.pad_id,
            seed=config.seed,
            share=self.processes.share,
        )
        step_marker = f"{context.model} {self.fingerprint[:12]}"
        point = self.processes.broadcast(lambda: self._resume_point(step_marker))

        with context.reporter.bar(f"training {self.stage}", len(steps)) as bar:

            def on_step(progress: Progress) -> None:
                rate = progress.tokens / max(progress.seconds, 1e-9)
                logger.info(step_summary(step_marker, progress.step, len(steps), progress.losses[-1]))
                bar(progress.step, f"loss {progress.losses[-1]:.3f} · {rate:,.0f} tokens/s")

            def on_epoch_end(epoch: int, step: int) -> bool:
                self._put_score(lambda: self._validate(model, epoch=epoch, step=step))
                found = self.record.best(self._choosing) if self._choosing else None
                return found is not None and found.epoch == epoch

            return train(
                model,
                steps,
                TrainingSettings(
                    learning_rate=settings.learning_rate,
                    seed=config.seed,
                    **config.training.model_dump(exclude={"micro_batch_tokens"}),
                ),
                run=self.run_folder,
                fingerprint=self.fingerprint,
                on_epoch_end=on_epoch_end,
                on_step=on_step,
                on_message=context.reporter.message,
                checkpoint=point.found,
                best_step=point.best_step,
                processes=self.processes,
            )

    def _choose(self) -> EpochScore:
        """Stage 02 lands its best epoch, the others their last."""
        final = max(self.record.scores, key=lambda line: line.epoch)
        best = self.record.best(self._choosing) if self._choosing else None
        if best is None or best.epoch == final.epoch:
            return final
        self.context.reporter.message(f"epoch {best.epoch} of {final.epoch} validated best and is the one that is kept")
        return best

    def _write(
        self,
        model: PeftModel,
        tensors: dict[str, Tensor],
        progress: Progress,
        chosen: EpochScore,
        after: dict[str, Any],
    ) -> None:
        context = self.context
        with atomic_folder(context.workspace.trained(self.stage, context.model)) as staging:
            save_adapter(model, staging, tensors)
            load_tokenizer(self.parent.folder).save_pretrained(staging)
            write_history(staging, [*self.inherited, *sorted(self.record.scores, key=lambda line: line.epoch)])
            write_json(
                staging / TRAINING_INFO,
                {
                    "schema_version": SCHEMA_VERSION,
                    "stage": self.stage,
                    "model": context.model,
                    "finished": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
                    "depends_on": self.depends_on,
                    "depends_on_sha256": self.fingerprint,
                    "base": self.parent.info["base"],
                    "base_sha256": self.parent.info["base_sha256"],
                    "adapter_sha256": adapter_sha256(staging),
                    "sources": [source.as_dict() for source in self.task.sources],
                    "exam_sources": [source.as_dict() for source in self.exam_sources],
                    "counts": self.task.counts,
                    "training": _training_facts(progress, context),
                    "validation": {
                        "selected_by": context.entry.answer_style,
                        "before": _headline(self.record.score_of(0)),
                        "after": _headline(chosen),
                        "epoch_kept": chosen.epoch,
                    },
                    "measures": {"before": self.record.before, "after": after},
                    "configuration": context.config.model_dump(mode="json"),
                    "versions": package_versions(),
                    "git_commit": git_commit(),
                },
            )


def _headline(line: EpochScore | None) -> dict[str, Any] | None:
    """Per protocol n, accuracy and interval; the whole result stands in the history."""
    if line is None:
        return None
    wanted = ("protocol", "version", "split", "n", "correct", "accuracy", "wilson95", "words")
    return {name: {key: found[key] for key in wanted} for name, found in line.result["protocols"].items()}


def _training_facts(progress: Progress, context: ChainContext) -> dict[str, Any]:
    losses = progress.losses
    return {
        "optimizer_steps": progress.step,
        "tokens": progress.tokens,
        "supervised_tokens": progress.supervised_tokens,
        "seconds": round(progress.seconds, 1),
        "tokens_per_second": round(progress.tokens / max(progress.seconds, 1e-9), 1),
        "peak_memory_bytes": peak(context.device),
        "loss_first": losses[0],
        "loss_last_tenth": sum(losses[-max(1, len(losses) // 10) :]) / max(1, len(losses) // 10),
        "losses": losses,
        "device": str(context.device),
    }
