"""A workspace of lorachain 0.1.0, whose files have schema version 1: its state is shown, and new stages build on it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chain_making import options_of, run_command_line, unmeasured
from refusals import listing, refused

Run = Callable[..., tuple[int, str, str]]


def renamed(value: Any, names: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {names.get(key, key): renamed(item, names) for key, item in value.items()}
    return [renamed(item, names) for item in value] if isinstance(value, list) else value


def scores_as_version_1(value: Any) -> Any:
    """Scores and comparisons at any depth."""
    if isinstance(value, list):
        return [scores_as_version_1(item) for item in value]
    if not isinstance(value, dict):
        return value
    score = {key: scores_as_version_1(item) for key, item in value.items()}
    if "protocol_version" in score:
        score["version"] = int(score.pop("protocol_version"))
        score["words"] = score.pop("summary").replace("not significantly different from", "cannot be told from")
    if "data_sha256" in score:
        score["schema_version"] = 1
        del score["prompt_version"]
    return score


def measures_as_version_1(measures: dict[str, Any]) -> dict[str, Any]:
    old: dict[str, Any] = {}
    if perplexity := measures.get("heldout_perplexity"):
        old["heldout_perplexity"] = {
            "perplexity": perplexity["value"], "tokens": perplexity["n"], **perplexity["detail"],
        }  # fmt: skip
    if match := measures.get("exact_match"):
        old["recall"] = {
            "protocol": "recall", "version": 1, "split": match["split"], "n": match["n"],
            "exact_match": match["value"], "wilson95": match["wilson95"], **match["detail"],
        }  # fmt: skip
    return old


def training_info_as_version_1(info: dict[str, Any]) -> dict[str, Any]:
    kind = info.pop("kind")
    if kind == "merge":
        info |= {"stage": "01_merge", "quantised_base": info.pop("quantized_base")}
        del info["depends_on"]["parent"]["base_sha256"]
    if kind == "training":
        del info["depends_on"]["normalization"], info["depends_on"]["prompt_version"]
        measures = info.pop("measures")
        info = scores_as_version_1(info)
        info["measures"] = {side: measures_as_version_1(measures[side]) for side in measures}
        for validation in (info["depends_on"]["settings"]["validation"], info["configuration"]["validation"]):
            validation["recall_entries"] = validation.pop("exact_match_entries")
    return info | {"schema_version": 1}


def as_version_1(path: Path) -> None:
    """Rewrites a JSON file of the chain as lorachain 0.1.0 wrote it."""
    value = json.loads(path.read_text(encoding="utf-8"))
    if path.name == "training_info.json":
        value = training_info_as_version_1(value)
    elif path.name == "merge_report.json":
        old_names = {
            "lost_to_rounding": "swallowed", "lost_to_rounding_share": "swallowed_share",
            "dequantized": "dequantised", "quantized_base": "quantised_base",
        }  # fmt: skip
        value = renamed(value, old_names)
        del value["schema_version"]
        value = {"schema": "lorachain/merge-report", "version": 1, **value}
    elif path.name == "run.json":
        before = value.pop("before")
        value = scores_as_version_1(value) | {"before": before and measures_as_version_1(before)}
        del value["schema_version"]
    else:
        value = scores_as_version_1(value) | {"schema_version": 1}
    path.write_text(json.dumps(value, ensure_ascii=False, indent=2), encoding="utf-8")


NAMES = ("training_info.json", "merge_report.json", "run.json", "kormedmcqa_validation_results.json")


@pytest.fixture
def old(finished_copy: Path) -> Path:
    """A finished workspace with every JSON file in schema version 1."""
    paths = [path for path in (finished_copy / "model").rglob("*.json") if path.name in NAMES]
    assert len(paths) == 5 + 4 + 1 + 3
    for path in paths:
        as_version_1(path)
    return finished_copy


@pytest.mark.parametrize("command", ["status", "history", "verify"])
def test_it_is_shown_as_before(finished_copy: Path, old: Path, lorachain: Run, command: str) -> None:
    """`old` is `finished_copy`, rewritten: the outputs are those of the same chain in the current version."""
    options = ("--model", "tiny", "--workspace", old)
    code, out, err = lorachain(command, *options)
    assert code == 0, err
    if command == "status":
        assert out.count("fresh") == 5
        assert out.count(" n=10 ") == 3
    if command == "history":
        assert out.count("before: letters/1") == 3
        assert out.count("n=10 (dev)") == 2 * 8
        assert "held-out documents: perplexity " in out
        assert "trained entries: exact match " in out
        assert "cannot be told" not in out
    if command == "verify":
        assert err.count(" verified\n") == 5


def test_history_is_that_of_the_current_version(finished_copy: Path, lorachain: Run) -> None:
    command = ("history", "02", "--model", "tiny", "--workspace", finished_copy)
    code, out, err = lorachain(*command)
    # Version 1 measured neither new forms nor explanations.
    newer = ("new forms", "direct accuracy", "explained accuracy")
    lines = [line for line in out.splitlines(keepends=True) if not any(name in line for name in newer)]
    current = (code, "".join(lines), err)
    assert current[1] != out
    for path in (finished_copy / "model").rglob("*.json"):
        if path.name in NAMES:
            as_version_1(path)
    assert lorachain(*command) == current
    assert current[0] == 0


def test_a_run_says_what_would_be_replaced_and_why(old: Path) -> None:
    """Version 1 read texts as they are: its stages are complete, but not what the same command would train now."""
    message = refused(old, "run", *options_of(old), says=("text normalization was 0, is ", "--yes to replace it"))
    assert "00_trained" in message


def test_stages_of_other_prompts_are_stale(finished_copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lorachain.chain.state.PROMPT_VERSION", 9)
    says = ("prompt version was 1, is 9", "--yes to replace it")
    refused(finished_copy, "run", *options_of(finished_copy), says=says)


def test_a_stage_is_trained_on_parents_of_version_1(old: Path) -> None:
    adapter = old / "model" / "02_trained" / "tiny" / "adapter_model.safetensors"
    before = adapter.read_bytes()
    for path in adapter.parent.iterdir():
        path.unlink()
    adapter.parent.rmdir()
    others = listing(old / "model" / "01_another_lora_added")
    code, _, err = run_command_line("train", "02", *options_of(unmeasured(old)))
    assert code == 0, err
    assert "or of an older lorachain: it was moved to" in err
    assert "the stage starts from the beginning" in err
    assert adapter.read_bytes() == before
    assert listing(old / "model" / "01_another_lora_added") == others
    history = json.loads((adapter.parent / "kormedmcqa_validation_results.json").read_text())
    assert history["schema_version"] == 2
    assert len(history["results"]) == 8  # those of the parents are kept, in the current version
    assert "words" not in json.dumps(history)
