"""`lorachain eval --engine openai` against a server on loopback: its result, its resumption, and what it refuses."""

from collections.abc import Callable
from pathlib import Path

import pytest

from chain_making import FinishedChain
from engine_making import MODEL, faulty_proxy, tiny_server
from lorachain.artifacts.evaluation import EvalResult
from refusals import refused

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def common(finished_chain: Callable[..., FinishedChain]) -> tuple[object, ...]:
    root = finished_chain("text").root
    return (
        *("--model", "tiny", "--workspace", root, "--exam", "sample", "--device", "cpu", "--limit", 6),
        *("--protocol", "reasoning", "--max-new-tokens", 6),
    )


def test_a_server_is_scored_and_named_in_the_result(lorachain: Run, common: tuple[object, ...], tmp_path: Path) -> None:
    """Through a proxy that cuts, delays and refuses answers, with the same result as without."""
    results = []
    with (
        tiny_server() as (url, received),
        faulty_proxy(url, {0: "429", 2: "cut", 3: "500", 5: "page"}) as (proxy, done),
    ):
        for name, address in (("a", url), ("b", proxy)):
            arguments = ("--engine", "openai", "--base-url", address, "--out", tmp_path / f"{name}.json")
            code, _, err = lorachain("eval", MODEL, *common, *arguments)
            assert code == 0, err
            results.append(EvalResult.read(tmp_path / f"{name}.json"))
    assert done.total() == 6 + 4
    assert len(received) >= 12
    assert results[0].model.as_dict() == {
        "name": MODEL, "base_sha256": None, "adapter_sha256": None, "quantization": "unknown",
        "engine": "openai tests 1.2.3",
    }  # fmt: skip
    assert (results[0].score, results[0].rows.sha256) == (results[1].score, results[1].rows.sha256)
    code, _, err = lorachain("eval", "base", *common, "--out", tmp_path / "c.json")
    assert code == 0, err
    code, _, err = lorachain("compare", tmp_path / "a.json", tmp_path / "c.json")
    assert code == 2
    assert "differ in engine: openai tests 1.2.3 and local" in " ".join(err.split())


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--engine", "openai"), "--engine openai needs --base-url"),
        (("--engine", "best"), "--engine is 'best'; allowed: local, openai, vllm"),
        (("--base-url", "http://localhost:1"), "--base-url belongs to --engine openai, but --engine is local"),
        (("--engine", "openai", "--base-url", "http://127.0.0.1:9"), "http://127.0.0.1:9/v1 cannot be reached"),
        (("--engine", "openai", "--base-url", "http://me:secret@localhost:1"), "contains a user name or password"),
        (("--engine", "vllm"), "pip install 'lorachain[vllm]'"),
        (
            ("--engine", "openai", "--base-url", "http://127.0.0.1:9", "--protocol", "letters"),
            "for --protocol reasoning",
        ),
    ],
)
def test_what_is_refused(tmp_path: Path, common: tuple[object, ...], arguments: tuple[object, ...], says: str) -> None:
    out = tmp_path / "r.json"
    settings = common[:-2] if "letters" in arguments else common  # letters has no --max-new-tokens
    refused(tmp_path, "eval", "base", *settings, *arguments, "--out", out, says=(says,))
    assert not out.exists()
