"""Energy that a device has used, where it tells: NVIDIA GPUs by their driver, CPUs by RAPL counters."""

import shutil
import subprocess
import time
from pathlib import Path

import torch

RAPL = Path("/sys/class/powercap")
_QUERY = ("--query-gpu=power.draw", "--format=csv,noheader,nounits")


class EnergyMeter:
    """Joules between `start` and `stop`; None where the device does not tell."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.joules: float | None = None
        self._started: tuple[float, float] | None = None

    def start(self) -> None:
        reading = self._read()
        self._started = None if reading is None else (time.monotonic(), reading)

    def stop(self) -> None:
        reading = self._read()
        if self._started is None or reading is None:
            return
        moment, before = self._started
        if self.device.type == "cuda":  # watts at both ends: their mean over the time
            self.joules = (before + reading) / 2 * (time.monotonic() - moment)
        elif reading >= before:  # a counter that wrapped says nothing
            self.joules = reading - before

    def _read(self) -> float | None:
        return gpu_watts(self.device.index or 0) if self.device.type == "cuda" else rapl_joules()


def energy_meter(device: torch.device) -> EnergyMeter:
    return EnergyMeter(device)


def rapl_joules(root: Path | None = None) -> float | None:
    """What all CPU packages have used since their counters began; None where no counter can be read."""
    counters = sorted((root or RAPL).glob("intel-rapl:[0-9]/energy_uj"))
    try:
        values = [int(counter.read_text()) for counter in counters]
    except (OSError, ValueError):
        return None
    return sum(values) / 1e6 if values else None


def gpu_watts(index: int) -> float | None:
    """What a GPU draws now; None where `nvidia-smi` does not say."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, "-i", str(index), *_QUERY], capture_output=True, text=True, timeout=20, check=False
        )
        return float(done.stdout.strip()) if done.returncode == 0 else None
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
