"""Training a LoRA: lorachain against TRL's SFTTrainer and a plain transformers.Trainer, in one run.

    python benchmarks/training.py                               # gemma-3-270m on the CPU
    python benchmarks/training.py --search                      # first times the peers' variants, keeps their best
    python benchmarks/training.py --device cuda --model medgemma-4b --pack-length 2048
    python benchmarks/training.py --device cuda --model medgemma-27b --nf4 --checkpointing --workloads 00

`pip install -e '.[bench]'` installs TRL; without it, TRL is left out. The data is the directory that the environment
variable LORACHAIN_REAL_DATA names, otherwise the embedded sample. Each contender runs in a process of its own, so that
its peak memory is its own, and in alternating order, so that whatever slows the machine slows all of them. All have the
same base, the same LoRA and the same packs in the same optimizer steps. Figures are medians over the rounds.
"""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

QUIET = {
    "TRANSFORMERS_VERBOSITY": "error",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "PYTHONWARNINGS": "ignore",
}
CONTENDERS = ("lorachain", "trl", "plain")


def child(task: str, arguments: dict[str, Any], work: Path) -> Any:
    """Runs `task` in a process of its own and returns its result."""
    result = work / "result.json"
    request = json.dumps({"task": task, "arguments": arguments, "result": str(result)})
    done = subprocess.run(
        [sys.executable, __file__, "--child", request],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **QUIET},
    )
    if done.returncode:
        raise SystemExit(f"{task} {arguments.get('contender', '')} failed:\n{done.stderr[-4000:]}")
    return json.loads(result.read_text(encoding="utf-8"))


def run_child(request: str) -> None:
    """What the child process does for `child`."""
    content = json.loads(request)
    arguments = content["arguments"]
    if content["task"] == "train":
        from training_bench.contenders import measure
        from training_bench.jobs import Job

        result: Any = measure(Job(**arguments))
    elif content["task"] == "peak":
        import torch

        from training_bench.counting import matrix_peak

        result = matrix_peak(torch.device(arguments["device"]), arguments["size"])
    else:
        from training_bench.second_start import start_stage_00

        result = start_stage_00(Path(arguments["workspace"]), arguments["model"], arguments["source"])
    Path(content["result"]).write_text(json.dumps(result), encoding="utf-8")


def prepare(options: argparse.Namespace, work: Path, steps: int = 0) -> tuple[str, str, dict[str, Path]]:
    """(model, directory of the tokenizer, workload files with packs for at least `steps` steps)."""
    from lorachain.embedded_model import embedded_weights
    from lorachain.tokens import TokenEncoder
    from lorachain.training.batch_schedule import BUCKET_STEPS
    from lorachain.weights.load import load_tokenizer
    from training_bench.models import SHAPES
    from training_bench.workloads import build, write_workload

    model = options.model or str(embedded_weights())
    tokenizer = str(embedded_weights()) if model in SHAPES else model
    encoder = TokenEncoder(load_tokenizer(Path(tokenizer)))
    real = os.environ.get("LORACHAIN_REAL_DATA")
    files = {}
    for name in options.workloads:
        real_data, enough = Path(real) if real else None, max(steps, BUCKET_STEPS)
        workload = build(name, encoder, real_data, pack_length=options.pack_length, steps=enough)
        files[name] = work / f"workload-{name}.json"
        write_workload(workload, files[name])
        rows = [row for pack in workload.packs for row in pack]
        print(
            f"{name:13} {workload.source}: {len(workload.packs)} packs, {sum(map(len, rows)) / len(rows):.0f} tokens "
            f"per sequence, {workload.supervised_share():.0%} supervised, {workload.batch_size} packs per step",
            flush=True,
        )
    return model, tokenizer, files


def search(peer: str, job: dict[str, Any], files: dict[str, Path], work: Path) -> dict[str, dict[str, float]]:
    """Tokens per second of one step after one warm-up step, by workload and variant."""
    from dataclasses import asdict

    from training_bench.jobs import VARIANTS

    rates: dict[str, dict[str, float]] = {}
    for workload, file in files.items():
        rates[workload] = {}
        for name, variant in VARIANTS[peer].items():
            arguments = {**job, "contender": peer, "workload": str(file), "steps": 1, "warmup": 1}
            try:
                result = child("train", {**arguments, "variant": asdict(variant)}, work)
            except SystemExit as failure:
                print(
                    f"search {peer:5} {workload:13} {name:45} failed: {str(failure).splitlines()[-1][:120]}", flush=True
                )
                continue
            rate = rates[workload][name] = result["tokens_per_second"]
            print(
                f"search {peer:5} {workload:13} {name:45} {rate:8.1f} tokens/s {gigabytes(result):6.2f} GB", flush=True
            )
    return rates


def gigabytes(result: dict[str, Any]) -> float:
    return float(result["peak_bytes"] / 1e9)


