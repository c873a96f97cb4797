"""The machine and the hub: real programs and a real local server in place of theirs."""

import os
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import pytest

from engine_making import Handler, serving
from lorachain.artifacts import Check
from lorachain.chain.context import load_config
from lorachain.doctor import machine
from lorachain.doctor.findings import guarded
from lorachain.doctor.hub import check_hub
from lorachain.doctor.machine import check_device, check_disk, check_versions, nvidia_driver
from lorachain.errors import DeviceError


def states(checks: Iterator[Check]) -> list[tuple[str, str]]:
    return [(check.name, check.state) for check in checks]


def test_versions_are_those_that_the_package_requires(monkeypatch: pytest.MonkeyPatch) -> None:
    assert states(check_versions()) == [("versions", "ok")]
    monkeypatch.setattr(machine, "_requirements", lambda: ["torch<1", "no-such-package", 'rich<1; extra == "dev"'])
    (check,) = check_versions()
    assert check.state == "failure"
    assert "torch is" in check.message
    assert "needed: <1; no-such-package is missing" in check.message
    assert "rich" not in check.message


def fake_nvidia_smi(folder: Path, script: str) -> None:
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
    program.chmod(0o755)


def test_a_driver_whose_gpu_pytorch_does_not_see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    monkeypatch.setattr("torch.backends.mps.is_available", lambda: False)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    fake_nvidia_smi(tmp_path, "echo 570.86.15; echo 570.86.15")
    assert nvidia_driver() == "570.86.15"
    found = list(check_device(load_config()))
    assert states(iter(found)) == [("device", "ok"), ("GPU", "warning")]
    assert "570.86.15" in found[1].message
    assert found[1].fix is not None
    assert states(check_device(load_config(overrides=[{"device": "cpu"}]))) == [("device", "ok")]
    fake_nvidia_smi(tmp_path, "exit 9")
    assert nvidia_driver() is None


def test_a_device_that_is_not_there_is_a_failure() -> None:
    config = load_config(overrides=[{"device": "cuda:99"}])
    with pytest.raises(DeviceError):
        list(check_device(config))
    (check,) = guarded("device", lambda: check_device(config))
    assert isinstance(check, Check)
    assert (check.state, check.fix) == ("failure", None)
    assert "'cuda:99' is not available; allowed: auto, cpu" in check.message


def test_disk(tmp_path: Path) -> None:
    place = tmp_path / "not" / "there" / "yet"
    assert states(check_disk(place, 1, "one byte")) == [("disk", "ok")]
    (check,) = check_disk(place, 10**18, "too much")
    assert check.state == "failure"
    assert f"free for {place}" in check.message
    assert not place.exists()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A hub that answers questions about access: google/gated is gated, owner/free is not, others are not there."""

    class Hub(Handler):
        def do_GET(self) -> None:  # noqa: N802 - the name that http.server calls
            if "google/gated" in self.path:
                self.answer(403, {"error": "gated"}, {"X-Error-Code": "GatedRepo", "X-Error-Message": "gated"})
            elif "owner/free" in self.path:
                self.answer(200, {})
            else:
                self.answer(404, {"error": "no"}, {"X-Error-Code": "RepoNotFound"})

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    with serving(Hub) as url:
        yield url.removesuffix("/v1")


@pytest.mark.parametrize(
    ("repository", "cached", "state", "says"),
    [
        ("owner/free", False, "ok", "owner/free can be downloaded"),
        ("google/gated", False, "failure", "google/gated is gated"),
        ("google/gated", True, "warning", "the weights are in the local cache"),
        ("owner/nothing", False, "failure", "is not on the hub, or private"),
    ],
)
def test_access_to_the_hub(hub: str, repository: str, cached: bool, state: str, says: str) -> None:
    (check,) = check_hub(repository, cached=cached, endpoint=hub)
    assert check.state == state
    assert says in check.message


def test_no_hub(monkeypatch: pytest.MonkeyPatch, hub: str) -> None:
    (unreachable,) = check_hub("owner/free", cached=False, endpoint="http://127.0.0.1:9")
    assert unreachable.state == "failure"
    assert "cannot be reached" in unreachable.message
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert states(check_hub("owner/free", cached=True)) == [("hub", "ok")]
    assert states(check_hub("owner/free", cached=False)) == [("hub", "failure")]
