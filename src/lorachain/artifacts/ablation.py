"""`ablation.json`: ways of training compared at equal supervised tokens, and the scores that it is made from."""

from typing import Any, ClassVar, Literal

from lorachain.artifacts.schema import Artifact, Record


class ArmStage(Record):
    """One stage of an arm as it was trained."""

    stage: str
    supervised_tokens: int
    tokens: int
    optimizer_steps: int
    seconds: float
    replayed: dict[str, float]
    """Share of the supervised tokens by kind of replayed data."""


class ItemScores(Record):
    """One measure of one model, item by item."""

    measure: str
    kind: Literal["share", "perplexity"]
    protocol_version: str
    data_sha256: str
    """Of the items: two scores compare only where it is the same."""
    unit: Literal["questions", "answers", "documents"]
    correct: str | None = None
    """Of a share: `1` or `0` per item."""
    nll: tuple[float, ...] | None = None
    """Of a perplexity: negative log-likelihood per document in nats."""
    tokens: tuple[int, ...] | None = None

    @property
    def n(self) -> int:
        return len(self.correct) if self.correct is not None else len(self.nll or ())


class ArmScore(Artifact):
    """`score.json` of one arm and seed: written when the arm is trained and scored, and then used again."""

    title: ClassVar[str] = "ablation score"
    remedy: ClassVar[str] = "remove it, and run `lorachain ablate` again"

    arm: str
    seed: int
    fingerprint: str
    """SHA-256 of everything that decides the scores."""
    adapter_sha256: str | None
    """Of the scored stage; None for the base."""
    stages: tuple[ArmStage, ...]
    scores: tuple[ItemScores, ...]
    seconds: float


class PairedSeed(Record):
    """One seed of an arm against the same seed of the chain, on the same items: exact McNemar test."""

    seed: int
    lost: int
    gained: int
    mcnemar_p: float


class AgainstChain(Record):
    """One measure of an arm against the chain, over all seeds."""

    difference: float
    """Arm minus chain: of shares, or of perplexities."""
    interval95: tuple[float, float]
    """Paired bootstrap over the items, the seeds averaged within each."""
    test: str
    p: float
    p_holm: float
    """Corrected by Holm's method over all arms and measures of the table."""
    verdict: Literal["better", "worse", "not significantly different"]
    by_seed: tuple[PairedSeed, ...]
    """Of a share; empty for a perplexity."""


class AblationCell(Record):
    """One measure of one arm."""

    measure: str
    protocol_version: str
    value: float
    """Mean over the seeds: of shares; of log-likelihoods, as a perplexity."""
    interval95: tuple[float, float] | None
    """Bootstrap over the items, the seeds averaged within each; None for fewer than two items."""
    n: int
    unit: Literal["questions", "answers", "documents"]
    by_seed: tuple[float, ...]
    against_chain: AgainstChain | None
    """None for the chain itself, and where the chain was not run."""


class AblationArm(Record):
    """One way of training."""

    arm: str
    title: str
    supervised_tokens: tuple[int, ...]
    """By seed: of all stages."""
    cells: tuple[AblationCell, ...]


class Ablation(Artifact):
    """`ablation.json` of `lorachain ablate`."""

    title: ClassVar[str] = "ablation"
    remedy: ClassVar[str] = "run `lorachain ablate` again"

    model: str
    seeds: tuple[int, ...]
    budget: int
    """Supervised tokens that each arm was to train."""
    split: str
    prompt_version: int = 1
    """`prompts.PROMPT_VERSION`; 1 before there was one."""
    configuration: dict[str, Any]
    versions: dict[str, str]
    git_commit: str | None
    arms: tuple[AblationArm, ...]
