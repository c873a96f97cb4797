"""docs/python.md runs as it is printed; the package is imported lazily."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import lorachain
from chain_making import SMALL, make_workspace

PAGE = Path(__file__).parent.parent / "docs" / "python.md"


def test_the_page_runs(tmp_path: Path, save_tiny: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """On the tiny model under the name of the default one."""
    root = make_workspace(tmp_path / "workspace", save_tiny("text"))
    paths = root / "model" / "raw" / "model_paths.json"
    paths.write_text(paths.read_text().replace('"tiny"', '"gemma-3-270m"'))
    (tmp_path / "examples").mkdir()
    (tmp_path / "examples" / "quick_look.toml").write_text(SMALL)
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) >= 5
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, str(PAGE), "exec"), names)
    assert {state.condition for state in names["states"]} == {"fresh", "off"}  # type: ignore[attr-defined]
    for written in ("base.json", "02.json", "merged/merge_report.json", "one-adapter/compose_report.json"):
        assert (tmp_path / written).is_file()
    assert (tmp_path / "exported" / "README.md").is_file()


def test_importing_the_package_loads_no_torch() -> None:
    program = "import sys, lorachain; assert lorachain.LorachainError; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


@pytest.mark.parametrize("name", lorachain.__all__)
def test_every_public_name_exists(name: str) -> None:
    assert getattr(lorachain, name) is not None
    assert name in dir(lorachain)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        lorachain.nothing  # noqa: B018
