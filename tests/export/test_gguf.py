"""GGUF export around llama.cpp's converter: a stand-in for it here, or the real one where it is installed."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedModel

from artifact_making import logit_diff, training_info
from lora_making import save_base
from lorachain.artifacts import GgufReport, LogitDiff
from lorachain.errors import ConfigError, ModelError
from lorachain.export import gguf
from lorachain.export.card import CardFacts
from lorachain.export.gguf import CONVERTER, GGUF_REPORT, check_gguf, export_gguf, modelfile
from lorachain.prompts import ChatTurns
from lorachain.provenance import sha256_file
from lorachain.weights.safetensors_io import weights_sha256

FACTS = CardFacts("tiny", "gemma-3-270m", "AutoModelForCausalLM", [training_info()])
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
    sizes: list[object] = []

    def compare(back: object) -> LogitDiff:
        sizes.append(back)
        return logit_diff(rows=7)

    report = export_gguf(model, out, FACTS, outtype="q8_0", compare=compare, converter=stand_in(tmp_path))
    file = out / "tiny-q8_0.gguf"
    assert {path.name for path in out.iterdir()} == {
        *(file.name, "Modelfile", "README.md", "README.ko.md", "NOTICE", GGUF_REPORT)
    }
    assert GgufReport.read(out / GGUF_REPORT) == report
    assert (report.file, report.outtype) == (file.name, "q8_0")
    assert report.sha256 == sha256_file(file)
    assert report.model_sha256 == weights_sha256(model)
    assert report.probe == logit_diff(rows=7)
    assert sizes == [file.stat().st_size]  # the file was loaded back once
    text = (file.parent / "Modelfile").read_text()
    assert text.startswith("FROM ./tiny-q8_0.gguf\n")
    assert "Gemma Terms of Use" in text
    assert "<start_of_turn>user\n{{ .Content }}<end_of_turn>\n" in text
    assert "ollama create tiny -f Modelfile" in (file.parent / "README.md").read_text()


def test_what_cannot_be_loaded_back_is_not_exported(model: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be loaded back"):
        export_gguf(model, tmp_path / "out", FACTS, outtype="q8_0", compare=not_called, converter=stand_in(tmp_path))
    assert not (tmp_path / "out").exists()


def not_called(back: object) -> LogitDiff:
    raise AssertionError("nothing was loaded that could be compared")


GEMMA = ChatTurns("<start_of_turn>user\n", "<end_of_turn>\n<start_of_turn>model\n", "<end_of_turn>")


def test_a_modelfile_has_the_turns_and_the_stop_token_of_the_model() -> None:
    bare = modelfile("m.gguf", "notice", None)
    assert 'TEMPLATE """{{ .Prompt }}"""' in bare
    assert "PARAMETER stop" not in bare
    assert 'PARAMETER stop "<end_of_turn>"' in modelfile("m.gguf", "notice", GEMMA)
    other = modelfile("m.gguf", "notice", ChatTurns("<|user|>", "<|end|>\n<|assistant|>", "<|end|>"))
    assert "<|user|>{{ .Content }}<|end|>\n<|assistant|>" in other
    assert 'PARAMETER stop "<|end|>"' in other
    assert "start_of_turn" not in other
    with pytest.raises(ConfigError, match="cannot contain"):
        modelfile("m.gguf", "notice", ChatTurns("{{ bad }}", "", "<|end|>"))


def test_without_a_converter_the_message_has_the_command(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(ConfigError, match=f"pipx install {CONVERTER}.*--converter, and run the same command again"):
        export_gguf(model, tmp_path / "out", FACTS, outtype="bf16", compare=not_called)
    with pytest.raises(ConfigError, match=r"converter .*nowhere\.py does not exist"):
        export_gguf(
            model, tmp_path / "out", FACTS, outtype="bf16", compare=not_called, converter=tmp_path / "nowhere.py"
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"blocks": 5}, "gemma3.block_count': 5"),
        ({"bos": False}, "does not put a BOS"),
        ({"names": ("token_embd.weight", "output.weight")}, "Gemma 3 ties them"),
    ],
)
def test_a_file_of_another_model_is_refused(model: Path, tmp_path: Path, change: dict[str, Any], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        export_gguf(
            model, tmp_path / "out", FACTS, outtype="bf16", compare=not_called, converter=stand_in(tmp_path, **change)
        )
    assert not (tmp_path / "out").exists()


def test_the_converters_failure_is_passed_on(model: Path, tmp_path: Path) -> None:
    script = tmp_path / "convert.py"
    script.write_text("raise SystemExit('unknown architecture')")
    with pytest.raises(ModelError, match="unknown architecture"):
        export_gguf(model, tmp_path / "out", FACTS, outtype="bf16", compare=not_called, converter=script)


def test_a_file_that_is_not_gguf(model: Path, tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"not a gguf file at all, only text, but long enough to read a header from")
    with pytest.raises(ModelError, match="is not a GGUF file"):
        check_gguf(tmp_path / "m.gguf", model)


@pytest.mark.real_model
def test_bf16_round_trip_of_a_real_gemma_is_bit_exact(tmp_path: Path) -> None:
    if shutil.which(CONVERTER) is None:
        pytest.skip(f"llama.cpp's converter ({CONVERTER}) is not on this machine")
    from lorachain.embedded_model import embedded_weights
    from lorachain.weights.load import load_model

    base = embedded_weights()
    weights = load_model(base, torch.device("cpu")).state_dict()

    different: list[str] = []

    def compare(back: PreTrainedModel) -> LogitDiff:
        loaded = back.state_dict()
        different.extend(name for name in weights if not torch.equal(weights[name], loaded[name]))
        return logit_diff()

    export_gguf(base, tmp_path / "out", FACTS, outtype="bf16", compare=compare)
    assert different == []
