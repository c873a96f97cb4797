"""What `lorachain doctor` found."""

from typing import ClassVar, Literal

from lorachain.artifacts.schema import Artifact, Record

CheckState = Literal["ok", "warning", "failure"]


class Check(Record):
    """One check: what was found, and how to fix it where it is not ok."""

    name: str
    state: CheckState
    message: str
    fix: str | None = None
    """None where nothing has to be done, or where the message says it."""


class ShownToken(Record):
    """One token of an example, as the model reads it."""

    id: int
    text: str
    supervised: bool
    """Whether the model is trained to predict it."""


class ShownExample(Record):
    """A sequence that a stage would train on, token by token."""

    stage: str
    tokens: tuple[ShownToken, ...]


class DoctorReport(Artifact):
    """The output of `lorachain doctor --json`."""

    title: ClassVar[str] = "doctor report"
    remedy: ClassVar[str] = "run lorachain doctor again"

    version: str
    """Of lorachain."""
    subject: str
    """The model that was checked."""
    checks: tuple[Check, ...]
    examples: tuple[ShownExample, ...]

    @property
    def failed(self) -> bool:
        return any(check.state == "failure" for check in self.checks)
