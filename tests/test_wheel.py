"""The wheel alone, without the checkout: the command starts, and finds its data files."""

import json
import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest

from lorachain import __version__

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the unpacked wheel; the sources are copied, because a build writes beside them."""
    try:
        if int(version("setuptools").split(".")[0]) < 77:
            pytest.skip("building the wheel offline needs setuptools 77 or later")
    except PackageNotFoundError:
        pytest.skip("building the wheel offline needs setuptools")
    place = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "-q"]
    source = place / "source"
    files = subprocess.run(["git", "-C", ROOT, "ls-files", "-z"], capture_output=True, check=True).stdout
    for name in filter(None, files.decode().split("\0")):
        path = ROOT / name
        if path.is_file() and not path.is_symlink():
            target = source / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    wheel: list[str | Path] = [*pip, "wheel", source, "--no-deps", "--no-build-isolation", "-w", place]
    subprocess.run(wheel, check=True, capture_output=True)
    (built,) = place.glob("lorachain-*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", place / "site", built], check=True, capture_output=True)
    return place / "site"


def run_installed(installed: Path, empty: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "lorachain", *arguments],
        cwd=empty,
        env={**os.environ, "PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_it_starts_from_an_empty_directory(installed: Path, tmp_path: Path) -> None:
    done = run_installed(installed, tmp_path, "--version")
    assert (done.returncode, done.stdout) == (0, f"lorachain {__version__}\n")


def test_samples_defaults_and_examples_are_in_it(installed: Path, tmp_path: Path) -> None:
    done = run_installed(installed, tmp_path, "run", "--dry-run", "--config", "quick_look")
    assert done.returncode == 0, done.stderr
    planned = json.loads(done.stdout)
    assert len(planned["plan"]) == 6
    assert planned["configuration"]["stages"]["01"]["forms"] == 0
    assert {source["name"] for source in planned["sources"]} == {"sample", "sample:quick-look"}
    assert all(source["records"] > 50 for source in planned["sources"])
    assert list(tmp_path.iterdir()) == []


def test_the_templates_of_the_report_are_in_it(installed: Path, tmp_path: Path) -> None:
    done = run_installed(installed, tmp_path, "report")
    assert done.returncode == 0, done.stderr
    assert "color-scheme: light dark" in (tmp_path / "report.html").read_text(encoding="utf-8")
