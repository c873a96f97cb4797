"""Exported directories: plain transformers and peft load the chain's model; a failure leaves nothing behind."""

from pathlib import Path

import pytest
import torch
from peft import PeftModel

from artifact_making import training_info
from lora_making import load_plain, logits, save_adapter_for, save_base
from lorachain.errors import AdapterError
from lorachain.export.card import CardFacts
from lorachain.export.folders import export_adapter, export_hf
from lorachain.weights.merge import merge_adapter
from lorachain.weights.verify import verify_merge


def facts_for(base: Path) -> CardFacts:
    return CardFacts("tiny", str(base), "AutoModelForCausalLM", [training_info()])


@pytest.fixture
def chain(tmp_path: Path) -> dict[str, Path]:
    base = save_base(tmp_path / "base", "text", dtype=torch.float32, shard="60KB")
    first = save_adapter_for(base, tmp_path / "01", "text")
    merge_adapter(base, first, tmp_path / "merged_base")
    second = save_adapter_for(tmp_path / "merged_base", tmp_path / "02", "text", seed=9)
    return {"base": base, "first": first, "merged_base": tmp_path / "merged_base", "second": second}


def test_merged_export_is_the_chains_model_with_card_and_report(chain: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "export"
    export_hf(chain["merged_base"], chain["second"], out, facts_for(chain["base"]), final=out)
    together = logits(PeftModel.from_pretrained(load_plain(chain["merged_base"], "text"), str(chain["second"])))
    torch.testing.assert_close(logits(load_plain(out, "text")), together, atol=2e-4, rtol=1e-4)
    cards = {"README.md", "README.ko.md", "SERVING.md", "NOTICE"}
    assert cards | {"merge_report.json", "tokenizer.json", "chat_template.jinja"} <= {
        path.name for path in out.iterdir()
    }
    assert not [path for path in out.iterdir() if path.is_dir()]
    verify_merge(out)


def test_adapter_export_is_the_chain_on_the_public_base(chain: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "export"
    base = chain["base"]
    export_adapter(base, chain["first"], chain["second"], out, facts_for(base), merged_base=chain["merged_base"])
    composed = logits(PeftModel.from_pretrained(load_plain(base, "text"), str(out)))
    together = logits(PeftModel.from_pretrained(load_plain(chain["merged_base"], "text"), str(chain["second"])))
    torch.testing.assert_close(composed, together, atol=3e-4, rtol=1e-4)
    names = {path.name for path in out.iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "compose_report.json"} <= names
    assert "config.json" not in names  # beside an adapter, loaders would take it for a model's
    assert "AutoModelForCausalLM.from_pretrained" in (out / "README.md").read_text()


def test_a_failed_export_leaves_nothing(chain: dict[str, Path], tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="was trained on a base with the hash"):
        export_hf(
            chain["base"],
            chain["second"],
            tmp_path / "export",
            facts_for(chain["base"]),
            final=tmp_path / "export",
            expected_base_sha256="0" * 64,
        )
    assert not [path for path in tmp_path.iterdir() if "export" in path.name]
