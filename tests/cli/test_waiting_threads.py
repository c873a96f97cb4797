"""How OpenMP's threads wait, which torch reads when it is imported."""

import os
import subprocess
import sys

import pytest

PROGRAM = """
import os, sys
from lorachain.cli import main
assert "torch" not in sys.modules
try:
    main(["--version"])
except SystemExit:
    pass
print("policy", os.environ["OMP_WAIT_POLICY"], "torch" in sys.modules)
"""


@pytest.mark.parametrize(("given", "used"), [(None, "passive"), ("active", "active")])
def test_threads_wait_passively_unless_the_user_says_otherwise(given: str | None, used: str) -> None:
    environment = {key: value for key, value in os.environ.items() if key != "OMP_WAIT_POLICY"}
    environment |= {"OMP_WAIT_POLICY": given} if given else {}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == f"policy {used} False"
