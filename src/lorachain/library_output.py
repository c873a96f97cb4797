"""What libraries print, kept from the terminal."""

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout


@contextmanager
def output_logged(log: logging.Logger) -> Iterator[None]:
    """What is printed within the block goes to `log` at the end of the block, and not to the terminal.

    For libraries whose progress bars and greetings have no switch.
    """
    printed = io.StringIO()
    try:
        with redirect_stdout(printed), redirect_stderr(printed):
            yield
    finally:
        if text := printed.getvalue().strip():
            log.info("%s", text)
