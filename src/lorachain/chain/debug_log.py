"""Messages of libraries go to the stage's debug log, not to the terminal."""

import logging
import logging.handlers
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path

import datasets
import transformers

from lorachain.atomic import open_regular, replaced_file
from lorachain.redaction import without_tokens

_LIBRARIES = (
    *("transformers", "peft", "accelerate", "datasets", "torch", "huggingface_hub", "bitsandbytes"),
    *("lorachain", "py.warnings"),
)
_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class _WithoutTokens(logging.Formatter):
    """Removes hub tokens from every line, tracebacks included."""

    def format(self, record: logging.LogRecord) -> str:
        return without_tokens(super().format(record))


def quiet_libraries() -> None:
    """Turns off progress bars and warnings of libraries in the terminal, and removes the handlers of their loggers."""
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    datasets.disable_progress_bars()
    logging.captureWarnings(True)
    for name in _LIBRARIES:
        logger = logging.getLogger(name)
        logger.handlers = [logging.NullHandler()]
        logger.propagate = False


class _LateFile(logging.handlers.WatchedFileHandler):
    """Creates its file with the first line: a run that is refused at once leaves none. Reopens a replaced file."""

    def _open(self) -> TextIOWrapper:
        path = Path(self.baseFilename)
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.fdopen(open_regular(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), "a", encoding="utf-8")

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """A full disk is reported by whatever needs it; logging would print a traceback per line."""


@contextmanager
def debug_log(path: Path) -> Iterator[None]:
    """Appends what is logged within the block to `path`, warnings included."""
    handler = _LateFile(path, encoding="utf-8", delay=True)
    handler.setFormatter(_WithoutTokens(_FORMAT))
    loggers = [logging.getLogger(name) for name in _LIBRARIES]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        for logger in loggers:
            logger.addHandler(handler)
            logger.setLevel(logging.INFO)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.removeHandler(handler)
                logger.setLevel(level)
            handler.close()


def step_summary(marker: str, step: int, total: int, loss: float) -> str:
    """The log line of one optimizer step; `marker` identifies the run."""
    return f"{marker} step {step}/{total} loss {loss:.4f}"


def drop_steps_after(step: int, path: Path, marker: str) -> None:
    """Removes the lines of a run's later steps from the log: a step repeated after a kill leaves one line."""
    if not path.exists():
        return
    line_of_step = re.compile(rf"{re.escape(marker)} step (\d+)/")
    with path.open(encoding="utf-8", errors="replace") as lines, replaced_file(path) as kept:
        for line in lines:
            found = line_of_step.search(line)
            if found is None or int(found[1]) <= step:
                kept.write(line if line.endswith("\n") else line + "\n")
