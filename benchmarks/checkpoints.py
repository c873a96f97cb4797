"""What checkpoints cost: a lorachain command, with the seconds of each of its checkpoints.

    python benchmarks/checkpoints.py run --model gemma-3-270m --config examples/quick_look.toml --workspace DIR

Counted is all between the end of a step and the next: writing the files, hashing them, flushing them to the disk,
renaming, removing old ones; not the validation of an epoch's end. Training seconds are those of the steps.
"""

import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from lorachain.cli import main
from lorachain.training import trainer

found: list[tuple[str, int, float, int, float]] = []
"""Run, step, seconds, bytes, seconds of training so far."""


def timed(save: Any) -> Any:
    def call(self: Any, model: Any, trial: Any) -> None:
        start = time.perf_counter()
        save(self, model, trial)
        seconds = time.perf_counter() - start
        folder: Path = self.run / f"checkpoint-{self.state.global_step}"
        size = sum(path.stat().st_size for path in folder.iterdir())
        found.append((self.run.parent.name, self.state.global_step, seconds, size, self.progress.seconds))

    return call


if __name__ == "__main__":
    trainer._ChainTrainer._save_checkpoint = timed(trainer._ChainTrainer._save_checkpoint)  # type: ignore[method-assign]
    with suppress(SystemExit):
        main(sys.argv[1:])
    print("run           step  seconds      MB  of the training seconds so far")
    spent: dict[str, float] = {}
    for run, step, seconds, size, training in found:
        spent[run] = spent.get(run, 0.0) + seconds
        print(f"{run:12} {step:5} {seconds:8.3f} {size / 1e6:7.1f}  {100 * spent[run] / training:.2f} %")
