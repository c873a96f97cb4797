"""Checks of the machine: versions, device and driver, memory and disk."""

import os
import platform
import shutil
import subprocess
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import psutil
import torch
from packaging.requirements import Requirement

from lorachain.artifacts import Check
from lorachain.config import ChainConfig
from lorachain.doctor.findings import failure, gigabytes, ok, warning
from lorachain.fit.disk import free_disk
from lorachain.redaction import printable, without_secrets
from lorachain.version import __version__
from lorachain.weights.load import resolve_device

_SHOWN_PACKAGES = ("torch", "transformers", "peft")
_BF16_CAPABILITY = (8, 0)
"""The first NVIDIA GPUs that compute in bf16 (Ampere)."""


def check_versions() -> Iterator[Check]:
    """Every package that lorachain requires, against the versions that it was written for."""
    wrong = []
    for line in _requirements():
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            installed = version(requirement.name)
        except PackageNotFoundError:
            wrong.append(f"{requirement.name} is missing")
            continue
        if not requirement.specifier.contains(installed, prereleases=True):
            wrong.append(f"{requirement.name} is {installed}, needed: {requirement.specifier}")
    if wrong:
        yield failure("versions", "; ".join(wrong), "pip install -c constraints.txt '.[embedded]'")
        return
    shown = ", ".join(f"{name} {version(name)}" for name in _SHOWN_PACKAGES)
    yield ok("versions", f"lorachain {__version__}, Python {platform.python_version()}, {shown}")


def _requirements() -> list[str]:
    try:
        return requires("lorachain") or []
    except PackageNotFoundError:  # run from a checkout that is not installed
        return []


def check_device(config: ChainConfig) -> Iterator[Check]:
    """The device that the settings name.

    Raises:
        DeviceError: the machine does not have it.
    """
    device = resolve_device(config.device)
    driver = nvidia_driver()
    if device.type != "cuda":
        memory = psutil.virtual_memory()
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        yield ok(
            "device",
            f"{device}: {cores} cores, {gigabytes(memory.total)} of memory, {gigabytes(memory.available)} available",
        )
        if driver is not None and config.device == "auto":
            yield warning(
                "GPU",
                f"there is an NVIDIA driver ({driver}), but PyTorch {torch.__version__} sees no GPU",
                "install the CUDA build of PyTorch (https://pytorch.org/get-started), and check CUDA_VISIBLE_DEVICES",
            )
        return
    properties = torch.cuda.get_device_properties(device)
    free, total = torch.cuda.mem_get_info(device)
    yield ok(
        "device",
        f"{device}: {properties.name}, {gigabytes(total)}, {gigabytes(free)} free, driver {driver or 'unknown'}, CUDA "
        f"{torch.version.cuda}",
    )
    if torch.cuda.get_device_capability(device) < _BF16_CAPABILITY:
        yield warning(
            "GPU",
            f"{properties.name} does not compute in bf16, so that PyTorch emulates it slowly",
            'set dtype = "float32" in a --config file; float16 overflows in Gemma 3',
        )
    if free < 0.9 * total:
        yield warning(
            "GPU memory",
            f"{gigabytes(total - free)} of {gigabytes(total)} are in use by other processes",
            "end them (nvidia-smi lists them), or name another device with --device cuda:N",
        )


def nvidia_driver() -> str | None:
    """The version of the NVIDIA driver; None where there is none."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    query = [program, "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(
            query, capture_output=True, text=True, timeout=20, env=without_secrets(os.environ), check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = done.stdout.split()
    return printable(lines[0][:40]) if done.returncode == 0 and lines else None


def check_disk(place: Path, needed: int, what: str) -> Iterator[Check]:
    """Free space where the workspace is or will be, against `needed` bytes for `what`."""
    free = free_disk(place)
    message = f"{gigabytes(free)} free for {place.absolute()}, a chain writes about {gigabytes(needed)}: {what}"
    if free < needed:
        yield failure("disk", message, "free some space, or name a directory on a larger disk with --workspace")
    else:
        yield ok("disk", message)
