"""Checks as they are made: short ways to write one, and an error of lorachain as a failure."""

from collections.abc import Callable, Iterable, Iterator

from lorachain.artifacts import Check, ShownExample
from lorachain.errors import LorachainError

Finding = Check | ShownExample


def ok(name: str, message: str) -> Check:
    return Check(name=name, state="ok", message=message)


def warning(name: str, message: str, fix: str) -> Check:
    return Check(name=name, state="warning", message=message, fix=fix)


def failure(name: str, message: str, fix: str | None = None) -> Check:
    return Check(name=name, state="failure", message=message, fix=fix)


def guarded(name: str, findings: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """The findings of one group; an error of lorachain ends the group with a failure that has its message."""
    try:
        yield from findings()
    except LorachainError as error:
        yield failure(name, str(error))


def gigabytes(size: float) -> str:
    """`54.0 GB`, with 10^9 bytes."""
    return f"{size / 1e9:,.1f} GB" if size >= 5e7 else f"{size / 1e6:,.1f} MB"
