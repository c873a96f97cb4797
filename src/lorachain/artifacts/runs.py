"""Files beside the results: checkpoints, token caches, converted weights, the lock."""

from typing import Any, ClassVar

from lorachain.artifacts.schema import Artifact, Record


class CheckpointManifest(Artifact):
    """`manifest.json` of a checkpoint, written last: a checkpoint is complete where every hash matches."""

    title: ClassVar[str] = "checkpoint manifest"
    remedy: ClassVar[str] = "the checkpoint is skipped"

    step: int
    fingerprint: str
    files: dict[str, str]
    """Relative path to SHA-256."""

    @classmethod
    def parse(cls, stored: dict[str, Any]) -> "CheckpointManifest":
        return super().parse({"schema_version": 1, **stored})  # lorachain 0.1 wrote none


class TrainingProgress(Artifact):
    """`progress.json` of a checkpoint: what the run has done so far, over all interruptions."""

    title: ClassVar[str] = "training progress"
    remedy: ClassVar[str] = "the checkpoint is skipped"

    step: int
    tokens: int
    supervised_tokens: int
    seconds: float
    losses: tuple[float, ...]

    @classmethod
    def parse(cls, stored: dict[str, Any]) -> "TrainingProgress":
        return super().parse({"schema_version": 1, **stored})  # lorachain 0.1 wrote none


class TokenCacheManifest(Artifact):
    """`made_from.json` beside cached token rows."""

    title: ClassVar[str] = "token cache manifest"
    remedy: ClassVar[str] = "the tokens are created again"

    schema_version: int = 2
    identity: str
    """SHA-256 of everything that decides the rows."""
    facts: dict[str, Any]
    rows_sha256: str
    signature: str
    """HMAC-SHA-256 of the store's name and the fields above, with a key of the user's account (`user_key`). Empty where
    there was none: the tokens are then created again at the next start."""

    @classmethod
    def migrate(cls, stored: dict[str, Any]) -> dict[str, Any]:
        return stored | {"signature": ""}  # nothing was signed


class ConversionRecord(Artifact):
    """`converted.json` beside weights that were converted once for all workspaces."""

    title: ClassVar[str] = "record of converted weights"
    remedy: ClassVar[str] = "the weights are converted again"

    source_sha256: str
    """Of the file that they were converted from."""
    owner: int
    """The operating system's number of the user who converted them."""
    files: dict[str, str]
    """Name to SHA-256, of every other file."""
    signature: str
    """HMAC-SHA-256 of the fields above, with a key of the user's account (`user_key`); empty where there was none."""


class LockHolder(Record):
    """The lock file's content: which process works on a model."""

    pid: int
    host: str
    start: str
    command: str = ""
    """What to type to resume it."""
    stage: str = ""
    """What it is working on."""
