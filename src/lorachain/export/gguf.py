"""Merged weights as GGUF for llama.cpp and Ollama, through llama.cpp's own converter.

The converter is `convert_hf_to_gguf.py` of https://github.com/ggml-org/llama.cpp. The package `convert-hf-to-gguf`
carries it, but brings its own copy of the module `gguf`, which would replace the one that lorachain depends on. So it
is run as a program, from its own environment, and never imported.
"""

import json
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from gguf import GGUFReader
from transformers import AutoModelForCausalLM, PreTrainedModel

from lorachain.artifacts import GgufReport, LogitDiff
from lorachain.atomic import atomic_folder
from lorachain.chat_template import chat_turns
from lorachain.embedded_model import gguf_loading
from lorachain.errors import ConfigError, ModelError
from lorachain.export.card import CardFacts, Form, write_card
from lorachain.library_output import output_logged
from lorachain.licences import notice_text
from lorachain.prompts import ChatTurns
from lorachain.provenance import package_versions, sha256_file
from lorachain.redaction import without_secrets
from lorachain.weights.attention_choice import use_fast_attention
from lorachain.weights.load import load_tokenizer
from lorachain.weights.safetensors_io import weights_sha256

OutType = Literal["f16", "bf16", "q8_0"]
OUT_TYPES: tuple[OutType, ...] = ("f16", "bf16", "q8_0")
CONVERTER = "convert-hf-to-gguf"
MODELFILE = "Modelfile"
GGUF_REPORT = "gguf_report.json"
# Ollama's template language (Go's text/template). Ollama puts the BOS itself.
_CHAT_TEMPLATE = """{{- range $i, $_ := .Messages }}
{{- $last := eq (len (slice $.Messages $i)) 1 }}
{{- if or (eq .Role "user") (eq .Role "system") }}<start_of_turn>user
{{ .Content }}<end_of_turn>
{{ if $last }}<start_of_turn>model
{{ end }}
{{- else if eq .Role "assistant" }}<start_of_turn>model
{{ .Content }}{{ if not $last }}<end_of_turn>
{{ end }}
{{- end }}
{{- end }}"""
_PLAIN_TEMPLATE = "{{ .Prompt }}"
_GEMMA_TURNS = ("<start_of_turn>user\n", "<end_of_turn>\n<start_of_turn>model\n", "<end_of_turn>")
"""Before a question, after it, and the end of an answer."""
_log = logging.getLogger(__name__)


Compare = Callable[[PreTrainedModel], LogitDiff]
"""How far a model that was loaded back is from the merged one."""


def export_gguf(
    model: Path,
    out: Path,
    facts: CardFacts,
    *,
    form: Form = "gguf",
    outtype: OutType,
    compare: Compare,
    converter: Path | None = None,
) -> GgufReport:
    """Converts a merged directory; `out` gets the GGUF file, a Modelfile for Ollama, model card, NOTICE and report.

    Of a multimodal model the language model is converted: the chain trains nothing else. The file is loaded back and
    compared; `gguf_report.json` records the result.

    Returns:
        The report.

    Raises:
        ConfigError: there is no converter on this machine; the message has the command to run.
        ModelError: the converter fails, or what it wrote is not this model or cannot be loaded back.
    """
    file_name = f"{facts.name}-{outtype}.gguf"
    command = [*find_converter(converter), str(model), "--outtype", outtype]
    with atomic_folder(out) as staging:
        file = staging / file_name
        done = subprocess.run(
            [*command, "--outfile", str(file)],
            capture_output=True,
            text=True,
            check=False,
            env=without_secrets(os.environ),
        )
        _log.info("%s\n%s", done.stdout, done.stderr)
        if done.returncode or not file.is_file():
            last = "".join(f"\n  {line}" for line in done.stderr.strip().splitlines()[-3:])
            raise ModelError(f"llama.cpp's converter could not convert {model}:{last}")
        check_gguf(file, model)
        turns = chat_turns(load_tokenizer(model))
        (staging / MODELFILE).write_text(modelfile(file_name, notice_text(facts.base), turns), encoding="utf-8")
        write_card(staging, facts, form)
        report = GgufReport(
            file=file_name,
            sha256=sha256_file(file),
            outtype=outtype,
            model_sha256=weights_sha256(model),
            probe=compare(load_gguf(file)),
            packages=package_versions(),
        )
        report.write(staging / GGUF_REPORT)
    return report


