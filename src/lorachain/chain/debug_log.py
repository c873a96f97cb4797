"""Everything libraries have to say goes to the stage's debug log, nothing of it to the screen."""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import TextIOWrapper
from pathlib import Path

import datasets
import transformers

_LIBRARIES = ("transformers", "peft", "accelerate", "datasets", "torch", "huggingface_hub", "lorachain", "py.warnings")
_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


class _TokenFilter(logging.Filter):
    """The hub token never appears in a log, whoever writes the line."""

    def filter(self, record: logging.LogRecord) -> bool:
        token = os.environ.get("HF_TOKEN") or os.environ.get("HUGGING_FACE_HUB_TOKEN")
        message = record.getMessage()
        if token and token in message:
            record.msg, record.args = message.replace(token, "hf_***"), None
        return True


def quiet_libraries() -> None:
    """No progress bars, warnings or advice of libraries on the screen; their loggers lose their own handlers."""
    transformers.utils.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    datasets.disable_progress_bars()
    logging.captureWarnings(True)
    for name in _LIBRARIES:
        logger = logging.getLogger(name)
        logger.handlers = [logging.NullHandler()]
        logger.propagate = False


class _LateFile(logging.FileHandler):
    """Makes its file with the first line: a run that is refused at once leaves none behind."""

    def _open(self) -> TextIOWrapper:
        Path(self.baseFilename).parent.mkdir(parents=True, exist_ok=True)
        return super()._open()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 - logging's name
        """A full disk is told once, by what cannot do without it; logging would print a traceback a line."""


@contextmanager
def debug_log(path: Path) -> Iterator[None]:
    """Appends what is logged within the block to `path`, warnings included."""
    handler = _LateFile(path, encoding="utf-8", delay=True)
    handler.setFormatter(logging.Formatter(_FORMAT))
    handler.addFilter(_TokenFilter())
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
