"""Plain transformers and peft load the chain's directories as lorachain does (design, section 3, 3 and 4)."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from chain_making import FinishedChain
from lorachain.weights.load import load_model
from lorachain.weights.lora import load_adapter

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
