"""GGUF export around llama.cpp's converter; the converter itself is a stand-in here, or the real one where there is."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedModel

from lora_making import save_base
from lorachain.errors import ConfigError, ModelError
from lorachain.export import gguf
from lorachain.export.card import CardFacts
from lorachain.export.gguf import CONVERTER, GGUF_REPORT, check_gguf, export_gguf, modelfile
from lorachain.provenance import sha256_file
from lorachain.weights.safetensors_io import weights_sha256

FACTS = CardFacts("tiny", "gemma-3-270m", "AutoModelForCausalLM", [{"stage": "02", "sources": [], "training": {}}])
STAND_IN = """
import sys, gguf, numpy as np
file = sys.argv[sys.argv.index("--outfile") + 1]
{body}
"""
WRITE = """
writer = gguf.GGUFWriter(file, "gemma3")
writer.add_block_count({blocks}); writer.add_embedding_length(32); writer.add_add_bos_token({bos})
for name in {names}: writer.add_tensor(name, np.zeros((4, 4), dtype=np.float32))
writer.write_header_to_file(); writer.write_kv_data_to_file(); writer.write_tensors_to_file(); writer.close()
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return save_base(tmp_path / "merged", "text")


def stand_in(
    folder: Path, *, blocks: int = 4, bos: bool = True, names: tuple[str, ...] = ("token_embd.weight",)
) -> Path:
    script = folder / "convert_hf_to_gguf.py"
    script.write_text(STAND_IN.format(body=WRITE.format(blocks=blocks, bos=bos, names=names)))
    return script


def test_export_has_weights_modelfile_card_notice_and_report(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf, "load_gguf", lambda file: file.stat().st_size)  # the stand-in writes no model
    out = tmp_path / "out"
    report = export_gguf(
        model, out, FACTS, outtype="q8_0", compare=lambda back: {"size": back}, converter=stand_in(tmp_path)
    )
    file = out / "tiny-q8_0.gguf"
    assert {path.name for path in out.iterdir()} == {file.name, "Modelfile", "README.md", "NOTICE", GGUF_REPORT}
    assert json.loads((out / GGUF_REPORT).read_text()) == report
    assert report["sha256"] == sha256_file(file)
    assert report["model_sha256"] == weights_sha256(model)
    assert report["probe"] == {"size": file.stat().st_size}
    text = (file.parent / "Modelfile").read_text()
    assert text.startswith("FROM ./tiny-q8_0.gguf\n")
    assert "Gemma Terms of Use" in text
    assert "<start_of_turn>user\n{{ .Content }}<end_of_turn>\n" in text
    assert "ollama create tiny -f Modelfile" in (file.parent / "README.md").read_text()


def test_what_cannot_be_loaded_back_is_not_exported(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be loaded back"):
        export_gguf(model, tmp_path / "out", FACTS, outtype="q8_0", compare=unasked, converter=stand_in(tmp_path))
    assert not (tmp_path / "out").exists()


def unasked(back: object) -> dict[str, object]:
    raise AssertionError("there was nothing to compare")


def test_a_model_without_chat_template_gets_the_bare_prompt() -> None:
    text = modelfile("m.gguf", "notice", chat=False)
    assert 'TEMPLATE """{{ .Prompt }}"""' in text
    assert "start_of_turn" not in text
    assert 'PARAMETER stop "<end_of_turn>"' in modelfile("m.gguf", "notice", chat=True)


def test_without_a_converter_the_command_is_said(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(
        ConfigError, match=f"(?s)pipx install {CONVERTER}.*{CONVERTER} .*merged --outtype bf16 --outfile"
    ):
        export_gguf(model, tmp_path / "out", FACTS, outtype="bf16", compare=unasked)
    with pytest.raises(ConfigError, match=r"converter .*nowhere\.py is not there"):
        export_gguf(model, tmp_path / "out", FACTS, outtype="bf16", compare=unasked, converter=tmp_path / "nowhere.py")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"blocks": 5}, "gemma3.block_count': 5"),
        ({"bos": False}, "does not put a BOS"),
        ({"names": ("token_embd.weight", "output.weight")}, "Gemma 3 ties them"),
    ],
)
def test_another_model_than_the_merged_one_is_refused(
    model: Path, tmp_path: Path, change: dict[str, object], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        export_gguf(
            model, tmp_path / "out", FACTS, outtype="bf16", compare=unasked, converter=stand_in(tmp_path, **change)
        )
    assert not (tmp_path / "out").exists()


def test_the_converters_failure_is_passed_on(model: Path, tmp_path: Path) -> None:
    script = tmp_path / "convert.py"
    script.write_text("raise SystemExit('unknown architecture')")
    with pytest.raises(ModelError, match="unknown architecture"):
        export_gguf(model, tmp_path / "out", FACTS, outtype="bf16", compare=unasked, converter=script)


def test_a_file_that_is_no_gguf(model: Path, tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"not a gguf file at all, only text, but long enough to read a header from")
    with pytest.raises(ModelError, match="is no GGUF file"):
        check_gguf(tmp_path / "m.gguf", model)


@pytest.mark.real_model
def test_bf16_round_trip_of_a_real_gemma_is_bit_exact(tmp_path: Path) -> None:
    if shutil.which(CONVERTER) is None:
        pytest.skip(f"llama.cpp's converter ({CONVERTER}) is not on this machine")
    from lorachain.registry import embedded_weights
    from lorachain.weights.load import load_model

    base = embedded_weights()
    ours = load_model(base, torch.device("cpu")).state_dict()

    def differing(back: PreTrainedModel) -> dict[str, object]:
        found = back.state_dict()
        return {"differing": [name for name in ours if not torch.equal(ours[name], found[name])]}

    report = export_gguf(base, tmp_path / "out", FACTS, outtype="bf16", compare=differing)
    assert report["probe"] == {"differing": []}