def find_converter(given: Path | None) -> list[str]:
    """How to start llama.cpp's converter: a script that the user names, or the program on the search path.

    Raises:
        ConfigError: there is neither.
    """
    if given is not None:
        if not given.is_file():
            raise ConfigError(f"converter {given} does not exist; name llama.cpp's convert_hf_to_gguf.py")
        return [sys.executable, str(given)] if given.suffix == ".py" else [str(given)]
    found = shutil.which(CONVERTER)
    if found is None:
        raise ConfigError(
            "no converter to GGUF found; lorachain uses llama.cpp's own. Install it with "
            f"`pipx install {CONVERTER}` (in its own environment: it replaces the module gguf), or name the script of "
            "llama.cpp's repository with --converter, and run the same command again"
        )
    return [found]


def check_gguf(file: Path, model: Path) -> None:
    """Raises ModelError unless the file is a complete Gemma 3 of the model's size, with BOS and tied head."""
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    text: dict[str, Any] = config.get("text_config", config)
    try:
        reader = GGUFReader(file)
        found = {
            key: field.contents()
            for key in ("general.architecture", "gemma3.block_count", "gemma3.embedding_length")
            if (field := reader.get_field(key)) is not None
        }
        adds_bos = reader.get_field("tokenizer.ggml.add_bos_token")
        names = {tensor.name for tensor in reader.tensors}
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise ModelError(f"{file} is not a GGUF file: {error}") from error
    expected = {
        "general.architecture": "gemma3",
        "gemma3.block_count": text["num_hidden_layers"],
        "gemma3.embedding_length": text["hidden_size"],
    }
    if found != expected:
        raise ModelError(f"{file} says it is {found}, the merged model is {expected}")
    if adds_bos is None or not adds_bos.contents():
        raise ModelError(f"{file} does not put a BOS before a prompt; Gemma needs it exactly once")
    if "output.weight" in names and text.get("tie_word_embeddings", True):
        raise ModelError(f"{file} has a head besides the embeddings; Gemma 3 ties them")


def load_gguf(file: Path) -> PreTrainedModel:
    """A GGUF file's weights dequantized into transformers, bf16 on the CPU, to compare it with the merged model.

    Raises:
        ModelError: transformers cannot read it.
    """
    try:
        with output_logged(_log):  # transformers writes a line per tensor into a pipe, whatever its settings
            model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
                file.parent, trust_remote_code=False, **gguf_loading(file.name)
            )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise ModelError(f"{file} cannot be loaded back: {error}") from error
    use_fast_attention(model)
    return model


def modelfile(file_name: str, notice: str, turns: ChatTurns | None) -> str:
    """Ollama's Modelfile: the turns and the stop token of the model's chat template, or the bare prompt without one.

    Greedy by default, as the chain's own validation asks.
    """
    lines = [
        f"FROM ./{file_name}",
        f'TEMPLATE """{_PLAIN_TEMPLATE if turns is None else _ollama_template(turns)}"""',
        *([] if turns is None else [f"PARAMETER stop {json.dumps(turns.end, ensure_ascii=False)}"]),
        "PARAMETER temperature 0",
        f'LICENSE """{notice}"""',
    ]
    return "\n".join(lines) + "\n"


def _ollama_template(turns: ChatTurns) -> str:
    """The turns in Ollama's language; of other templates than Gemma's without system messages.

    Raises:
        ConfigError: the turns cannot be written in a Modelfile.
    """
    if (turns.before, turns.after, turns.end) == _GEMMA_TURNS:
        return _CHAT_TEMPLATE
    if any(mark in part for part in (turns.before, turns.after, turns.end) for mark in ("{{", "}}", '"""')):
        raise ConfigError(
            'the model\'s chat template prints {{, }} or """, which an Ollama Modelfile cannot contain; export with '
            "--format hf, and convert and serve it by other means"
        )
    return (
        '{{ range .Messages }}{{ if eq .Role "user" }}'  # `{{-` would take the line break at the end of a turn
        + f"{turns.before}{{{{ .Content }}}}{turns.after}"
        + '{{ else if eq .Role "assistant" }}'
        + f"{{{{ .Content }}}}{turns.end}\n"
        + "{{ end }}{{ end }}"
    )
