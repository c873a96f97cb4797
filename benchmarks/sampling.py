"""Sampled reasoning for exam questions: lorachain's generation and a plain `transformers.generate`, in one run.

    python benchmarks/sampling.py --model DIR --exam DIR [--questions 4] [--samples 8] [--new-tokens 48] [--rounds 3]

The model is a directory of Gemma 3 weights, the exam a directory of KorMedMCQA (per subject: train and few-shot files).
Each question is sampled `--samples` times, each time with its options in another order, after the worked examples of
its subject. Both contenders get the same prompts and generate the same number of tokens for each (no end token ends a
text). `plain` calls `generate` with batches of 8 in the order of the prompts, as one would write it; `no-shared-prefix`
and `sequential` are lorachain's generation without shared prefixes, and with one draw after another on the CPU, to see
what each part is worth. Each runs in a process of its own in alternating rounds; loading is excluded, and the median
round is compared, by time and by CPU time. Figures from a machine that does other work at the same time mean little;
CPU time suffers less.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CONTENDERS = ("lorachain", "plain", "no-shared-prefix", "sequential")
TEMPERATURE = 1.0


def load_prompts(arguments: argparse.Namespace, encoder: Any) -> list[list[int]]:
    """The ids of every sample's prompt, question by question."""
    import random

    from lorachain.data.exam import load_exam, load_fewshot
    from lorachain.prompts import permuted
    from lorachain.reasoning.examples import WorkedExamples
    from lorachain.reasoning.requests import writing_prompt

    questions = load_exam([arguments.exam], "train", max_samples=arguments.questions, skip_bad_rows=True).questions
    fewshot = [
        question for question in load_fewshot([arguments.exam], skip_bad_rows=True).questions if question.reasoning
    ]
    examples = WorkedExamples(
        fewshot, shots="auto", style="options", max_tokens=arguments.prompt_tokens,
        count_tokens=lambda text: len(encoder.text_ids(text)),
    )  # fmt: skip
    prompts = []
    for question in questions:
        for sample in range(arguments.samples):
            shown = permuted(question, random.Random(sample).sample(range(5), 5))
            prompts.append(encoder.prompt_ids(writing_prompt(shown, examples.text(question))))
    return prompts


def plain(model: Any, encoder: Any, prompts: list[list[int]], new_tokens: int) -> int:
    """The obvious loop: batches of 8, padded on the left."""
    import torch

    device = next(model.parameters()).device
    generated = 0
    for start in range(0, len(prompts), 8):
        batch = prompts[start : start + 8]
        width = max(map(len, batch))
        ids = torch.full((len(batch), width), encoder.pad_id)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(batch):
            ids[row, width - len(prompt) :] = torch.tensor(prompt)
            mask[row, width - len(prompt) :] = 1
        with torch.inference_mode():
            output = model.generate(
                input_ids=ids.to(device), attention_mask=mask.to(device), do_sample=True, temperature=TEMPERATURE,
                top_k=0, top_p=1.0, max_new_tokens=new_tokens, min_new_tokens=new_tokens, pad_token_id=encoder.pad_id,
            )  # fmt: skip
        generated += len(batch) * (output.shape[1] - width)
    return generated


def ours(contender: str, model: Any, encoder: Any, prompts: list[list[int]], new_tokens: int) -> int:
    """lorachain's generation, whole or with one of its parts replaced by what it replaces."""
    import torch

    from lorachain.inference import generate as module
    from lorachain.inference.prefix_groups import PrefixGroup

    if contender == "no-shared-prefix":
        module.prefix_groups = lambda prompts: [PrefixGroup((), [[i] for i in range(len(prompts))])]  # type: ignore[assignment]
    if contender == "sequential":
        generators = {seed: torch.Generator().manual_seed(seed) for seed in range(len(prompts))}

        def one_by_one(hidden: Any, weight: Any, temperature: float, seeds: list[int], steps: list[int]) -> Any:
            drawn = []
            for row, seed in zip(hidden, seeds, strict=True):
                probabilities = torch.softmax((weight @ row).float().cpu() / temperature, dim=-1)
                drawn.append(int(torch.multinomial(probabilities, 1, generator=generators[seed])))
            return torch.tensor(drawn)

        module.sample_tokens = one_by_one
    module.stop_ids = lambda model, encoder: set()
    generations = module.generate(
        model, encoder, prompts, stop=lambda text: False, max_new_tokens=new_tokens, temperature=TEMPERATURE,
        seeds=range(len(prompts)),
    )  # fmt: skip
    return sum(generation.tokens for generation in generations)


