"""merge, verify, compose, export, eval, compare, history and make-exam, as a user types them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from chain_making import FinishedChain

Run = Callable[..., tuple[int, str, str]]
Finished = Callable[..., FinishedChain]


def test_verify_names_the_first_stage_that_does_not_match(finished_copy: Path, lorachain: Run) -> None:
    adapter = finished_copy / "model" / "01_trained" / "tiny" / "adapter_model.safetensors"
    tensors = load_file(adapter)
    name = sorted(tensors)[0]
    tensors[name] = tensors[name] + 1
    save_file(tensors, adapter, metadata={"format": "pt"})
    code, _, err = lorachain("verify", "--model", "tiny", "--workspace", finished_copy)
    assert code == 2
    assert "01_trained" in err
    assert "Traceback" not in err


def test_merge_verifies_what_it_wrote(finished_chain: Finished, lorachain: Run, tmp_path: Path) -> None:
    chain = finished_chain("text")
    out = tmp_path / "merged"
    adapter = chain.model / "01_trained" / "tiny"
    code, screen, err = lorachain("merge", adapter, "--into", chain.base, "--out", out, "--device", "cpu")
    assert code == 0, err
    assert "updates lost to rounding" in screen
    report = json.loads((out / "merge_report.json").read_text())
    # The base is bf16: rounding may decide a near tie of a random model, no more.
    assert report["probe"]["letter_agreement"] >= 0.8
    assert 0 <= report["probe"]["mean_kl"] < 0.05
    assert report["totals"]["max_error_half_ulps"] <= 1.001
    code, _, err = lorachain("verify", out)
    assert code == 0, err
    # The merge of the chain gives the same weights.
    of_chain = load_file(chain.model / "01_another_lora_added" / "tiny" / "base" / "model.safetensors")
    of_command = load_file(out / "model.safetensors")
    assert of_chain.keys() == of_command.keys()
    assert all((of_chain[name] == of_command[name]).all() for name in of_chain)


def test_merge_into_another_base_writes_nothing(
    finished_chain: Finished, lorachain: Run, save_tiny: Callable[..., Path], tmp_path: Path
) -> None:
    adapter = finished_chain("text").model / "01_trained" / "tiny"
    out = tmp_path / "merged"
    code, _, err = lorachain("merge", adapter, "--into", save_tiny("text", seed=7), "--out", out, "--device", "cpu")
    assert code == 2
    assert "trained on a base with the hash" in err
    assert not out.exists()


@pytest.mark.parametrize("rank", [None, 3])
def test_compose_is_the_chain_as_one_adapter(
    finished_chain: Finished, lorachain: Run, tmp_path: Path, rank: int | None
) -> None:
    chain = finished_chain("text")
    out = tmp_path / "composed"
    options = () if rank is None else ("--rank", rank)
    code, screen, err = lorachain(
        "compose", "--model", "tiny", "--workspace", chain.root, "--out", out, "--device", "cpu", *options
    )
    assert code == 0, err
    assert "rounding of the merged base" in screen
    probe = json.loads((out / "compose_report.json").read_text())["probe"]
    assert probe["in_dtype"]["rows"] == probe["rounding_of_merged_base"]["rows"] > 0
    assert (out / "README.md").is_file()
    tensors = load_file(out / "adapter_model.safetensors")
    assert {t.shape[0] for name, t in tensors.items() if "lora_A" in name} == {rank or 8}
    if rank is None:
        assert probe["rounding_of_merged_base"]["mean_kl"] < 1e-3
    # Its configuration names the base by the short name, which the workspace knows.
    common = ("--model", "tiny", "--workspace", chain.root, "--exam", "sample", "--device", "cpu", "--limit", 3)
    code, _, err = lorachain("eval", out, *common, "--out", tmp_path / "composed.json")
    assert code == 0, err


def test_the_merged_export_loads_and_is_comparable_with_the_chain(
    finished_chain: Finished, lorachain: Run, tmp_path: Path
) -> None:
    chain = finished_chain("text")
    out = tmp_path / "exported"
    command = ("export", "--format", "hf", "--model", "tiny", "--workspace", chain.root, "--out", out)
    code, screen, err = lorachain(*command, "--device", "cpu")
    assert code == 0, err
    assert "merged against base + adapter: 24 probe rows" in " ".join(screen.split())
    assert json.loads((out / "merge_report.json").read_text())["probe"]["rows"] == 24
    assert lorachain("verify", out)[0] == 0
    card = (out / "README.md").read_text(encoding="utf-8")
    assert "not" in card
    assert "wilson" in card.lower() or "%" in card
    common = ("--model", "tiny", "--workspace", chain.root, "--exam", "sample", "--limit", 8, "--device", "cpu")
    assert lorachain("eval", "02", *common, "--protocol", "options", "--out", tmp_path / "a.json")[0] == 0
    assert lorachain("eval", out, *common, "--protocol", "options", "--out", tmp_path / "b.json")[0] == 0
    code, screen, err = lorachain("compare", tmp_path / "a.json", tmp_path / "b.json")
    assert code == 0, err
    assert "McNemar" in screen


def test_eval_and_compare_refuse_other_questions_and_what_is_not_a_model(
    finished_chain: Finished, lorachain: Run, tmp_path: Path
) -> None:
    common = ("--model", "tiny", "--workspace", finished_chain("text").root, "--exam", "sample", "--device", "cpu")
    assert lorachain("eval", "base", *common, "--limit", 5, "--out", tmp_path / "a.json")[0] == 0
    assert lorachain("eval", "base", *common, "--limit", 10, "--out", tmp_path / "b.json")[0] == 0
    result = json.loads((tmp_path / "a.json").read_text())
    assert (result["protocol"], result["split"], result["score"]["n"]) == ("letters", "dev", 5)
    assert len(result["score"]["wilson95"]) == 2
    code, _, err = lorachain("compare", tmp_path / "a.json", tmp_path / "b.json")
    assert code == 2
    assert "questions" in err
    code, _, err = lorachain("eval", "nowhere", *common, "--out", tmp_path / "c.json")
    assert code == 2
    assert "'nowhere' is not a model that can be scored; allowed: base, a stage of the chain" in err
    code, _, err = lorachain("eval", "base", *common, "--split", "test", "--out", tmp_path / "c.json")
    assert code == 2


def test_history_lists_the_lineage_with_every_score(finished_chain: Finished, lorachain: Run) -> None:
    code, out, err = lorachain("history", "02", "--model", "tiny", "--workspace", finished_chain("text").root)
    assert code == 0, err
    assert out.count("before: letters/1") == 3
    assert out.count(" epoch ") == 5
    assert out.count(" n=10 (dev)") == 2 * 8  # by both protocols
    assert "perplexity" in out
    assert "exact match" in out
    assert "sample (" in out


def test_make_exam_writes_both_splits(lorachain: Run, tmp_path: Path) -> None:
    code, _, err = lorachain("make-exam", "--dictionary", "sample", "--out", tmp_path / "probe", "--limit", 30)
    assert code == 0, err
    folder = tmp_path / "probe" / "dictionary"
    counts = [len((folder / f"{split}.jsonl").read_text(encoding="utf-8").splitlines()) for split in ("train", "dev")]
    assert sum(counts) == 30


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--two-hop", "--subject", "wards"), "--subject has no effect with --two-hop"),
        (("--written", "8"), "--written has no effect without --two-hop"),
        (("--two-hop", "--limit", "0"), "limit: 0 entries"),
    ],
)
def test_make_exam_refuses_options_without_effect(
    lorachain: Run, tmp_path: Path, options: tuple[str, ...], message: str
) -> None:
    code, _, err = lorachain("make-exam", "--dictionary", "sample", "--out", tmp_path / "probe", *options)
    assert code == 2
    assert message in err
    assert not (tmp_path / "probe").exists()
