"""What checkpoints cost: runs a lorachain command and prints the seconds of each of its checkpoints.

    python benchmarks/checkpoints.py run --model gemma-3-270m --config examples/quick_look.toml --workspace DIR

Counts everything that saving adds between two steps: writing the files, hashing them, flushing them to disk, renaming
the directory, removing old checkpoints; but not the validation at the end of an epoch. Training seconds are those of
the steps.
"""

import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from lorachain.cli import main
from lorachain.training.chain_trainer import ChainTrainer

checkpoints: list[tuple[str, int, float, int, float]] = []
"""Run, step, seconds, bytes, training seconds so far."""


def timed(save: Any) -> Any:
    def call(self: Any, model: Any, trial: Any) -> None:
        start = time.perf_counter()
        save(self, model, trial)
        seconds = time.perf_counter() - start
        directory: Path = self.run / f"checkpoint-{self.state.global_step}"
        size = sum(path.stat().st_size for path in directory.iterdir())
        checkpoints.append((self.run.parent.name, self.state.global_step, seconds, size, self.progress.seconds))

    return call


if __name__ == "__main__":
    ChainTrainer._save_checkpoint = timed(ChainTrainer._save_checkpoint)  # type: ignore[method-assign]
    with suppress(SystemExit):
        main(sys.argv[1:])
    print("run           step  seconds      MB  share of the training seconds so far")
    spent: dict[str, float] = {}
    for run, step, seconds, size, training in checkpoints:
        spent[run] = spent.get(run, 0.0) + seconds
        print(f"{run:12} {step:5} {seconds:8.3f} {size / 1e6:7.1f}  {100 * spent[run] / training:.2f} %")
