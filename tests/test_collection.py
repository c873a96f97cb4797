"""The garbage collector is paused and is afterwards as it was."""

import gc

import pytest

from lorachain.collection import collection_paused


def paused_until_an_error() -> None:
    with collection_paused():
        assert not gc.isenabled()
        raise KeyError


@pytest.mark.parametrize("enabled", [True, False])
def test_it_is_as_before(enabled: bool) -> None:
    before = gc.isenabled()
    try:
        (gc.enable if enabled else gc.disable)()
        with pytest.raises(KeyError):
            paused_until_an_error()
        assert gc.isenabled() is enabled
    finally:
        (gc.enable if before else gc.disable)()
