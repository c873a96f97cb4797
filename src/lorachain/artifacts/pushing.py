"""What `lorachain push` prepared and sent."""

from typing import ClassVar, Literal

from lorachain.artifacts.schema import Artifact, Record


class SentTo(Record):
    """A commit on the hub."""

    repository: str
    commit: str
    public: bool
    """Whether --public was given."""


class PushManifest(Artifact):
    """`NN-FORMAT.json` beside a prepared directory: what it was made from, and what is in it."""

    title: ClassVar[str] = "push manifest"
    remedy: ClassVar[str] = "delete it and push again: the files are prepared again"

    step: str
    form: Literal["hf", "adapter", "gguf", "ollama", "vllm"]
    outtype: str | None
    """Of a GGUF file."""
    made_from: dict[str, str]
    """SHA-256 of the public base and of the adapters."""
    lorachain: str
    """Version that prepared it."""
    weights: dict[str, str]
    """File to SHA-256, of everything but the cards."""
    sent: tuple[SentTo, ...] = ()
    """Oldest first."""
