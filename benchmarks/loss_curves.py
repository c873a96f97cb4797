"""Does the fast path bias training? Loss curves of lorachain's trainer and of a plain one over the same steps.

    python benchmarks/loss_curves.py --json curves.json              # gemma-3-270m, 200 steps, three seeds
    python benchmarks/loss_curves.py --model FOLDER --steps 20

The plain path is `transformers.Trainer` as it comes: float32 LoRA factors, PyTorch's attention, and transformers' own
loss over full logits; the base is bf16 in both. A seed draws the LoRA's first numbers and the order of the lines, the
same for both paths, and one epoch goes over the same lines whatever the seed. What is told: the mean difference of the
two curves (fast less plain, nats a token), its 95 % interval over the seeds (Student's t), and beside it the standard
deviation of the plain curves' means from seed to seed, which is the noise that a bias would have to stand out of.
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
    """Losses of every step, by seed and path."""
    model, tokenizer, files = prepare(options, work, options.steps)
    found: dict[int, dict[str, list[float]]] = {}
    for seed in options.seeds:
        found[seed] = {}
        for path in PATHS:
            job = {
                "contender": path, "workload": str(files["00"]), "model": model, "tokenizer": tokenizer, "nf4": False,
                "device": options.device, "steps": options.steps - 1, "warmup": 1, "rank": 16, "seed": seed,
                "targets": options.targets, "micro_batch_tokens": options.micro_batch_tokens, "checkpointing": False,
            }  # fmt: skip
            result = child("train", job, work)
            found[seed][path] = result["losses"]
            print(
                f"seed {seed} {path:10} {result['tokens_per_second']:6.0f} tokens/s  first {result['losses'][0]:.4f}  "
                f"mean of the last quarter {statistics.fmean(last_quarter(result['losses'])):.4f}",
                flush=True,
            )
    return found


def last_quarter(losses: list[float]) -> list[float]:
    return losses[-max(1, len(losses) // 4) :]


def comparison(by_seed: dict[int, dict[str, list[float]]]) -> dict[str, dict[str, float]]:
    """Over all steps and over the last quarter: the mean difference, its interval's half-width, and the seeds' noise.

    Also `largest`: the largest difference at any one step."""
    found = {}
    for title, part in (("all steps", list), ("last quarter", last_quarter)):
        differences = [
            [fast - plain for fast, plain in zip(part(c["lorachain"]), part(c["plain"]), strict=True)]
            for c in by_seed.values()
        ]
        means = [statistics.fmean(seed) for seed in differences]
        noise = [statistics.fmean(part(c["plain"])) for c in by_seed.values()]
        several = len(means) > 1
        half_width = student.ppf(0.975, len(means) - 1) * statistics.stdev(means) / len(means) ** 0.5 if several else 0
        found[title] = {
            "mean": statistics.fmean(means),
            "half_width": float(half_width),
            "seed_to_seed": statistics.stdev(noise) if several else 0.0,
            "largest": max(abs(value) for seed in differences for value in seed),
        }
    return found


def parse() -> argparse.Namespace:
    from lorachain.config import load_config

    config = load_config()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a folder; default: the embedded gemma-3-270m")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--pack-length", type=int, default=128, help="tokens a line; four lines a step")
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
    found: dict[str, Any] = {"versions": versions(), "losses": by_seed, "comparison": comparison(by_seed)}
    for title, values in found["comparison"].items():
        print(
            f"{title}: lorachain less plain {values['mean']:+.5f} +- {values['half_width']:.5f} nats; from seed to "
            f"seed {values['seed_to_seed']:.5f}; at any one step at most {values['largest']:.5f}"
        )
    if options.json:
        options.json.write_text(json.dumps(found, indent=2), encoding="utf-8")


if __name__ == "__main__":
    main()
