"""Rows of `losses.csv`, which a training stage appends to, one per optimizer step."""

import csv
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError

from lorachain.append_file import read_complete_lines
from lorachain.artifacts.schema import Record, first_problem
from lorachain.errors import WorkspaceError


class LossRow(Record):
    """What one optimizer step measured; the fields are the columns of the file, named as in TRL's logs."""

    step: int
    """From 1."""
    epoch: float
    """Epochs that are done after the step."""
    loss: float
    """Mean negative log-likelihood of a supervised token, in nats."""
    learning_rate: Annotated[float, Field(allow_inf_nan=True)]
    """Of this step. The adapter that an infinite one gives is refused where it is saved."""
    grad_norm: float
    """Before it is clipped."""
    num_tokens: int
    """Trained since the start of the stage, padding left out."""


LOSS_COLUMNS = tuple(LossRow.model_fields)


def read_loss_log(path: Path) -> list[LossRow]:
    """The rows of the file, in the order of the steps; none where it is missing. A row that was cut off is left out.

    Raises:
        WorkspaceError: the file cannot be read, or is none of ours.
    """
    try:
        rows = list(csv.reader(line.decode("utf-8") for line in read_complete_lines(path).lines))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise WorkspaceError(f"{path} cannot be read: {error}") from error
    if rows and tuple(rows[0]) != LOSS_COLUMNS:
        raise WorkspaceError(f"{path} has the columns {','.join(rows[0])[:80]!r}; expected {','.join(LOSS_COLUMNS)}")
    read = []
    for number, row in enumerate(rows[1:], start=2):
        try:
            read.append(LossRow.model_validate_strings(dict(zip(LOSS_COLUMNS, row, strict=True))))
        except ValidationError as error:
            raise WorkspaceError(f"{path}, line {number}: {first_problem(error)}") from error
        except ValueError as error:
            raise WorkspaceError(f"{path}, line {number} has {len(row)} columns, not {len(LOSS_COLUMNS)}") from error
    return read
