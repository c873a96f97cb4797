"""`ledger.json`: what every step of a chain scores by every measure, against its parent and against the base."""

from typing import Any, ClassVar, Literal, Self

from pydantic import Field, model_validator

from lorachain.artifacts.schema import Artifact, Record

Reference = Literal["parent", "base"]
Verdict = Literal["better", "worse", "not significantly different", "within noise"]
GateOutcome = Literal["passed", "failed", "accepted", "not evaluated"]


class StepModel(Record):
    """Which weights a step's cells belong to."""

    base_sha256: str
    adapter_sha256: str | None
    """None: the base alone. A new LoRA changes no logit, so `base` and `merge` are measured without theirs."""
    quantization: Literal["none", "nf4", "int8"]
    dtype: str


class Change(Record):
    """A cell against the same measure of another step, item by item."""

    difference: float
    """This step's value minus the other's."""
    interval95: tuple[float, float]
    """Paired bootstrap over the items."""
    test: Literal["exact McNemar", "paired bootstrap"]
    p: float
    p_holm: float
    """Corrected for all tests of this step against the same other step (Holm 1979)."""
    lost: int | None = None
    gained: int | None = None
    """Items that only the other step, and only this one, answers correctly; None for perplexity."""
    verdict: Verdict


class Cell(Record):
    """One measure of one step, with every item, so that any two steps can be compared."""

    measure: str
    kind: Literal["share", "perplexity", "description"]
    """What `value` is: the share of `correct`; exp(sum of `sums` / sum of `weights`); or a number without a test."""
    version: str
    prompt_version: int = 1
    """`prompts.PROMPT_VERSION`; 1 before there was one."""
    data_sha256: str
    """Of the items, in order."""
    value: float
    n: int
    unit: str
    """What n counts."""
    interval95: tuple[float, float] | None = None
    """Wilson's for a share; bootstrap over the items for a perplexity."""
    correct: str | None = None
    """Of a share: `1` or `0` per item."""
    sums: tuple[float, ...] | None = None
    """Of a perplexity: negative log-likelihood in nats per item."""
    weights: tuple[int, ...] | None = None
    """Of a perplexity: tokens per item."""
    detail: dict[str, Any] = Field(default_factory=dict)
    against: dict[Reference, Change] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _items_of_its_kind(self) -> Self:
        correct = self.correct or ""
        if self.kind == "share" and (len(correct) != self.n or set(correct) - {*"01"}):
            raise ValueError("a share has one character, 0 or 1, for each of its n items")
        if self.kind == "perplexity" and not len(self.sums or ()) == len(self.weights or ()) == self.n:
            raise ValueError("a perplexity has one sum and one weight for each of its n items")
        return self


class Noise(Record):
    """How much a measure changes when the same model is scored again in batches of another shape."""

    version: str
    prompt_version: int = 1
    data_sha256: str
    value: float
    """Of a share: items whose result changed, as a share of n; of a perplexity: the absolute difference."""
    n: int


class GateResult(Record):
    """Whether a step may be published, by one gate of the chain file."""

    measure: str
    against: Reference
    tolerated: float
    unit: Literal["points", "percent"]
    loss: float | None
    """How much worse than the reference, in `unit`; negative where better; None where it was not evaluated."""
    p_holm: float | None
    on_fail: Literal["stop", "warn", "dial"]
    outcome: GateOutcome
    summary: str


class LedgerStep(Record):
    """One row of the matrix: a step of the chain."""

    name: str
    parent: str | None
    """The step that it was made from; None for the base."""
    model: StepModel
    cells: tuple[Cell, ...] = ()
    gates: tuple[GateResult, ...] = ()

    def cell(self, measure: str) -> Cell | None:
        return next((cell for cell in self.cells if cell.measure == measure), None)


class DialPoint(Record):
    """One scale of an adapter: its cells, and whether it passes every gate."""

    scale: float
    row: LedgerStep
    passes: bool


class DialReport(Artifact):
    """`dial-NN-VARIANT.json`: a stage's adapter at several scales, without training. It has no times."""

    title: ClassVar[str] = "dial report"
    remedy: ClassVar[str] = "delete it and run `lorachain dial` again"

    schema_version: int = 1
    stage: str
    variant: Literal["uniform", "lines"]
    model: StepModel
    """With the adapter as it was trained."""
    points: tuple[DialPoint, ...] = ()
    """The largest scale first."""


class Ledger(Artifact):
    """The matrix of steps and measures. It has no times, so that an interrupted one ends with the same bytes."""

    title: ClassVar[str] = "ledger"
    remedy: ClassVar[str] = "delete it and measure again with `lorachain ledger --measure`"

    schema_version: int = 1
    model: str
    settings: dict[str, Any]
    """`[ledger]`, as it was measured."""
    gates: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """`[gates]`, as the last stage was checked."""
    noise: dict[str, Noise] = Field(default_factory=dict)
    steps: tuple[LedgerStep, ...] = ()
    """In the order of the chain."""

    def step(self, name: str) -> LedgerStep | None:
        return next((step for step in self.steps if step.name == name), None)


_LABELS = {
    "plain_text": "perplexity, stage 00's held-out text",
    "korean": "perplexity, general Korean",
    "english": "perplexity, English",
    "exam_letters": "exam dev, letters",
    "exam_options": "exam dev, options",
    "dictionary_exam_letters": "dictionary exam, letters",
    "dictionary_exam_options": "dictionary exam, options",
    "form_plain_text": "form kept, plain text",
    "form_dictionary": "form kept, dictionary",
    "form_exam": "form kept, exam",
    "kl_plain_text": "KL from the base, plain text",
    "kl_dictionary": "KL from the base, dictionary",
    "kl_exam": "KL from the base, exam",
    "intruder_dimensions": "intruder dimensions per layer",
}


def measure_label(measure: str) -> str:
    """A measure's name for people."""
    if measure.startswith("text_"):
        return f"perplexity, {measure.removeprefix('text_')}"
    if measure.startswith("exact_match_"):
        return "exact match, " + measure.removeprefix("exact_match_").replace("_to_", " -> ")
    return _LABELS.get(measure, measure.replace("_", " "))