def run_one(arguments: argparse.Namespace) -> None:
    """Runs one contender in this process and prints its figures as JSON."""
    import torch

    from lorachain.memory import peak, reset_peak
    from lorachain.tokens import TokenEncoder
    from lorachain.weights.load import load_model, load_tokenizer, resolve_device

    device = resolve_device(arguments.device)
    model: Any = load_model(Path(arguments.model), device, getattr(torch, arguments.dtype))
    encoder = TokenEncoder(load_tokenizer(Path(arguments.model)))
    if arguments.run == "plain":
        model.set_attn_implementation("sdpa")  # transformers' own default
    prompts = load_prompts(arguments, encoder)
    contenders: dict[str, Callable[[], int]] = {
        name: lambda name=name: ours(name, model, encoder, prompts, arguments.new_tokens)  # type: ignore[misc]
        for name in CONTENDERS
    }
    contenders["plain"] = lambda: plain(model, encoder, prompts, arguments.new_tokens)
    reset_peak(device)
    loaded = peak(device)
    start, cpu = time.monotonic(), time.process_time()
    tokens = contenders[arguments.run]()
    figures = {
        "seconds": time.monotonic() - start, "cpu_seconds": time.process_time() - cpu,
        "peak_mb": (peak(device) - loaded) / 2**20, "tokens": tokens, "samples": len(prompts),
        "prompt_tokens": sum(map(len, prompts)),
    }  # fmt: skip
    print(json.dumps(figures))


def measure(arguments: argparse.Namespace, contender: str) -> dict[str, Any]:
    """Runs a contender in a process of its own."""
    command = [sys.executable, __file__, "--run", contender]
    for name in ("model", "exam", "device", "dtype", "questions", "samples", "new_tokens", "prompt_tokens"):
        command += [f"--{name.replace('_', '-')}", str(getattr(arguments, name))]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    if done.returncode:
        raise SystemExit(f"{contender} failed:\n{done.stderr[-3000:]}")
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    print(json.dumps({"contender": contender, **result}), flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--exam", required=True)
    parser.add_argument("--questions", type=int, default=4)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--new-tokens", type=int, default=48)
    parser.add_argument("--prompt-tokens", type=int, default=1536, help="limit of the worked examples and the question")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--only", nargs="+", choices=CONTENDERS, default=["lorachain", "plain"])
    parser.add_argument("--out", type=Path, default=None, help="also write the figures of all rounds to this JSON file")
    parser.add_argument("--run", choices=CONTENDERS, default=None, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        run_one(arguments)
        return
    rounds: dict[str, list[dict[str, Any]]] = {contender: [] for contender in arguments.only}
    for _ in range(arguments.rounds):
        for contender, measured in rounds.items():
            measured.append(measure(arguments, contender))
    for contender, measured in rounds.items():
        seconds, cpu = (statistics.median(r[key] for r in measured) for key in ("seconds", "cpu_seconds"))
        samples, tokens = measured[0]["samples"], measured[0]["tokens"]
        print(
            f"{contender:18} {60 * samples / seconds:8.1f} samples/min ({60 * samples / cpu:.1f} by CPU time), "
            f"{tokens / seconds:8.1f} tokens/s, {statistics.median(r['peak_mb'] for r in measured):8.0f} MB above model"
        )
    for contender, measured in rounds.items():
        if contender != "lorachain" and "lorachain" in rounds:
            ratios = [
                statistics.median(r[key] for r in measured) / statistics.median(r[key] for r in rounds["lorachain"])
                for key in ("seconds", "cpu_seconds")
            ]
            print(f"lorachain: {ratios[0]:.2f} times the speed of {contender} ({ratios[1]:.2f} by CPU time)")
    if arguments.out:
        arguments.out.write_text(json.dumps(rounds, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
