"""Tokens per second of generation, greedy and sampled: lorachain's own engine, and vLLM on the same weights."""

import importlib.util
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from gpu_bench.records import Setting, StepSkippedError
from gpu_bench.workload import random_rows
from lorachain.inference import generate as module
from lorachain.memory import peak, release, reset_peak
from lorachain.tokens import TokenEncoder
from lorachain.weights.load import load_tokenizer
from training_bench.counting import synchronize
from training_bench.models import load_base

TEMPERATURE = 0.8


def run(setting: Setting) -> None:
    if setting.tokenizer is None:
        raise StepSkippedError("there is no tokenizer: give --tokenizer DIR, or install the embedded model")
    device = torch.device(setting.device)
    model: Any = load_base(setting.model, device, nf4=False)
    encoder = TokenEncoder(load_tokenizer(Path(setting.tokenizer)))
    new_tokens = 8 if setting.tiny else 256
    module.stop_ids = lambda model, encoder: set()  # type: ignore[assignment]  # every sequence runs to its end
    for count in (2, 4) if setting.tiny else (1, 16, 64):
        prompts = [row.ids for row in random_rows(count, 32 if setting.tiny else 512, first=1)]
        for temperature in (0.0, TEMPERATURE):
            seconds: list[float] = []
            for tokens in (2, new_tokens):  # the first is the prompts' own time, and warms up
                release()
                reset_peak(device)
                synchronize(device)
                start = time.perf_counter()
                module.generate(
                    model, encoder, prompts, stop=lambda text: False, max_new_tokens=tokens, temperature=temperature,
                    seeds=range(count),
                )  # fmt: skip
                synchronize(device)
                seconds.append(time.perf_counter() - start)
            setting.write(
                "generate", engine="lorachain", sequences=count, temperature=temperature, new_tokens=new_tokens,
                seconds=seconds[1], prompt_seconds=seconds[0], tokens_per_second=count * new_tokens / seconds[1],
                peak_bytes=peak(device),
            )  # fmt: skip
    if importlib.util.find_spec("vllm") is None:
        setting.write("generate", engine="vllm", skipped="not importable: vllm")
        return
    with tempfile.TemporaryDirectory() as work:
        model.save_pretrained(work)
        load_tokenizer(Path(setting.tokenizer)).save_pretrained(work)
        del model
        release()
        _vllm(setting, work, new_tokens)


def _vllm(setting: Setting, directory: str, new_tokens: int) -> None:
    from vllm import LLM, SamplingParams

    engine = LLM(directory, dtype="bfloat16", max_model_len=2048, gpu_memory_utilization=0.6)
    for count in (1, 16, 64):
        prompts: Any = [{"prompt_token_ids": row.ids} for row in random_rows(count, 512, first=1)]
        for temperature in (0.0, TEMPERATURE):
            sampling = SamplingParams(temperature=temperature, max_tokens=new_tokens, ignore_eos=True, seed=0)
            engine.generate(prompts, sampling, use_tqdm=False)
            start = time.perf_counter()
            engine.generate(prompts, sampling, use_tqdm=False)
            seconds = time.perf_counter() - start
            setting.write(
                "generate", engine="vllm", sequences=count, temperature=temperature, new_tokens=new_tokens,
                seconds=seconds, tokens_per_second=count * new_tokens / seconds,
            )  # fmt: skip
