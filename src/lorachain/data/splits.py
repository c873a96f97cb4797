"""The splits of an exam, under the names that files and hub data sets give them."""

from typing import Literal

Split = Literal["train", "dev", "fewshot", "test"]
SPLITS: dict[str, Split] = {
    "train": "train",
    "dev": "dev",
    "validation": "dev",
    "valid": "dev",
    "fewshot": "fewshot",
    "few-shot": "fewshot",
    "few_shot": "fewshot",
    "test": "test",
}


def canonical_split(name: str) -> Split | None:
    """The split that a name means."""
    return SPLITS.get(name.casefold())
