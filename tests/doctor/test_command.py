"""`lorachain doctor`: one line per check, what would be trained, exit codes, JSON."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from chain_making import make_workspace, options_of
from lora_making import edit_tensors, save_adapter_for
from lorachain.artifacts import DoctorReport

Run = Callable[..., tuple[int, str, str]]


def report_of(out: str) -> DoctorReport:
    return DoctorReport.parse(json.loads(out))


def test_a_model_of_the_workspace(root: Path, lorachain: Run) -> None:
    code, out, err = lorachain("doctor", "tiny", *options_of(root)[2:])
    assert code == 0, out + err
    lines = out.splitlines()
    assert lines[-1].endswith(" ok, 1 warning, 0 failures")
    assert sum(line.startswith("ok ") for line in lines) > 10
    # 100 records or fewer of each stage, three of them shown; nothing is written.
    assert [line.split()[1] for line in lines if " trained: " in line] == [
        s for s in ("00,", "01,", "02,") for _ in "123"
    ]
    assert not (root / "model" / "00_training").exists()


def test_what_is_shown_is_what_is_trained(root: Path, lorachain: Run) -> None:
    code, out, _ = lorachain("doctor", "--json", *options_of(root))
    assert code == 0
    report = report_of(out)
    assert (report.subject, report.failed) == ("tiny", False)
    by_stage = {stage: [e for e in report.examples if e.stage == stage] for stage in ("00", "01", "02")}
    for stage, examples in by_stage.items():
        assert len(examples) == 3
        for example in examples:
            assert [token.id for token in example.tokens].count(2) == 1  # one BOS
            assert (example.tokens[0].id, example.tokens[0].supervised) == (2, False)
            supervised = [token.supervised for token in example.tokens]
            first = supervised.index(True)
            assert all(supervised[first:])
            assert not any(supervised[:first])
            # A part of a text ends without EOS.
            assert stage == "00" or example.tokens[-1].text == "<eos>"
            assert (first == 1) == (stage == "00")
    prompt = bytes(t.id - 6 for t in by_stage["02"][0].tokens if not t.supervised and 6 <= t.id < 262)
    assert "답".encode()[1:] not in prompt or b"A." in prompt


def test_a_directory_with_a_broken_value(root: Path, tmp_path: Path, lorachain: Run) -> None:
    base = tmp_path / "tiny-text-0"
    edit_tensors(base / "model.safetensors", **{"layers.1.mlp.up_proj": lambda t: t.fill_(float("nan"))})
    code, out, _ = lorachain("doctor", base, "--json", "--workspace", root)
    assert code == 2
    (failed,) = [check for check in report_of(out).checks if check.state == "failure"]
    assert failed.name == "values"
    assert "model.layers.1.mlp.up_proj.weight has values that are not finite" in failed.message


def test_an_adapter_on_another_base(root: Path, tmp_path: Path, lorachain: Run) -> None:
    adapter = save_adapter_for(tmp_path / "tiny-text-0", tmp_path / "adapter", "text", scale_b=0.5)
    code, out, _ = lorachain("doctor", adapter, "--json", "--workspace", root)
    checks = {check.name: check for check in report_of(out).checks}
    assert (code, checks["adapter"].state) == (0, "ok")
    edit_tensors(
        adapter / "adapter_model.safetensors", **{"layers.0.self_attn.q_proj.lora_A": lambda t: t[:, :-1].contiguous()}
    )
    code, out, _ = lorachain("doctor", adapter, "--json", "--workspace", root)
    assert code == 2
    (failed,) = [check for check in report_of(out).checks if check.state == "failure"]
    assert "lora_A" in failed.message


def test_a_source_that_cannot_be_read(root: Path, tmp_path: Path, lorachain: Run) -> None:
    broken = tmp_path / "terms.csv"
    broken.write_text("a,b\n1,2\n", encoding="utf-8")
    code, out, _ = lorachain("doctor", "tiny", "--dictionary", broken, "--json", "--workspace", root)
    assert code == 2
    report = report_of(out)
    (failed,) = [check for check in report.checks if check.state == "failure"]
    assert failed.name == "data of 01"
    assert "terms.csv" in failed.message
    # Only the named source is checked.
    assert not [check for check in report.checks if check.name == "data of 00"]


def test_a_model_that_does_not_fit_is_not_loaded(root: Path, lorachain: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lorachain.doctor.examine.weights_bytes", lambda folder: 10**15)
    monkeypatch.setattr("lorachain.doctor.examine.check_disk", lambda *arguments: iter(()))
    code, out, _ = lorachain("doctor", "tiny", "--json", *options_of(root)[2:])
    checks = {check.name: check for check in report_of(out).checks}
    assert code == 0
    assert checks["memory"].state == "warning"
    assert checks["values"].message == "every value of the files is finite"
    assert "attention isolation" not in checks


def test_a_model_that_is_not_downloaded(tmp_path: Path, lorachain: Run) -> None:
    root = make_workspace(tmp_path / "workspace", tmp_path)
    code, out, _ = lorachain("doctor", "google/gemma-3-1b-pt", "--json", "--workspace", root)
    assert code == 2  # offline in the tests, and not in the cache
    checks = {check.name: check for check in report_of(out).checks}
    assert checks["hub"].state == "failure"
    assert checks["weights"].state == "warning"
    assert "lorachain fit google/gemma-3-1b-pt" in str(checks["weights"].fix)


def test_nothing_of_that_name(root: Path, lorachain: Run) -> None:
    code, _, err = lorachain("doctor", "no-such-model", *options_of(root))
    assert code == 2
    assert "'no-such-model' is not a model that can be scored" in err
    assert torch.is_inference_mode_enabled() is False
