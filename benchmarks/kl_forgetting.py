"""Does the KL divergence on the new task's prompts predict what was forgotten? Over the runs of forgetting.py.

    python benchmarks/kl_forgetting.py --runs forgetting/

Shenfeld et al. (2025, arXiv 2509.04259) report that forgetting follows KL(before || after) on the prompts of the new
task. Here `before` is the model after task A and `after` the one after task B; the KL is the mean per token in nats, at
the last tokens of B's prompts, and forgotten is the part of A's names that B lost. Reported: every run, and R² of a
straight line through them with a bootstrap interval over the runs.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np

from forgetting import ASKED, two_task_chain

PROMPTS = 100
RESAMPLES = 10_000


def divergence(arguments: argparse.Namespace, place: Path, share: str) -> float:
    """Mean KL(after A || after B) per token on B's prompts, in nats."""
    from lorachain.api import load_config, open_chain
    from lorachain.chain.runtime import start_runtime
    from lorachain.chain.scored_model import find_scored_model
    from lorachain.chain.stages import stage_table
    from lorachain.data.dictionary import load_dictionary
    from lorachain.evaluation.divergence import LAST_TOKENS, prompt_divergence, prompt_hidden_states
    from lorachain.prompts import dictionary_example

    config = load_config(None, [{"device": arguments.device}])
    runtime = start_runtime(config)
    terms = load_dictionary([str(place / "b.jsonl")]).entries[:PROMPTS]
    with stage_table(two_task_chain()):
        before_chain = open_chain(arguments.model, place / "after-a", config=config)
        after_chain = open_chain(arguments.model, place / f"replay-{share}", config=config)
        model, encoder = find_scored_model(before_chain, "01").load(runtime.device, runtime.dtype)
        prompts = [
            encoder.prompt_ids(example.prompt) for term in terms if (example := dictionary_example(term, ASKED)).prompt
        ]
        before = prompt_hidden_states(model, prompts, token_budget=8192)
        model, _ = find_scored_model(after_chain, "02").load(runtime.device, runtime.dtype)
        sums = prompt_divergence(model, prompts, before, token_budget=8192)
    return sum(sums) / sum(min(len(prompt), LAST_TOKENS) for prompt in prompts)


def r_squared(x: np.ndarray[Any, Any], y: np.ndarray[Any, Any]) -> float:
    """Of the least-squares line; NaN where x or y does not vary."""
    if np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(np.corrcoef(x, y)[0, 1] ** 2)


def report(runs: list[dict[str, Any]]) -> list[str]:
    lines = [
        f"seed {run['seed']}, replay {run['share']:<5g}  KL {run['kl']:.3f} nats  forgot {100 * run['forgotten']:.1f} %"
        for run in runs
    ]
    x, y = (np.array([run[name] for run in runs]) for name in ("kl", "forgotten"))
    draw = np.random.default_rng(0).integers(0, len(runs), (RESAMPLES, len(runs)))
    resampled = [r_squared(x[chosen], y[chosen]) for chosen in draw]
    low, high = np.nanquantile(resampled, [0.025, 0.975])
    lines.append(f"R² {r_squared(x, y):.2f} [{low:.2f}, {high:.2f}], {len(runs)} runs")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, required=True, help="the --out of forgetting.py")
    parser.add_argument("--model", default="gemma-3-270m")
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    from lorachain.chain.debug_log import quiet_libraries

    quiet_libraries()
    runs = []
    for path in sorted(arguments.runs.glob("seed-*/replay-*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        before, after = (result[when]["A"].count("1") for when in ("after_a", "after_b"))
        kl = divergence(arguments, path.parent, path.stem.removeprefix("replay-"))
        runs.append({"seed": result["seed"], "share": result["share"], "kl": kl, "forgotten": 1 - after / before})
    print("\n".join(report(runs)))
    arguments.runs.joinpath("kl_forgetting.json").write_text(json.dumps(runs, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
