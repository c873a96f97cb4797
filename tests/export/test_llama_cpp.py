"""What an export gives llama.cpp itself: the same prompt ids, the same logits, and a Modelfile that renders its turns.

What loads a file is skipped where `llama_cpp` (the package llama-cpp-python) or llama.cpp's converter is missing.
"""

import json
import re
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from artifact_making import logit_diff, training_info
from conftest import make_text_model, make_tokenizer
from lorachain.export.card import CardFacts
from lorachain.export.gguf import CONVERTER, export_gguf, modelfile
from lorachain.export.sentencepiece_model import add_tokenizer_model
from lorachain.prompts import Prompt, render
from lorachain.tokens import TokenEncoder

FACTS = CardFacts("tiny", "gemma-3-270m", "AutoModelForCausalLM", [training_info()])
WORDS = ("정답", "뜻")
PROMPTS = [
    Prompt("급성심근경색의 뜻은?", "뜻:"),
    Prompt("문제: 옳은 것은?\n\nA. 하나\nB.  둘", "정답:"),
    Prompt("x" * 60, "용어:"),  # longer than the sliding window
]


@pytest.mark.parametrize("chat", [False, True], ids=["plain", "chat"])
def test_llama_cpp_reads_the_same_ids_and_computes_the_same_logits(tmp_path: Path, chat: bool) -> None:
    if find_spec("llama_cpp") is None:
        pytest.skip("llama_cpp is not installed: pip install llama-cpp-python builds it in about ten minutes")
    if shutil.which(CONVERTER) is None:
        pytest.skip(f"llama.cpp's converter ({CONVERTER}) is not on this machine")
    llama_cpp: Any = __import__("llama_cpp")
    # llama.cpp knows one pattern of layers: that of every published Gemma 3.
    layers = ["sliding_attention"] * 5 + ["full_attention"]
    model = make_text_model(dtype=torch.bfloat16, num_hidden_layers=len(layers), layer_types=layers)
    tokenizer = make_tokenizer(chat=chat, words=WORDS)
    model.save_pretrained(tmp_path / "merged")
    tokenizer.save_pretrained(tmp_path / "merged")
    settings = tmp_path / "merged" / "tokenizer_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"add_bos_token": True}))  # as Gemma's has
    assert add_tokenizer_model(tmp_path / "merged")
    report = export_gguf(
        tmp_path / "merged", tmp_path / "out", FACTS, outtype="bf16", compare=lambda back: logit_diff()
    )
    llama = llama_cpp.Llama(str(tmp_path / "out" / report.file), n_ctx=256, n_batch=256, n_threads=1, verbose=False)
    encoder = TokenEncoder(tokenizer)
    wide: Any = model
    wide.float()
    assert (llama.token_bos(), llama.metadata["tokenizer.ggml.model"]) == (encoder.bos_id, "llama")
    for prompt in PROMPTS:
        ids = encoder.prompt_ids(prompt)
        assert llama.tokenize(render(prompt, encoder.turns).encode(), add_bos=True, special=True) == ids
        llama.reset()
        llama.eval(ids)
        logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(llama.ctx, -1), shape=(llama.n_vocab(),))
        with torch.no_grad():
            expected = wide(torch.tensor([ids])).logits[0, -1].numpy()
        assert np.abs(logits - expected[: len(logits)]).max() < 0.05 * np.abs(expected).max()
    llama.close()


def rendered(template: str, messages: list[tuple[str, str]]) -> str:
    """The parts of Ollama's template language that a Modelfile of ours uses, as Go's text/template renders them."""
    template = re.sub(r"\s*\{\{-", "{{", template)
    pieces = re.split(r"(\{\{.*?\}\})", template)
    start = next(number for number, piece in enumerate(pieces) if "range" in piece)
    text = ""
    for number, (role, content) in enumerate(messages):
        last = number == len(messages) - 1
        taken: list[bool] = []  # of each open `if`: whether a branch was taken
        shown: list[bool] = []
        for piece in pieces[start + 1 :]:
            command = piece.strip("{}- ")
            if command.startswith(("if", "else if")):
                holds = last if "$last" in command and "not" not in command else not last
                if "Role" in command:
                    holds = f'"{role}"' in command
                if command.startswith("else"):
                    shown[-1] = holds and not taken[-1]
                    taken[-1] = taken[-1] or holds
                else:
                    shown.append(holds)
                    taken.append(holds)
            elif command == "end":
                if not shown:
                    break
                shown.pop()
                taken.pop()
            elif all(shown):
                text += content if command == ".Content" else "" if piece.startswith("{{") else piece
    return text


@pytest.mark.parametrize("own", [True, False], ids=["gemma", "other turns"])
def test_the_modelfile_renders_the_turns_of_the_tokenizer(own: bool) -> None:
    tokenizer = make_tokenizer(chat=True)
    if not own:
        tokenizer.chat_template = tokenizer.chat_template.replace("{{ 'model'", "{{ 'assistant'")
        tokenizer.chat_template = tokenizer.chat_template.replace("<start_of_turn>model", "<start_of_turn>assistant")
    encoder = TokenEncoder(tokenizer)
    assert encoder.turns is not None
    text = modelfile("m.gguf", "notice", encoder.turns)
    template = re.search(r'TEMPLATE """(.*?)"""', text, re.DOTALL)
    stops = re.findall(r'^PARAMETER stop "(.*)"$', text, re.MULTILINE)
    assert template is not None
    conversation = [("user", "두통이 있다"), ("assistant", "언제부터?"), ("user", "어제")]
    for count in (1, 3):
        messages = [{"role": role, "content": content} for role, content in conversation[:count]]
        expected = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ours = rendered(template[1], conversation[:count])
        assert "<bos>" + ours == expected  # Ollama puts BOS itself
        assert [encoder.bos_id, *encoder._ids(ours, split_special_tokens=False)] == tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_dict=False
        )
    (stop,) = stops
    assert tokenizer.convert_tokens_to_ids(stop) == encoder.end_id
