"""Everything libraries have to say goes to the stage's debug log, nothing of it to the screen."""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def debug_log(path: Path) -> Iterator[None]:
    """Appends what is logged within the block to `path`, warnings included."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8")
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
