"""Does the fast path bias training? Loss curves of lorachain's trainer and of a plain one over the same steps.

    python benchmarks/loss_curves.py --json curves.json              # gemma-3-270m, 200 steps, three seeds
    python benchmarks/loss_curves.py --model DIR --steps 20

The plain path is an unmodified `transformers.Trainer`: float32 LoRA factors, PyTorch's attention, and the loss of
transformers over full logits. The base is bf16 in both. A seed sets the initial LoRA and the order of the packs, the
same for both paths; the packs of the one epoch are the same for all seeds. Printed are the mean difference of the two
curves (lorachain minus plain, nats per token), its 95 % interval over the seeds (Student's t), and for comparison the
standard deviation of the plain curves' means from seed to seed: the noise from which a bias would have to differ.
"""

import argparse
import json
import os
import statistics
import tempfile
from pathlib import Path
from typing import Any

from scipy.stats import t as student

from training import QUIET, child, prepare, versions

PATHS = ("lorachain", "plain")


def curves(options: argparse.Namespace, work: Path) -> dict[int, dict[str, list[float]]]:
    """Losses of each step, by seed and path."""
    model, tokenizer, files = prepare(options, work, options.steps)
    losses: dict[int, dict[str, list[float]]] = {}
    for seed in options.seeds:
        losses[seed] = {}
        for path in PATHS:
            job = {
                "contender": path, "workload": str(files["00"]), "model": model, "tokenizer": tokenizer, "nf4": False,
                "device": options.device, "steps": options.steps - 1, "warmup": 1, "rank": 16, "seed": seed,
                "targets": options.targets, "micro_batch_tokens": options.micro_batch_tokens, "checkpointing": False,
            }  # fmt: skip
            result = child("train", job, work)
            losses[seed][path] = result["losses"]
            print(
                f"seed {seed} {path:10} {result['tokens_per_second']:6.0f} tokens/s  first {result['losses'][0]:.4f}  "
                f"mean of the last quarter {statistics.fmean(last_quarter(result['losses'])):.4f}",
                flush=True,
            )
    return losses


def last_quarter(losses: list[float]) -> list[float]:
    return losses[-max(1, len(losses) // 4) :]


def comparison(by_seed: dict[int, dict[str, list[float]]]) -> dict[str, dict[str, float]]:
    """Over all steps and over the last quarter.

    `mean` is the mean difference, `half_width` that of its interval, `seed_to_seed` the noise between seeds, `largest`
    the largest difference at any single step.
    """
    statistics_of = {}
    for title, part in (("all steps", list), ("last quarter", last_quarter)):
        differences = [
            [fast - plain for fast, plain in zip(part(c["lorachain"]), part(c["plain"]), strict=True)]
            for c in by_seed.values()
        ]
        means = [statistics.fmean(seed) for seed in differences]
        noise = [statistics.fmean(part(c["plain"])) for c in by_seed.values()]
        several = len(means) > 1
        half_width = student.ppf(0.975, len(means) - 1) * statistics.stdev(means) / len(means) ** 0.5 if several else 0
        statistics_of[title] = {
            "mean": statistics.fmean(means),
            "half_width": float(half_width),
            "seed_to_seed": statistics.stdev(noise) if several else 0.0,
            "largest": max(abs(value) for seed in differences for value in seed),
        }
    return statistics_of


def parse() -> argparse.Namespace:
    from lorachain.chain.context import load_config

    config = load_config()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a directory of weights; default: the embedded gemma-3-270m")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--pack-length", type=int, default=128, help="tokens per pack; four packs per step")
    parser.add_argument("--json", type=Path, help="write all losses to this file")
    parser.set_defaults(
        workloads=["00"], targets=config.lora.target_modules, micro_batch_tokens=config.training.micro_batch_tokens
    )
    return parser.parse_args()


def main() -> None:
    os.environ.update(QUIET)
    options = parse()
    with tempfile.TemporaryDirectory() as work:
        by_seed = curves(options, Path(work))
    result: dict[str, Any] = {"versions": versions(), "losses": by_seed, "comparison": comparison(by_seed)}
    for title, values in result["comparison"].items():
        print(
            f"{title}: lorachain minus plain {values['mean']:+.5f} +- {values['half_width']:.5f} nats; from seed to "
            f"seed {values['seed_to_seed']:.5f}; at any single step at most {values['largest']:.5f}"
        )
    if options.json:
        options.json.write_text(json.dumps(result, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
