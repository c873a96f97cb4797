"""`lorachain push` as a user types it, against a stand-in of the hub."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file, save_file

from chain_making import FinishedChain
from hub_server import COMMIT, TOKEN, Fault, Hub
from lorachain.artifacts import Ledger, PushManifest
from lorachain.export import push as push_module
from refusals import raising

Run = Callable[..., tuple[int, str, str]]
NAME = "kim/tiny-ko"


@pytest.fixture
def pushed(finished_copy: Path, lorachain: Run, hub: Hub) -> Callable[..., tuple[int, str, str]]:
    """Runs `lorachain push` in a copy of the finished chain; checks that the token is nowhere."""

    def run(*arguments: object) -> tuple[int, str, str]:
        common = ("--model", "tiny", "--workspace", finished_copy, "--device", "cpu", "--to", NAME)
        code, out, err = lorachain("push", *arguments, *common)
        assert TOKEN not in out + err
        for path in finished_copy.rglob("*"):
            assert not path.is_file() or TOKEN.encode() not in path.read_bytes(), path
        return code, out, err

    return run


def prepared(root: Path, step: str = "02", form: str = "adapter") -> Path:
    return root / "model" / "push" / "tiny" / f"{step}-{form}"


def test_a_dry_run_lists_what_would_be_sent_and_asks_nothing(
    pushed: Run, finished_copy: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, out, err = pushed("02", "--dry-run")
    assert code == 0, err
    assert hub.requests == []
    folder = prepared(finished_copy)
    for path in folder.iterdir():
        assert f"│ {path.name} " in out
        assert f"{path.stat().st_size:,}" in out
    assert "nothing was sent" in err
    assert "(private)" in err
    monkeypatch.setattr(push_module, "export_chain", raising(AssertionError("exported again")))
    code, _, err = pushed("02")
    assert code == 0, err
    assert hub.repositories[NAME].files.keys() == {path.name for path in folder.iterdir()}


def test_a_push_is_private_and_complete_and_again_sends_nothing(
    pushed: Run, finished_copy: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    code, _, err = pushed("02")
    assert code == 0, err
    assert f"private: {hub.url}/{NAME} (commit {COMMIT[:12]})" in err
    repository = hub.repositories[NAME]
    assert repository.private
    assert {"adapter_model.safetensors", "adapter_config.json", "compose_report.json"} <= repository.files.keys()
    assert {"README.md", "README.ko.md", "NOTICE", "SERVING.md", "tokenizer.json"} <= repository.files.keys()
    for name, content in repository.contents.items():
        assert str(finished_copy).encode() not in content, name
        assert b"finished-text" not in content, name  # of the directory that it was trained in
    header = yaml.safe_load(repository.contents["README.md"].decode().split("---\n")[1])
    assert header["base_model_relation"] == "adapter"
    manifest = PushManifest.read(prepared(finished_copy).with_name("02-adapter.json"))
    assert [(sent.repository, sent.commit, sent.public) for sent in manifest.sent] == [(NAME, COMMIT, False)]
    monkeypatch.setattr(push_module, "export_chain", raising(AssertionError("exported again")))
    code, _, err = pushed("02")
    assert code == 0, err
    assert repository.commits == 1
    assert set(hub.uploads.values()) == {1}


def test_a_step_before_the_merge_is_its_own_adapter(pushed: Run, finished_copy: Path, hub: Hub) -> None:
    code, _, err = pushed("01")
    assert code == 0, err
    folder = prepared(finished_copy, "01")
    trained = finished_copy / "model" / "01_trained" / "tiny"
    weights = "adapter_model.safetensors"
    assert (folder / weights).read_bytes() == (trained / weights).read_bytes()
    config = json.loads(hub.repositories[NAME].contents["adapter_config.json"])
    assert config["base_model_name_or_path"] == "tiny"
    card = hub.repositories[NAME].contents["README.md"].decode()
    assert "# tiny-korean-medical-01" in card
    assert "| 01 | letters" in card
    assert "| 02 | letters" not in card


def test_merged_weights(pushed: Run, hub: Hub) -> None:
    code, _, err = pushed("00", "--format", "vllm")
    assert code == 0, err
    assert {"model.safetensors", "config.json", "merge_report.json", "SERVING.md"} <= hub.repositories[
        NAME
    ].files.keys()
    assert "vllm serve" in hub.repositories[NAME].contents["SERVING.md"].decode()


def test_an_interrupted_push_resumes(pushed: Run, hub: Hub) -> None:
    hub.faults = [Fault("PUT", "/lfs/objects/", 403, skip=1)]
    code, _, err = pushed("02")
    assert code == 2
    assert f"this account may not write to {NAME} (403)" in err
    assert "Traceback" not in err
    assert hub.repositories[NAME].files == {}
    code, _, err = pushed("02")
    assert code == 0, err
    assert set(hub.uploads.values()) == {1}


def test_a_process_of_its_own_finds_the_hub_by_its_environment(finished_copy: Path, hub: Hub) -> None:
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1"}
    command = ["push", "00", "--to", NAME, "--model", "tiny", "--workspace", str(finished_copy), "--device", "cpu"]
    done = subprocess.run(
        [sys.executable, "-m", "lorachain", *command], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert hub.repositories[NAME].private
    assert "%|" not in done.stderr  # no library's progress bar
    assert TOKEN not in done.stdout + done.stderr


def edit_gates(root: Path, outcome: Any) -> None:
    """The gate of step 02's exam failed."""
    path = root / "model" / "ledger" / "tiny" / "ledger.json"
    stored = Ledger.read(path).as_dict()
    gate = {
        **{"measure": "exam_letters", "against": "base", "tolerated": 2.0, "unit": "points", "loss": 9.0},
        **{"p_holm": 0.01, "on_fail": "stop", "outcome": outcome, "summary": "9 points lost, 2 tolerated"},
    }
    for step in stored["steps"]:
        if step["name"] == "02":
            step["gates"] = [gate]
    Ledger.parse(stored).write(path)


