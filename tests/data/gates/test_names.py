"""Names of people by a model of the user: a tiny one that takes some characters for parts of names."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Regex, Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split
from transformers import BertConfig, BertForTokenClassification, PreTrainedTokenizerFast

from lorachain.data.gates.names import _PERSON, find_names, names_model_sha256
from lorachain.data.gates.personal import PersonalData
from lorachain.data.gates.screen import open_data_gates
from lorachain.data.gates.views import DICTIONARY
from lorachain.data_settings import DataConfig, PersonalConfig
from lorachain.errors import ConfigError
from lorachain.records import Term

IN_NAMES = "홍길동김철수"
OTHERS = "환자은와왔다가나라마 ."


def save_model(folder: Path, label: str = "B-PS") -> Path:
    """A BERT whose only layer adds nothing, so that a token's embedding alone decides its label."""
    vocabulary = {token: i for i, token in enumerate(["[PAD]", "[UNK]", *IN_NAMES, *OTHERS])}
    tokenizer = Tokenizer(WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Split(Regex(r"[\s\S]"), "isolated")
    fast: Any = PreTrainedTokenizerFast
    fast(tokenizer_object=tokenizer, unk_token="[UNK]", pad_token="[PAD]").save_pretrained(folder)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=8,
        max_position_embeddings=34,
        id2label={0: "O", 1: label},
        label2id={"O": 0, label: 1},
    )
    model = BertForTokenClassification(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.fill_(1.0 if "LayerNorm.weight" in name else 0.0)
        embeddings = model.bert.embeddings.word_embeddings.weight
        embeddings[:, 1] = 1.0
        names = [vocabulary[character] for character in IN_NAMES]
        embeddings[names] = torch.eye(8)[0]
        model.classifier.weight[1] = torch.eye(8)[0] - torch.eye(8)[1]
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_model(tmp_path_factory.mktemp("names") / "model"))


@pytest.mark.parametrize("text", ["환자 홍길동은 김철수와 왔다.", "김철수", "환자가 왔다.", "", " \n", "\n 홍길동"])
def test_names_are_found_where_they_are(model: str, text: str) -> None:
    assert list(find_names(model, text)) == [match.span() for match in re.finditer(f"[{IN_NAMES}]+", text)]


def test_a_text_longer_than_the_model_reads_is_searched_to_its_end(model: str) -> None:
    for first in range(20):  # every place in a window, and across two
        text = f"{'가' * (20 + first)}홍길동은 {'나라' * 30}김철수와 {'마' * 50}홍길동"
        assert list(find_names(model, text)) == [match.span() for match in re.finditer(f"[{IN_NAMES}]+", text)]


def test_names_are_masked_with_the_other_kinds(model: str) -> None:
    settings = DataConfig.model_validate({"personal": {"action": "mask", "names": "ner", "names_model": model}})
    entry = Term("담낭", "환자 홍길동은 010-1234-5678로 왔다.")
    [masked] = open_data_gates(DICTIONARY, settings, {}).kept([entry])
    assert masked.definition == "환자 [이름]은 [전화번호]로 왔다."
    assert list(open_data_gates(DICTIONARY, DataConfig(), {}, refuse=False).kept([entry])) == [entry]


def test_names_are_not_searched_for_by_default() -> None:
    assert PersonalConfig().names == "off"
    assert PersonalData(["phone"]).find("홍길동") == []


@pytest.mark.parametrize(
    ("label", "is_person"),
    [
        *((label, True) for label in ("PS", "B-PS", "I-PER", "PER-B", "PS_NAME", "B-PERSON", "B_per")),
        *((label, False) for label in ("O", "B-ORG", "PERCENT", "LABEL_1", "B-OPS", "QT")),
    ],
)
def test_labels_of_people(label: str, is_person: bool) -> None:
    assert bool(_PERSON.search(label)) is is_person


def test_a_folder_that_cannot_be_used_is_refused_before_a_text_is_read(tmp_path: Path) -> None:
    def refused(folder: object) -> str:
        values = {"personal": {"names": "ner", "names_model": str(folder)}}
        with pytest.raises(ConfigError) as error:
            open_data_gates(DICTIONARY, DataConfig.model_validate(values), {})
        message = str(error.value)
        assert message.startswith("data.personal.names_model is ")
        assert "Name a folder with a token classification model" in message
        return message

    assert "none is named" in refused("")
    assert "it is not a folder" in refused(tmp_path / "absent")
    (tmp_path / "empty").mkdir()
    assert "it has no config.json, model.safetensors, tokenizer.json" in refused(tmp_path / "empty")
    assert "none of its labels is PS or PER: O, B-ORG" in refused(save_model(tmp_path / "places", "B-ORG"))
    damaged = save_model(tmp_path / "damaged")
    (damaged / "config.json").write_text("[]", encoding="utf-8")
    assert "its config.json has no labels" in refused(damaged)
    lacking = save_model(tmp_path / "lacking")
    before = names_model_sha256(str(lacking))
    tensors = load_file(lacking / "model.safetensors")
    del tensors["classifier.bias"]
    save_file(tensors, lacking / "model.safetensors", {"format": "pt"})
    assert "it lacks 1 weights, such as classifier.bias" in refused(lacking)
    assert names_model_sha256(str(lacking)) != before
    (lacking / "model.safetensors").write_bytes(b"not a model")
    assert "it cannot be loaded" in refused(lacking)
