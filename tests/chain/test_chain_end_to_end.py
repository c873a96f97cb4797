"""The whole chain on tiny models of both classes, as a user runs it."""

import json
from collections.abc import Callable

import pytest
from safetensors.torch import load_file

from chain_making import FinishedChain

Run = Callable[..., tuple[int, str, str]]


@pytest.mark.parametrize("kind", ["text", "multimodal"])
def test_run_creates_the_whole_tree(finished_chain: Callable[..., FinishedChain], lorachain: Run, kind: str) -> None:
    chain = finished_chain(kind)
    assert "what each stage changed" in chain.out
    model = chain.model
    for folder in ("raw_lora_added", "00_trained", "01_trained", "01_another_lora_added", "02_trained"):
        for name in ("adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "training_info.json"):
            assert (model / folder / "tiny" / name).is_file(), f"{folder}/{name}"
    for stage in ("00", "01", "02"):
        assert (model / f"{stage}_training" / f"train_{stage}_debug.log").stat().st_size > 0
        assert list((model / f"{stage}_training" / "tiny").glob("checkpoint-*"))
    assert (model / "01_another_lora_added" / "tiny" / "base" / "merge_report.json").is_file()

    history = json.loads((model / "02_trained" / "tiny" / "kormedmcqa_validation_results.json").read_text())
    assert history["schema_version"] == 2
    assert [(score["stage"], score["epoch"]) for score in history["results"]] == [
        *[("00", 0), ("00", 1)], *[("01", 0), ("01", 1), ("01", 2)], *[("02", 0), ("02", 1), ("02", 2)],
    ]  # fmt: skip
    for score in history["results"]:
        for result in score["result"]["protocols"].values():
            assert {"n", "correct", "accuracy", "wilson95", "split", "protocol", "protocol_version"} <= result.keys()
            assert result["split"] == "dev"

    untrained = load_file(model / "raw_lora_added" / "tiny" / "adapter_model.safetensors")
    trained = load_file(model / "00_trained" / "tiny" / "adapter_model.safetensors")
    assert untrained.keys() == trained.keys()
    assert not any(name for name in trained if "vision" in name)
    assert all((trained[name] != untrained[name]).any() for name in trained)

    code, out, err = lorachain("run", *chain.options)
    assert code == 0
    assert err.count("skipped") == 5
    code, out, err = lorachain("status", *chain.options)
    assert code == 0
    assert out.count("fresh") == 5