@pytest.mark.parametrize("outcome", ["failed", "accepted"])
def test_a_step_that_a_gate_stopped_is_refused_unless_told(
    pushed: Run, finished_copy: Path, hub: Hub, outcome: str
) -> None:
    edit_gates(finished_copy, outcome)
    code, _, err = pushed("02")
    assert code == 3
    assert "step 02 is not pushed: a gate stopped it: 9 points lost, 2 tolerated" in err
    assert hub.requests == []
    code, _, err = pushed("02", "--accept-harm")
    assert code == 0, err
    assert "warning: step 02 lost more than its gates tolerate: 9 points lost" in err


def test_a_step_that_is_not_published_is_refused(pushed: Run, finished_copy: Path, hub: Hub) -> None:
    kept = finished_copy / "model" / "02_training" / "tiny" / "unpublished"
    shutil.move(finished_copy / "model" / "02_trained" / "tiny", kept)
    code, _, err = pushed("02", "--accept-harm")
    assert code == 3
    assert "step 02 was stopped by a gate and is not published" in err
    assert "--accept-harm" in err
    assert hub.requests == []


def test_a_chain_that_does_not_match_its_files_is_refused_unless_told(
    pushed: Run, finished_copy: Path, hub: Hub
) -> None:
    adapter = finished_copy / "model" / "00_trained" / "tiny" / "adapter_model.safetensors"
    tensors = load_file(adapter)
    name = sorted(tensors)[0]
    save_file({**tensors, name: tensors[name] + 1}, adapter, metadata={"format": "pt"})
    code, _, err = pushed("02")
    assert code == 2
    assert "00_trained" in err
    assert "Not pushed; --accept-unverified pushes it all the same" in err
    assert not hub.repositories
    code, _, err = pushed("02", "--accept-unverified")
    assert code == 0, err
    assert "warning: not verified: " in err


def test_what_was_prepared_and_edited_is_exported_again(pushed: Run, finished_copy: Path, hub: Hub) -> None:
    assert pushed("02", "--dry-run")[0] == 0
    weights = prepared(finished_copy) / "adapter_model.safetensors"
    good = weights.read_bytes()
    weights.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    assert pushed("02")[0] == 0
    assert good in hub.objects.values()
    assert weights.read_bytes() == good
    assert len([content for content in hub.objects.values() if len(content) == len(good)]) == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("03",), ("unknown stage '03'", "allowed: 00, 01, 02")),
        (("02", "--format", "onnx"), ("--format is 'onnx'", "hf, adapter, gguf, ollama, vllm")),
        (("02", "--to", "nobody"), ("--to is 'nobody'", "OWNER/NAME")),
        (("02", "--results", "missing.json"), ("missing.json cannot be read",)),
    ],
)
def test_bad_input_is_one_message(
    finished_chain: Callable[..., FinishedChain], lorachain: Run, hub: Hub, arguments: tuple[str, ...], says: Any
) -> None:
    target = () if "--to" in arguments else ("--to", NAME)
    code, _, err = lorachain("push", *arguments, *target, "--model", "tiny", "--workspace", finished_chain().root)
    assert code == 2
    assert "Traceback" not in err
    for text in says:
        assert text in err
    assert hub.requests == []


def test_an_unfinished_chain(started: Path, lorachain: Run, hub: Hub) -> None:
    code, _, err = lorachain("push", "02", "--to", NAME, "--model", "tiny", "--workspace", started)
    assert code == 2
    assert "finish the chain with: lorachain run" in err
    assert hub.requests == []
