"""The whole chain on tiny models of both classes: what it writes, and that plain transformers and peft load it as
lorachain does (design, section 3, 3 and 4).

All tests of the multimodal chain are here, so that one process runs it.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from chain_making import FinishedChain
from lorachain.artifacts import Ledger
from lorachain.weights.load import load_model
from lorachain.weights.lora import load_adapter

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


@pytest.mark.parametrize("kind", ["text", "multimodal"])
def test_every_stage_of_the_chain_is_verified(
    finished_chain: Callable[..., FinishedChain], lorachain: Run, kind: str
) -> None:
    chain = finished_chain(kind)
    code, _, err = lorachain("verify", "--model", "tiny", "--workspace", chain.root)
    assert code == 0, err
    assert err.count(" verified\n") == 5
    merged = chain.model / "01_another_lora_added" / "tiny" / "base"
    assert str(chain.root.parent) not in (merged / "merge_report.json").read_text(encoding="utf-8")
    code, _, err = lorachain("verify", merged, "--workspace", chain.root)
    assert code == 0, err


# ---- the ledger ------------------------------------------------------------------------------------------------------

STEPS = ["base", "00", "01", "merge", "02"]
MEASURES = {
    *("plain_text", "korean", "english", "exam_letters", "exam_options"),
    *("dictionary_exam_letters", "dictionary_exam_options", "form_plain_text", "form_dictionary", "form_exam"),
    *("exact_match_definition_to_term", "exact_match_english_to_term", "exact_match_term_to_english"),
    *("kl_plain_text", "kl_dictionary", "kl_exam"),
}


@pytest.mark.parametrize("kind", ["text", "multimodal"])
def test_a_run_measures_every_step(finished_chain: Callable[..., FinishedChain], kind: str) -> None:
    ledger = Ledger.read(finished_chain(kind).model / "ledger" / "tiny" / "ledger.json")
    assert [step.name for step in ledger.steps] == STEPS
    assert [step.parent for step in ledger.steps] == [None, "base", "00", "01", "merge"]
    for step in ledger.steps:
        extra = {"intruder_dimensions"} if step.name in ("00", "01", "02") else set()
        assert {cell.measure for cell in step.cells} == MEASURES | extra
        for cell in step.cells:
            tested = cell.kind != "description" and step.name != "base"
            assert cell.against.keys() == ({"parent", "base"} if tested else set())
    assert ledger.noise.keys() == {measure for measure in MEASURES if not measure.startswith("kl_")}
    base, last = ledger.steps[0], ledger.steps[-1]
    for task in ("plain_text", "dictionary", "exam"):
        before, after = base.cell(f"kl_{task}"), last.cell(f"kl_{task}")
        assert before
        assert after
        assert (before.value, after.value > 0) == (0, True)
    assert [gate.outcome for step in ledger.steps[1:] for gate in step.gates] == ["passed"] * 4


# ---- scores ----------------------------------------------------------------------------------------------------------

SCORES = {"accuracy", "exact_match", "letter_accuracy", "unit"}
"""Keys of objects with a score; `unit` is that of a measure."""


def objects_with_scores(value: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    if isinstance(value, dict):
        if SCORES & value.keys() and not isinstance(value.get("exact_match"), dict):
            yield path, value
        for key, inner in value.items():
            yield from objects_with_scores(inner, f"{path}/{key}")
    elif isinstance(value, list):
        for inner in value:
            yield from objects_with_scores(inner, path)


@pytest.mark.parametrize("kind", ["text", "multimodal"])
def test_every_score_on_disk_has_n_interval_split_protocol_and_version(
    finished_chain: Callable[..., FinishedChain], kind: str
) -> None:
    """In every JSON file of the chain. A breakdown (per subject, by direction, direct and explained) is part of a score
    that has split, protocol and version; a perplexity has no interval. Cells of the ledger have their own schema."""
    chain = finished_chain(kind)
    scores = measures = 0
    for path in [*chain.model.rglob("*.json"), *chain.model.rglob("*.jsonl")]:
        if path.name in ("tokenizer.json", "tokenizer_config.json", "ledger.json"):
            continue
        for text in [path.read_text()] if path.suffix == ".json" else path.read_text().splitlines():
            for place, score in objects_with_scores(json.loads(text)):
                where = f"{path.relative_to(chain.model)}{place}"
                assert {"n", "wilson95"} <= score.keys(), where
                assert score["n"] > 0, where
                if "unit" in score:
                    measures += 1
                    assert {"name", "protocol_version", "split", "value"} <= score.keys(), where
                    units = {"perplexity": "tokens", "direct accuracy": "questions", "explained accuracy": "questions"}
                    assert score["unit"] == units.get(score["name"], "answers"), where
                    assert (score["wilson95"] is not None) == (score["unit"] != "tokens"), where
                elif not any(part in place for part in ("/per_", "/by_", "/detail/")):
                    scores += 1
                    assert {"split", "protocol", "protocol_version"} <= score.keys(), where
                if score.get("wilson95") is not None:
                    assert len(score["wilson95"]) == 2, where
    assert scores > 50
    # One of 00, two of 01 and two of 02: before and after in training_info.json, before in run.json.
    assert measures == 15


# ---- plain loading ---------------------------------------------------------------------------------------------------

IDS = [[2, 70, 101, 33, 8, 300, 261, 45, 90]]
FOLDERS = ("raw_lora_added", "00_trained", "01_trained", "01_another_lora_added", "02_trained")
BASE_FOLDER = "01_another_lora_added/tiny/base"

PLAIN = """
import json, sys, warnings
import torch
from peft import PeftModel
from safetensors.torch import save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForImageTextToText, AutoTokenizer

