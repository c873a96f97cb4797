"""Training speed: lorachain, TRL's SFTTrainer as it is and at its best, and a base in 4 bits."""

import dataclasses
import importlib.util
import tempfile
from pathlib import Path
from typing import Any

import torch

from gpu_bench.kept_memory import TARGETS
from gpu_bench.records import Setting, StepSkippedError
from gpu_bench.workload import workload_files
from lorachain.memory import is_out_of_memory, release
from training_bench.contenders import measure
from training_bench.counting import matrix_peak
from training_bench.jobs import GPU_VARIANTS, TRL_VARIANTS, Job

TRL = ("default", "bf16 adapter, padding-free", "flash attention, Liger")
_NEEDS = {"flash attention, Liger": ("flash_attn", "liger_kernel")}


def run(setting: Setting) -> None:
    _train(setting, "train", setting.model, nf4=False, peers=True)


def run_27b(setting: Setting) -> None:
    if importlib.util.find_spec("bitsandbytes") is None:
        raise StepSkippedError("bitsandbytes is not importable")
    _train(setting, "train-27b-nf4", "tiny" if setting.tiny else "medgemma-27b", nf4=True, peers=False)


def _train(setting: Setting, step: str, model: str, *, nf4: bool, peers: bool) -> None:
    device = torch.device(setting.device)
    setting.write(step, bf16_matrix_peak=matrix_peak(device, 256 if setting.tiny else 8192))
    contenders: list[tuple[str, str]] = [("lorachain", "")]
    missing: dict[tuple[str, str], str] = {}
    for variant in TRL if peers else ():
        lacking = [name for name in ("trl", *_NEEDS.get(variant, ())) if importlib.util.find_spec(name) is None]
        if lacking:
            missing["trl", variant] = f"not importable: {', '.join(lacking)}"
        else:
            contenders.append(("trl", variant))
    if peers:
        missing["unsloth", ""] = (
            "not importable: unsloth" if importlib.util.find_spec("unsloth") is None else "needs a model directory"
        )
    for (contender, variant), reason in missing.items():
        setting.write(step, contender=contender, variant=variant, skipped=reason)
    with tempfile.TemporaryDirectory() as work:
        pack_length = 64 if setting.tiny else 2048
        files = workload_files(setting, Path(work), pack_length=pack_length, steps=16)
        for workload, file in files.items():
            for contender, variant in contenders:
                job = _job(setting, model, contender, variant, str(file), nf4=nf4)
                setting.write(step, **_measured(job, workload, variant))
                release()


def _job(setting: Setting, model: str, contender: str, variant: str, file: str, *, nf4: bool) -> Job:
    if setting.tokenizer is None:
        raise StepSkippedError("there is no tokenizer: give --tokenizer DIR, or install the embedded model")
    return Job(
        contender=contender, workload=file, model=model, tokenizer=setting.tokenizer, device=setting.device, nf4=nf4,
        steps=1 if setting.tiny else 4, warmup=1 if setting.tiny else 2, rank=16, targets=TARGETS,
        micro_batch_tokens=256 if setting.tiny else (2048 if nf4 else 4096), checkpointing=nf4,
        variant=dataclasses.asdict({**TRL_VARIANTS, **GPU_VARIANTS}[variant]) if variant else {},
    )  # fmt: skip


def _measured(job: Job, workload: str, variant: str) -> dict[str, Any]:
    try:
        result = measure(job)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return {"contender": job.contender, "workload": workload, "variant": variant, "out_of_memory": True}
    return {**result, "variant": variant, "model": job.model, "nf4": job.nf4}
