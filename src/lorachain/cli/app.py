"""The entry point: errors to messages and exit codes."""

import os
import sys
from collections.abc import Sequence

import typer

from lorachain.errors import LorachainError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Chained LoRA for Korean medicine on Gemma 3, every link proved. "
    "`--debug` anywhere shows the traceback of an error.",
)
train_app = typer.Typer(no_args_is_help=True, help="Train one stage of the chain: 00, 01 or 02.")
app.add_typer(train_app, name="train")


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line.

    Exit codes: 0 done, 2 something the user can mend (one message), 130 and 143 interrupted (and saved), 1 a fault of
    ours (with its traceback).
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    # Advice of libraries that read this at import time; the debug log has what they log.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Each registers its commands.
    from lorachain.cli import chain_commands, data_commands, exam_commands, weights_commands  # noqa: F401

    try:
        app([argument for argument in given if argument != "--debug"])
    except LorachainError as error:
        if debug:
            raise
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        if debug:
            raise
        print("interrupted; finished stages and checkpoints are kept", file=sys.stderr)
        sys.exit(130)