root, folders, base_folder, ids, out = json.loads(sys.argv[1])

def load(folder):
    kind = AutoConfig.from_pretrained(folder).model_type
    auto = AutoModelForImageTextToText if kind == "gemma3" else AutoModelForCausalLM
    return auto.from_pretrained(folder, dtype=torch.float32).eval()

logits, messages = {}, {}
with torch.no_grad():
    logits["merged"] = load(f"{root}/{base_folder}")(input_ids=torch.tensor(ids)).logits
    for folder in folders:
        path = f"{root}/{folder}/tiny"
        base = load(json.load(open(f"{path}/adapter_config.json"))["base_model_name_or_path"])
        if folder == "raw_lora_added":
            logits["base"] = base(input_ids=torch.tensor(ids)).logits
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model = PeftModel.from_pretrained(base, path).eval()
        messages[folder] = [str(w.message) for w in caught if "activation_checkpointing" not in str(w.message)]
        assert len(model.peft_config) == 1
        AutoTokenizer.from_pretrained(path)
        logits[folder] = model(input_ids=torch.tensor(ids)).logits
        if folder == "01_trained":
            logits["unloaded"] = model.merge_and_unload()(input_ids=torch.tensor(ids)).logits
assert not [name for name in sys.modules if name.split(".")[0] == "lorachain"]
save_file({name: tensor.contiguous() for name, tensor in logits.items()}, out)
print(json.dumps(messages))
"""


class PlainProcess:
    """Warnings and logits of a process that does not import lorachain."""

    def __init__(self, chain: FinishedChain, out: Path) -> None:
        self.chain = chain
        argument = json.dumps([str(chain.model.resolve()), FOLDERS, BASE_FOLDER, IDS, str(out)])
        done = subprocess.run(
            [sys.executable, "-c", PLAIN, argument],
            cwd=out.parent,
            env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(torch.get_num_threads())},
            capture_output=True,
            text=True,
            timeout=250,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        self.warnings: dict[str, list[str]] = json.loads(done.stdout.splitlines()[-1])
        self.stderr = done.stderr
        self.logits = load_file(out)


@pytest.fixture(scope="module", params=["text", "multimodal"])
def plain(
    request: pytest.FixtureRequest,
    finished_chain: Callable[..., FinishedChain],
    tmp_path_factory: pytest.TempPathFactory,
) -> PlainProcess:
    return PlainProcess(finished_chain(request.param), tmp_path_factory.mktemp("elsewhere") / "logits.safetensors")


@torch.no_grad()
def ours(base: Path, adapter: Path | None = None) -> torch.Tensor:
    model = load_model(base, torch.device("cpu"), torch.float32)
    model.set_attn_implementation("sdpa")  # as in the other process, so that bits can be compared
    whole: Any = load_adapter(model, adapter, trainable=False) if adapter else model
    logits: torch.Tensor = whole(input_ids=torch.tensor(IDS)).logits
    return logits


def test_plain_peft_and_transformers_load_every_directory_as_lorachain_does(plain: PlainProcess) -> None:
    chain = plain.chain
    merged = chain.model / BASE_FOLDER
    for folder in FOLDERS:
        base = merged if folder in ("01_another_lora_added", "02_trained") else chain.base
        assert torch.equal(plain.logits[folder], ours(base, chain.model / folder / "tiny")), folder
    assert torch.equal(plain.logits["merged"], ours(merged))


def test_peft_prints_no_warning(plain: PlainProcess) -> None:
    assert plain.warnings == {folder: [] for folder in FOLDERS}
    for word in ("adapter", "missing", "unexpected", "newly initialized", "Traceback"):
        assert word not in plain.stderr


def test_an_untrained_lora_changes_neither_the_base_nor_the_merged_base(plain: PlainProcess) -> None:
    assert torch.equal(plain.logits["raw_lora_added"], plain.logits["base"])
    assert torch.equal(plain.logits["01_another_lora_added"], plain.logits["merged"])


def test_the_merged_model_is_base_and_adapter_to_rounding_and_not_the_base(plain: PlainProcess) -> None:
    """The merged weights are bfloat16: within a rounding step, and far nearer than the base is."""
    logits = plain.logits
    moved = (logits["01_trained"] - logits["base"]).norm()
    assert moved > 0
    torch.testing.assert_close(logits["merged"], logits["01_trained"], atol=5e-2, rtol=2e-2)
    assert (logits["merged"] - logits["unloaded"]).norm() <= 0.5 * moved
    for stage in ("00_trained", "02_trained"):
        assert not torch.equal(logits[stage], logits["base"])
    assert not torch.equal(logits["02_trained"], logits["merged"])


def test_no_adapter_is_on_another_adapter(plain: PlainProcess) -> None:
    """The merged base has no LoRA tensor, and 02's adapter is for it, not for the public base."""
    merged = plain.chain.model / BASE_FOLDER
    names = {name for file in merged.glob("*.safetensors") for name in load_file(file)}
    assert not [name for name in names if "lora" in name]
    assert not (merged / "adapter_config.json").exists()
    for folder in ("01_another_lora_added", "02_trained"):
        config = json.loads((plain.chain.model / folder / "tiny" / "adapter_config.json").read_text())
        assert Path(config["base_model_name_or_path"]).samefile(merged)
        assert Path(config["base_model_name_or_path"]).is_absolute()


def test_only_linear_layers_of_the_language_model_are_merged(plain: PlainProcess) -> None:
    merged = {k: v for f in (plain.chain.model / BASE_FOLDER).glob("*.safetensors") for k, v in load_file(f).items()}
    public = {k: v for f in plain.chain.base.glob("*.safetensors") for k, v in load_file(f).items()}
    assert merged.keys() == public.keys()
    changed = {name for name in public if not torch.equal(public[name], merged[name])}
    assert changed
    assert all("_proj.weight" in name and "layers." in name and "vision" not in name for name in changed)
