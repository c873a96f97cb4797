"""The `model/` tree: the only module that knows where a file is."""

import os
import re
from dataclasses import dataclass
from pathlib import Path

from lorachain.errors import ModelError, WorkspaceError

TRAINING_INFO = "training_info.json"
REASONING_REPORT = "reasoning_report.json"
VALIDATION_RESULTS = "kormedmcqa_validation_results.json"
CHECKPOINT_PREFIX = "checkpoint-"
LOSS_LOG = "losses.csv"
"""In the directory of a stage's run: one row per optimizer step."""
_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,95}")


def check_model_name(name: str) -> str:
    """The name, if it is safe as the name of a directory.

    Raises:
        ModelError: otherwise.
    """
    if not _MODEL_NAME.fullmatch(name) or ".." in name:
        raise ModelError(
            f"model name {name!r} is not allowed: letters, digits, '.', '_' and '-', starting with a letter or digit, "
            "at most 96 characters. Add a short name to model/raw/model_paths.json"
        )
    return name


@dataclass(frozen=True, slots=True)
class Workspace:
    """The tree under `root`/model (docs/workspace.md)."""

    root: Path

    @property
    def model_root(self) -> Path:
        return self.root / "model"

    @property
    def model_paths(self) -> Path:
        return self.model_root / "raw" / "model_paths.json"

    def output(self, name: str, model: str) -> Path:
        """The output directory `name` of a stage, such as `00_trained`."""
        return self.model_root / name / check_model_name(model)

    def training(self, stage: str, model: str) -> Path:
        """Checkpoints and whatever a running stage keeps."""
        return self.output(f"{stage}_training", model)

    def run_state(self, stage: str, model: str) -> Path:
        return self.training(stage, model) / "run.json"

    def tracking(self, model: str) -> Path:
        """What trackers write, of all stages."""
        return self.output("tracking", model)

    def loss_log(self, stage: str, model: str) -> Path:
        return self.training(stage, model) / LOSS_LOG

    def unpublished(self, stage: str, model: str) -> Path:
        """A finished stage's output until its gates let it be published."""
        return self.training(stage, model) / "unpublished"

    def superseded(self, stage: str, model: str) -> Path:
        """Where a run goes that cannot be resumed; one of them is kept."""
        return self._beside(self.training(stage, model), "superseded")

    def token_cache(self, stage: str, model: str) -> Path:
        """Tokens of the stage's data, beside the run: what a run depends on is only known after the data was read."""
        return self._beside(self.training(stage, model), "data") / "tokens"

    def ablation(self, model: str) -> Path:
        """What `lorachain ablate` writes."""
        return self.root / "ablation" / check_model_name(model)

    def ablation_arm(self, model: str, arm: str, seed: int) -> "Workspace":
        """The workspace of one arm and seed."""
        return Workspace(self.ablation(model) / arm / f"seed-{seed}")

    def debug_log(self, stage: str) -> Path:
        return self.model_root / f"{stage}_training" / f"train_{stage}_debug.log"

    def ledger(self, model: str) -> Path:
        """What every step of the model's chain scores; its directory also has what measuring keeps."""
        return self.output("ledger", model) / "ledger.json"

    def dial(self, stage: str, model: str, variant: str) -> Path:
        """What a stage's adapter scores at several scales."""
        return self.ledger(model).with_name(f"dial-{stage}-{variant}.json")

    def push(self, model: str) -> Path:
        """What `lorachain push` prepares."""
        return self.output("push", model)

    def lock_file(self, model: str) -> Path:
        return self.model_root / f".lock-{check_model_name(model)}"

    @staticmethod
    def _beside(path: Path, suffix: str) -> Path:
        return path.with_name(f".{path.name}.{suffix}")


def data_report(tokens: Path) -> Path:
    """What the data gates found in the sources of cached tokens: beside them."""
    return tokens.with_name(f"{tokens.name.removesuffix('tokens')}data_report.json")


def merged_base(output: Path) -> Path:
    """Within a merge's output directory, the merged weights: beside the new LoRA on them."""
    return output / "base"


def checkpoint_steps(run: Path) -> list[int]:
    """Steps of the checkpoint directories of a run, newest first, complete or not."""
    names = (path.name.removeprefix(CHECKPOINT_PREFIX) for path in run.glob(f"{CHECKPOINT_PREFIX}*") if path.is_dir())
    return sorted((int(name) for name in names if name.isdecimal()), reverse=True)


def cache_folder() -> Path:
    """Where weights that were converted once are kept for all workspaces (XDG base directory specification)."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "lorachain"


def user_key_file() -> Path:
    """The key of this user's account (`user_key`): not in the cache, which others may be allowed to fill."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "lorachain" / "key"


def open_workspace(root: Path) -> Workspace:
    """The workspace at `root`, which need not exist yet.

    Raises:
        WorkspaceError: `root` is not a directory, cannot be written to, or has a link where lorachain would write.
    """
    existing = next(p for p in [root, *root.absolute().parents] if p.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        problem = "cannot be written to" if existing.is_dir() else "is not a directory"
        raise WorkspaceError(f"--workspace {root}: {existing} {problem}; choose another directory")
    refuse_links(root / "model")
    return Workspace(root)


def refuse_links(model_root: Path) -> None:
    """A workspace may come from a stranger: a link in it would have lorachain write, replace or delete elsewhere.

    Raises:
        WorkspaceError: names the first link.
    """

    def fail(error: OSError) -> None:
        raise WorkspaceError(f"{error.filename} cannot be listed: {(error.strerror or '').lower()}") from error

    links = [model_root] if model_root.is_symlink() else []
    for folder, directories, names in os.walk(model_root, onerror=fail) if model_root.is_dir() else ():
        links += (Path(folder, name) for name in (*directories, *names) if os.path.islink(os.path.join(folder, name)))
    if links:
        raise WorkspaceError(
            f"{links[0]} is a symbolic link; lorachain follows no links in a workspace: replace it with its target "
            f"({os.readlink(links[0])!r}), or put the workspace on the other disk with --workspace"
        )
