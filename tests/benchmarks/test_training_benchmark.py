"""The training benchmark on a tiny model: contenders train the same, and operations are counted correctly."""

import importlib.util
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from conftest import make_text_model, make_tokenizer
from lorachain.tokens import TokenEncoder, TokenRow
from lorachain.weights.load import text_decoder

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    directory = tmp_path / "tiny"
    make_text_model(dtype=torch.bfloat16).save_pretrained(directory)
    make_tokenizer().save_pretrained(directory)
    return directory


@pytest.fixture(autouse=True)
def _benchmarks_on_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.mark.parametrize("name", ["02", "02-reasoning", "00"])
def test_the_plain_trainer_and_ours_have_the_same_losses_on_the_same_steps(
    name: str, tiny: Path, tmp_path: Path
) -> None:
    from training_bench.contenders import measure
    from training_bench.jobs import Job
    from training_bench.workloads import build, write_workload

    workload = build(name, TokenEncoder(make_tokenizer()), None, pack_length=128)
    write_workload(workload, tmp_path / "workload.json")
    results = {
        contender: measure(
            Job(
                contender=contender, workload=str(tmp_path / "workload.json"), model=str(tiny), tokenizer=str(tiny),
                device="cpu", nf4=False, steps=1, warmup=1, rank=4, targets=["q_proj", "down_proj"],
                micro_batch_tokens=600, checkpointing=False,
            )
        )
        for contender in ("lorachain", "plain")
    }  # fmt: skip
    ours, plain = results["lorachain"], results["plain"]
    assert ours["tokens"] == plain["tokens"] > 0
    assert ours["supervised"] == plain["supervised"] > 0
    assert len(ours["losses"]) == 2
    assert all(math.isfinite(loss) for loss in ours["losses"])
    assert ours["losses"] == pytest.approx(plain["losses"], rel=2e-3)


def test_the_script_runs_its_children_and_writes_the_figures(tiny: Path, tmp_path: Path) -> None:
    has_trl = importlib.util.find_spec("trl") is not None
    command = [
        sys.executable, str(BENCHMARKS / "training.py"), "--model", str(tiny), "--workloads", "02", "--rounds", "1",
        "--steps", "1", "--warmup", "0", "--peak-size", "64", "--json", str(tmp_path / "out.json"),
    ]  # fmt: skip
    environment = {k: v for k, v in os.environ.items() if k != "LORACHAIN_REAL_DATA"} | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert ("trl: left out, not installed" in done.stdout) != has_trl
    assert "| stage 02, answer only | lorachain |" in done.stdout
    results = json.loads((tmp_path / "out.json").read_text())["results"]
    by_contender = {result["contender"]: result for result in results}
    assert by_contender.keys() == {"lorachain", "plain", *(["trl"] if has_trl else [])}
    ours = by_contender["lorachain"]["losses"]
    assert all(result["losses"] == pytest.approx(ours, rel=2e-3) for result in results)
    assert all(result["peak_bytes"] > 0 and result["tokens_per_second"] > 0 for result in results)


@pytest.mark.parametrize(("length", "window"), [(1, None), (7, None), (7, 3), (7, 7), (7, 9), (40, 16)])
def test_attended_pairs_are_those_of_the_mask(length: int, window: int | None) -> None:
    from training_bench.counting import attended_pairs

    query, key = torch.arange(length)[:, None], torch.arange(length)[None, :]
    mask = (key <= query) & (query - key < (window or length))
    assert attended_pairs(length, window) == int(mask.sum())


def test_the_body_is_counted_as_torch_counts_it() -> None:
    from training_bench.counting import model_sizes, step_flops

    model, length = make_text_model(), 12
    sizes = model_sizes(model)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        text_decoder(model)(input_ids=torch.ones(1, length, dtype=torch.int64), use_cache=False)
    products = counter.get_flop_counts()["Global"][torch.ops.aten.mm]
    row = TokenRow(list(range(length)), supervised_from=length)  # nothing supervised: no head
    assert step_flops([row], {**sizes, "windows": []}) == 2 * products
