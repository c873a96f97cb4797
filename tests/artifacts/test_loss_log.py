"""`losses.csv`: written row by row, read back, and refused where it is none of ours."""

from pathlib import Path

import pytest

from lorachain.artifacts import LossRow, read_loss_log
from lorachain.errors import WorkspaceError
from lorachain.training.loss_log import LossLog


def row(step: int) -> LossRow:
    return LossRow(step=step, epoch=step / 3, loss=1 / 3, learning_rate=2e-4 / 3, grad_norm=0.1, num_tokens=40 * step)


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "run" / "losses.csv"
    for step in (1, 2, 3):
        LossLog(path).append(row(step))
    return path


def test_rows_are_read_as_they_were_written(written: Path) -> None:
    assert read_loss_log(written) == [row(1), row(2), row(3)]
    assert read_loss_log(written.with_name("none.csv")) == []


def test_rows_of_repeated_steps_are_dropped(written: Path) -> None:
    whole = written.read_bytes()
    with written.open("ab") as file:
        file.write(b"4,1.33")  # cut off
    LossLog(written).drop_after(2)
    assert read_loss_log(written) == [row(1), row(2)]
    LossLog(written).append(row(3))
    assert written.read_bytes() == whole


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b\n1,2\n", "has the columns 'a,b'; expected step,epoch,loss"),
        ("step,epoch,loss,learning_rate,grad_norm,num_tokens\n1,2\n", "line 2 has 2 columns, not 6"),
        ("step,epoch,loss,learning_rate,grad_norm,num_tokens\n1,1,nan,0,0,1\n", "line 2: 'loss' is 'nan'"),
        ("step,epoch,loss,learning_rate,grad_norm,num_tokens\n1,1,<b>,0,0,1\n", "line 2: 'loss' is '<b>'"),
    ],
)
def test_another_file_is_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "losses.csv"
    path.write_text(content)
    with pytest.raises(WorkspaceError, match=r"losses\.csv") as refused:
        read_loss_log(path)
    assert message in str(refused.value)


def test_a_link_is_not_followed(written: Path) -> None:
    link = written.with_name("link.csv")
    link.symlink_to(written)
    with pytest.raises(WorkspaceError, match="symbolic link"):
        LossLog(link).append(row(4))
