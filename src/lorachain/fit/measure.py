"""Two real optimizer steps of a stage at the limits of its settings: peak memory, tokens per second, energy."""

import random
import tempfile
import time
from pathlib import Path
from typing import Any, cast

import psutil

from lorachain.artifacts import Measured, StageMemory
from lorachain.chain.context import stage_config
from lorachain.chain.runtime import dtype_of
from lorachain.chain.stages import Stage
from lorachain.config import ChainConfig
from lorachain.fit.energy import energy_meter
from lorachain.memory import peak, release, reset_peak
from lorachain.tokens import TokenEncoder, TokenRow
from lorachain.training.batch_schedule import BatchSchedule
from lorachain.training.progress import Progress, TrainingSettings
from lorachain.training.trainer import train
from lorachain.weights.load import drop_vision_tower, load_model, load_tokenizer, resolve_device
from lorachain.weights.lora import add_new_lora

_STEPS = 2


def measure_stage(base: Path, config: ChainConfig, stage: Stage, calculated: StageMemory) -> Measured:
    """Trains a new LoRA for two steps on random tokens, each step one micro-batch as large as the settings allow.

    Raises:
        ModelError, DeviceError: the model cannot be loaded. WorkspaceError: the disk is full.
    """
    device = resolve_device(config.device)
    release()
    before = 0 if device.type == "cuda" else psutil.Process().memory_info().rss
    reset_peak(device)
    loaded = load_model(base, device, dtype_of(config), config.quantization)
    drop_vision_tower(loaded)
    model = add_new_lora(
        loaded,
        base_path=str(base),
        rank=config.lora.rank,
        alpha=config.lora.resolved_alpha,
        dropout=config.lora.dropout,
        use_rslora=config.lora.use_rslora,
        target_modules=config.lora.target_modules,
        seed=config.seed,
    )
    schedule = _schedule(TokenEncoder(load_tokenizer(base)), config, stage, calculated.tokens)
    settings = TrainingSettings(
        learning_rate=stage_config(config, stage).learning_rate,
        seed=config.seed,
        **config.training.model_dump(exclude={"micro_batch_tokens", "gradient_checkpointing"}),
        gradient_checkpointing=calculated.recomputation,
    )
    meter, finished = energy_meter(device), [time.perf_counter()]

    def on_step(progress: Progress) -> None:
        finished.append(time.perf_counter())
        if progress.step == 1:
            meter.start()
        else:
            meter.stop()

    with tempfile.TemporaryDirectory() as run:
        train(
            model,
            schedule,
            settings,
            run=Path(run),
            fingerprint="fit",
            on_epoch_end=lambda epoch, step: False,
            on_step=on_step,
            on_message=lambda text: None,
        )
    return Measured(
        stage=stage.name,
        tokens=calculated.tokens,
        device=str(device),
        calculated=calculated.total,
        peak=peak(device) - before,
        tokens_per_second=calculated.tokens / (finished[2] - finished[1]),
        joules=meter.joules,
    )


def _schedule(encoder: TokenEncoder, config: ChainConfig, stage: Stage, tokens: int) -> BatchSchedule:
    """Two steps of one full micro-batch; of the tokens those are supervised that the stage supervises at most."""
    longest = min(stage_config(config, stage).max_length, tokens)
    count = max(1, tokens // longest)
    rng = random.Random(config.seed)
    vocabulary = range(encoder.text_ids("가")[0], len(cast(Any, encoder.tokenizer)))
    first = 1 if stage.source == "plain_text" else max(1, longest - longest // 4)
    packs = [
        [TokenRow([encoder.bos_id, *rng.choices(vocabulary, k=longest - 1)], first)] for _ in range(count * _STEPS)
    ]
    return BatchSchedule(
        lambda epoch: packs,
        epochs=1,
        batch_size=count,
        micro_batch_tokens=tokens,
        pad_id=encoder.pad_id,
        seed=config.seed,
    )
