"""The entry point: errors to messages and exit codes."""

import logging
import os
import sys
import traceback
from collections.abc import Sequence
from typing import TextIO, cast

# Each registers its commands.
from lorachain.cli import (  # noqa: F401
    ablation_commands,
    app_commands,
    ask_commands,
    chain_commands,
    data_check,
    data_commands,
    doctor_commands,
    exam_commands,
    fit_commands,
    hub_commands,
    ledger_commands,
    reasoning_commands,
    report_commands,
    show_commands,
    weights_commands,
)
from lorachain.cli.app import app
from lorachain.errors import GateError, LorachainError
from lorachain.redaction import RedactedStream, printable


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command line.

    Exit codes: 0 success, 2 something the user can fix (one message), 3 a gate stopped a step, 130 and 143 interrupted
    (and saved), 1 a bug in lorachain (with its traceback).
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in given
    # Libraries read these at import time; the debug log has what they log.
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    # Threads that spin while they wait take the cores of whatever runs beside them (docs/benchmarks.md).
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    logging.getLogger("bitsandbytes").addHandler(logging.NullHandler())  # imported by PEFT, it warns of kernels

    out, err = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = cast(TextIO, RedactedStream(out)), cast(TextIO, RedactedStream(err))
    try:
        app([argument for argument in given if argument != "--debug"])
    except LorachainError as error:
        if debug:
            _print_traceback()
        print(f"error: {printable(str(error))}", file=sys.stderr)
        sys.exit(3 if isinstance(error, GateError) else 2)
    except KeyboardInterrupt:
        if debug:
            _print_traceback()
        print("interrupted; finished stages and checkpoints are kept", file=sys.stderr)
        sys.exit(130)
    except Exception:
        _print_traceback()
        sys.exit(1)
    finally:
        sys.stdout, sys.stderr = out, err


def _print_traceback() -> None:
    print(traceback.format_exc(), file=sys.stderr, end="")
