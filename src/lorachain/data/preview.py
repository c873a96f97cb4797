"""Temporary."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Preview:
    name: str
    kind: str

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def preview_source(name: str, kind: str, *, skip_bad_rows: bool = False) -> Preview:
    return Preview(name, kind)
