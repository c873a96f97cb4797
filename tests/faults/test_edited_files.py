"""Our own files, edited or damaged anywhere: a message or a correct result, never a crash. For readers of data see
`data/test_reader_fuzz.py`."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save

from chain_making import FinishedChain, options_of, run_command_line
from lorachain.chain.run_record import open_run
from lorachain.errors import DataError, ModelError
from lorachain.training.checkpoints import MANIFEST, reason_to_skip
from lorachain.weights.safetensors_io import read_shard

FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
OURS = ("training_info.json", "kormedmcqa_validation_results.json", "merge_report.json", "adapter_config.json")
values = st.sampled_from([None, True, 0, -1, 3.5, 10**30, "", "x", "../x", [], [1], {}, {"a": 1}])
Position = tuple[str | int, ...]


def positions(value: Any, at: Position = ()) -> Iterator[Position]:
    """Every position in a JSON value; of a list the first two items."""
    yield at
    items = value.items() if isinstance(value, dict) else enumerate(value[:2]) if isinstance(value, list) else ()
    for key, item in items:
        yield from positions(item, (*at, key))


def edited(value: Any, at: Position, new: object, *, remove: bool) -> Any:
    if not at:
        return new
    holder = value
    for key in at[:-1]:
        holder = holder[key]
    if remove:
        del holder[at[-1]]
    else:
        holder[at[-1]] = new
    return value


@pytest.fixture(scope="module")
def chain(finished_chain: Callable[..., FinishedChain], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished workspace; every example restores what it edited."""
    return shutil.copytree(finished_chain("text").root, tmp_path_factory.mktemp("edited") / "workspace")


@settings(FUZZ, max_examples=50)
@given(data=st.data())
def test_no_command_crashes_over_an_edited_file(chain: Path, data: st.DataObject) -> None:
    files = sorted(path for path in (chain / "model").rglob("*.json") if path.name in OURS)
    path = data.draw(st.sampled_from(files))
    content = path.read_bytes()
    value = json.loads(content)
    at = data.draw(st.sampled_from(list(positions(value))))
    path.write_text(json.dumps(edited(value, at, data.draw(values), remove=data.draw(st.booleans()))))
    try:
        for command in ("status", "run", "history", "verify"):
            short = ("--model", "tiny", "--workspace", str(chain))
            code, _, err = run_command_line(
                command, *(short if command in ("history", "verify") else options_of(chain))
            )
            assert code in (0, 2), (path.name, at, command, err)
            assert err.count("error: ") == (code == 2)
            assert "Traceback" not in err
    finally:
        path.write_bytes(content)


def good_weights() -> bytes:
    return save({"a.weight": torch.ones(2, 3), "b.weight": torch.zeros(4, dtype=torch.bfloat16)})


@FUZZ
@given(data=st.data())
def test_any_bytes_as_weights(tmp_path: Path, data: st.DataObject) -> None:
    content = bytearray(good_weights())
    for _ in range(data.draw(st.integers(0, 3))):
        start = data.draw(st.integers(0, len(content)))
        content[start : start + data.draw(st.integers(0, 9))] = data.draw(st.binary(max_size=9))
    file = tmp_path / "model.safetensors"
    file.write_bytes(bytes(content))
    try:
        shard = read_shard(file)
    except ModelError:
        pass
    else:
        assert all(0 <= t.start <= t.start + t.size <= len(content) for t in shard.tensors)


json_values = st.recursive(
    values, lambda v: st.lists(v, max_size=3) | st.dictionaries(st.text(max_size=5), v, max_size=3), max_leaves=6
)


@FUZZ
@given(content=st.binary(max_size=60) | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_manifest_and_any_record(tmp_path: Path, content: bytes) -> None:
    checkpoint = tmp_path / "checkpoint-1"
    checkpoint.mkdir(exist_ok=True)
    (checkpoint / MANIFEST).write_bytes(content)
    assert reason_to_skip(checkpoint, "fingerprint")  # none of them is complete
    state = tmp_path / "run" / "run.json"
    state.parent.mkdir(exist_ok=True)
    state.write_bytes(content)
    record = open_run(state, "fingerprint", tmp_path / "superseded")
    assert record.scores == []
    assert record.moved_to == tmp_path / "superseded"
    assert (tmp_path / "superseded" / "run.json").read_bytes() == content


@FUZZ
@given(data=st.data())
def test_a_record_edited_anywhere(tmp_path: Path, chain: Path, data: st.DataObject) -> None:
    """It is moved aside, or read as a record that a run can resume with."""
    stored = json.loads((chain / "model" / "02_training" / "tiny" / "run.json").read_text(encoding="utf-8"))
    fingerprint = stored["fingerprint"]
    at = data.draw(st.sampled_from(list(positions(stored))))
    state = tmp_path / "run" / "run.json"
    shutil.rmtree(state.parent, ignore_errors=True)
    state.parent.mkdir()
    changed = edited(stored, at, data.draw(values), remove=data.draw(st.booleans()))
    state.write_text(json.dumps(changed), encoding="utf-8")
    record = open_run(state, fingerprint, tmp_path / "superseded")
    if len(record.scores) > 1:
        with suppress(DataError):  # results of other questions cannot be compared
            record.best("letters")
    record.drop_after(1)
    assert all(score.step <= 1 for score in record.scores)
