"""The chain's folders are what plain transformers and peft make of them, from any directory, without lorachain
(design, section 3, lines 3 and 4)."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

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

found, said = {}, {}
with torch.no_grad():
    found["merged"] = load(f"{root}/{base_folder}")(input_ids=torch.tensor(ids)).logits
    for folder in folders:
        path = f"{root}/{folder}/tiny"
        base = load(json.load(open(f"{path}/adapter_config.json"))["base_model_name_or_path"])
        if folder == "raw_lora_added":
            found["base"] = base(input_ids=torch.tensor(ids)).logits
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            model = PeftModel.from_pretrained(base, path).eval()
        said[folder] = [str(w.message) for w in caught if "activation_checkpointing" not in str(w.message)]
        assert len(model.peft_config) == 1
        AutoTokenizer.from_pretrained(path)
        found[folder] = model(input_ids=torch.tensor(ids)).logits
        if folder == "01_trained":
            found["unloaded"] = model.merge_and_unload()(input_ids=torch.tensor(ids)).logits
assert not [name for name in sys.modules if name.split(".")[0] == "lorachain"]
save_file({name: tensor.contiguous() for name, tensor in found.items()}, out)
print(json.dumps(said))
"""


class Plainly:
    """What a process that knows nothing of lorachain found."""

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
def plainly(
    request: pytest.FixtureRequest,
    finished_chain: Callable[..., FinishedChain],
    tmp_path_factory: pytest.TempPathFactory,
) -> Plainly:
    return Plainly(finished_chain(request.param), tmp_path_factory.mktemp("elsewhere") / "logits.safetensors")


@torch.no_grad()
def ours(base: Path, adapter: Path | None = None) -> torch.Tensor:
    model = load_model(base, torch.device("cpu"), torch.float32)
    model.set_attn_implementation("sdpa")  # what the other process has, so that bits can be compared
    return (load_adapter(model, adapter, trainable=False) if adapter else model)(input_ids=torch.tensor(IDS)).logits


def test_plain_peft_and_transformers_load_every_folder_as_lorachain_does(plainly: Plainly) -> None:
    chain = plainly.chain
    merged = chain.model / BASE_FOLDER
    for folder in FOLDERS:
        base = merged if folder in ("01_another_lora_added", "02_trained") else chain.base
        assert torch.equal(plainly.logits[folder], ours(base, chain.model / folder / "tiny")), folder
    assert torch.equal(plainly.logits["merged"], ours(merged))


def test_peft_prints_no_warning(plainly: Plainly) -> None:
    assert plainly.warnings == {folder: [] for folder in FOLDERS}
    for word in ("adapter", "missing", "unexpected", "newly initialized", "Traceback"):
        assert word not in plainly.stderr


def test_an_untrained_lora_is_the_base_and_merged_with_a_fresh_lora_is_merged(plainly: Plainly) -> None:
    assert torch.equal(plainly.logits["raw_lora_added"], plainly.logits["base"])
    assert torch.equal(plainly.logits["01_another_lora_added"], plainly.logits["merged"])


def test_base_and_adapter_is_merged_is_reloaded_and_not_the_base(plainly: Plainly) -> None:
    """The merged weights are bfloat16: within a rounding step of it, and far nearer than the base is."""
    found = plainly.logits
    moved = (found["01_trained"] - found["base"]).norm()
    assert moved > 0
    torch.testing.assert_close(found["merged"], found["01_trained"], atol=5e-2, rtol=2e-2)
    assert (found["merged"] - found["unloaded"]).norm() <= 0.5 * moved
    for stage in ("00_trained", "02_trained"):
        assert not torch.equal(found[stage], found["base"])
    assert not torch.equal(found["02_trained"], found["merged"])


def test_no_adapter_sits_on_an_adapter(plainly: Plainly) -> None:
    """The merged base holds no LoRA tensor, and 02 stands on it, not on the public base."""
    merged = plainly.chain.model / BASE_FOLDER
    names = {name for file in merged.glob("*.safetensors") for name in load_file(file)}
    assert not [name for name in names if "lora" in name]
    assert not (merged / "adapter_config.json").exists()
    for folder in ("01_another_lora_added", "02_trained"):
        config = json.loads((plainly.chain.model / folder / "tiny" / "adapter_config.json").read_text())
        assert Path(config["base_model_name_or_path"]).samefile(merged)
        assert Path(config["base_model_name_or_path"]).is_absolute()


def test_the_vision_tower_is_the_public_bases(plainly: Plainly) -> None:
    merged = {k: v for f in (plainly.chain.model / BASE_FOLDER).glob("*.safetensors") for k, v in load_file(f).items()}
    public = {k: v for f in plainly.chain.base.glob("*.safetensors") for k, v in load_file(f).items()}
    assert merged.keys() == public.keys()
    changed = {name for name in public if not torch.equal(public[name], merged[name])}
    assert changed
    assert all("_proj.weight" in name and "layers." in name and "vision" not in name for name in changed)