def run(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    from dataclasses import asdict

    from training_bench.jobs import BEST, VARIANTS

    model, tokenizer, files = prepare(options, work)
    job = {
        "model": model, "tokenizer": tokenizer, "device": options.device, "nf4": options.nf4, "steps": options.steps,
        "warmup": options.warmup, "rank": options.rank, "targets": options.targets,
        "micro_batch_tokens": options.micro_batch_tokens, "checkpointing": options.checkpointing,
    }  # fmt: skip
    contenders = list(options.contenders)
    if "trl" in contenders and importlib.util.find_spec("trl") is None:
        contenders.remove("trl")
        print("trl: left out, not installed (pip install -e '.[bench]')", flush=True)
    peers = [contender for contender in contenders if contender in VARIANTS]
    searched = {peer: search(peer, job, files, work) for peer in peers} if options.search else {}
    best = {peer: dict(BEST[peer]) for peer in peers}
    for peer, by_workload in searched.items():
        best[peer] |= {w: max(rates, key=lambda name: rates[name]) for w, rates in by_workload.items() if rates}
    results: list[dict[str, Any]] = []
    peaks: list[float] = []
    for number in range(options.rounds):
        peaks.append(child("peak", {"device": options.device, "size": options.peak_size}, work))
        print(f"round {number + 1} bf16 matrix peak {peaks[-1] / 1e12:.3f} TFLOP/s", flush=True)
        for workload, file in files.items():
            # In alternating order, so that none is always first.
            for contender in contenders if number % 2 == 0 else contenders[::-1]:
                arguments = {**job, "contender": contender, "workload": str(file)}
                if contender in peers:
                    arguments["variant"] = asdict(VARIANTS[contender][best[contender][workload]])
                result = child("train", arguments, work)
                results.append(result)
                print(
                    f"round {number + 1} {workload:13} {contender:10} {result['tokens_per_second']:8.1f} tokens/s "
                    f"{gigabytes(result):6.2f} GB  losses {' '.join(f'{loss:.4f}' for loss in result['losses'])}",
                    flush=True,
                )
    figures = {
        "settings": job | {"rounds": options.rounds},
        "versions": versions(),
        "matrix_peak": statistics.median(peaks) if peaks else None,
        "variants": best,
        "search": searched,
        "results": results,
    }
    if options.second_start:
        figures["second_start_seconds"] = second_start(model, work)
    return figures


def second_start(model: str, work: Path) -> float:
    """Starts stage 00 twice on all plain text; the seconds of the second start."""
    real = os.environ.get("LORACHAIN_REAL_DATA")
    arguments = {
        "workspace": str(work / "workspace"),
        "model": model,
        "source": str(Path(real) / "plain") if real else None,
    }
    first, second = (child("second start", arguments, work) for _ in range(2))
    print(f"start of stage 00 after imports: first {first:.1f} s, second {second:.1f} s", flush=True)
    return float(second)


def versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    installed = {"python": sys.version.split()[0]}
    for name in ("torch", "transformers", "peft", "accelerate", "trl", "bitsandbytes"):
        try:
            installed[name] = version(name)
        except PackageNotFoundError:
            continue
    return installed


def tables(figures: dict[str, Any]) -> str:
    """Markdown: figures by workload and contender; ratios are lorachain : contender."""
    from training_bench.workloads import TITLES

    by: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for result in figures["results"]:
        by.setdefault((result["workload"], result["contender"]), []).append(result)

    def median(key: tuple[str, str], field: str) -> float:
        return statistics.median(result[field] for result in by[key])

    rows = [
        [
            "workload",
            "contender",
            "tokens/s",
            "range",
            "peak GB",
            "of bf16 peak",
            "lorachain : it",
            "memory, lorachain : it",
        ]
    ]
    for workload, contender in by:
        key, ours = (workload, contender), (workload, "lorachain")
        rates = [result["tokens_per_second"] for result in by[key]]
        ratio = memory = "–"
        if ours in by and contender != "lorachain":
            ratio = f"{median(ours, 'tokens_per_second') / median(key, 'tokens_per_second'):.2f}"
            memory = f"{median(ours, 'peak_bytes') / median(key, 'peak_bytes'):.2f}"
        share = median(key, "flops_per_second") / figures["matrix_peak"]
        rows.append(
            [TITLES[workload], contender, f"{statistics.median(rates):.0f}", f"{min(rates):.0f}–{max(rates):.0f}",
             f"{median(key, 'peak_bytes') / 1e9:.2f}", f"{share:.0%}", ratio, memory]
        )  # fmt: skip
    return markdown(rows)


def markdown(rows: Iterable[list[str]]) -> str:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * (lines[0].count("|") - 1), *lines[1:]])


def parse() -> argparse.Namespace:
    from lorachain.chain.context import load_config

    config = load_config()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a directory, or medgemma-4b, medgemma-27b, tiny (random weights); default: "
                        "the embedded gemma-3-270m")  # fmt: skip
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--nf4", action="store_true", help="random weights in 4 bits (bitsandbytes)")
    parser.add_argument("--checkpointing", action="store_true", help="recompute activations, for all contenders")
    parser.add_argument("--workloads", nargs="+", default=["02", "02-reasoning", "00"],
                        choices=["02", "02-reasoning", "00"])  # fmt: skip
    parser.add_argument("--contenders", nargs="+", default=CONTENDERS, choices=CONTENDERS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=3, help="timed optimizer steps")
    parser.add_argument("--warmup", type=int, default=1, help="steps before them")
    parser.add_argument("--rank", type=int, default=config.lora.rank)
    parser.add_argument("--targets", nargs="+", default=config.lora.target_modules)
    parser.add_argument("--pack-length", type=int, default=512)
    parser.add_argument("--micro-batch-tokens", type=int, default=config.training.micro_batch_tokens)
    parser.add_argument("--peak-size", type=int, default=4096, help="size of the largest matrix product that is timed")
    parser.add_argument("--search", action="store_true", help="time the peers' variants first and keep their best")
    parser.add_argument("--second-start", action="store_true", help="also time the second start of stage 00")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    return parser.parse_args()


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        run_child(sys.argv[2])
        return
    os.environ.update(QUIET)
    options = parse()
    with tempfile.TemporaryDirectory() as work:
        figures = run(options, Path(work))
    print(f"\nbf16 matrix peak {figures['matrix_peak'] / 1e12:.3f} TFLOP/s; versions {figures['versions']}")
    for peer, variants in figures["variants"].items():
        print(f"{peer}: " + "; ".join(f"{workload}: {variants[workload]}" for workload in options.workloads))
    print("\n" + tables(figures))
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
