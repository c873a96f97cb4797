"""The SentencePiece model that is written for llama.cpp's converter gives the ids of the tokenizer it was made from."""

import json
from pathlib import Path
from typing import Any

import pytest
from sentencepiece import SentencePieceProcessor

from conftest import make_tokenizer
from lorachain.errors import ModelError
from lorachain.export.sentencepiece_model import TOKENIZER_MODEL, add_tokenizer_model
from lorachain.tokens import TokenEncoder

TEXTS = [
    "급성심근경색의 뜻은 다음과 같다.",
    "문제: 옳은 것은?\nA. 하나\nB. 둘\n\n정답: A",
    "  두 칸, 끝에 한 칸 ",
    "a\n\n\nb\tc",
    "é 👩‍⚕️ 𠀀",
    "정답풀이 용어뜻영 ABCDE A B",
    "",
]


def saved(folder: Path, tokenizer: Any) -> Path:
    tokenizer.save_pretrained(folder)
    return folder


def ids_of(folder: Path, texts: list[str]) -> list[list[int]]:
    processor = SentencePieceProcessor(model_file=str(folder / TOKENIZER_MODEL))
    return [processor.encode(text) for text in texts]


def test_the_ids_are_those_of_the_tokenizer(tmp_path: Path) -> None:
    tokenizer = make_tokenizer(words=("정답", "정답은", "풀이", "A", "ABC"))
    folder = saved(tmp_path / "model", tokenizer)
    assert add_tokenizer_model(folder)
    encoder = TokenEncoder(tokenizer)
    assert ids_of(folder, TEXTS) == [encoder.text_ids(text) for text in TEXTS]
    assert any(len(ids) < len(text) for ids, text in zip(ids_of(folder, TEXTS), TEXTS, strict=True))  # merges happen
    processor = SentencePieceProcessor(model_file=str(folder / TOKENIZER_MODEL))
    assert (processor.unk_id(), processor.is_control(2), processor.is_byte(6)) == (3, True, True)


def test_a_tokenizer_model_that_is_there_stays(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model", make_tokenizer())
    (folder / TOKENIZER_MODEL).write_bytes(b"its own")
    assert not add_tokenizer_model(folder)
    assert (folder / TOKENIZER_MODEL).read_bytes() == b"its own"


def changed(folder: Path, change: dict[str, Any]) -> None:
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    for key, value in change.items():
        *parents, last = key.split(".")
        part = content
        for name in parents:
            part = part[name]
        part[last] = value
    path.write_text(json.dumps(content), encoding="utf-8")


@pytest.mark.parametrize(
    "change", [{"normalizer": None}, {"model.byte_fallback": False}, {"model.type": "WordPiece"}, {"normalizer": {}}]
)
def test_another_kind_of_tokenizer_is_left_alone(tmp_path: Path, change: dict[str, Any]) -> None:
    folder = saved(tmp_path / "model", make_tokenizer())
    changed(folder, change)
    assert not add_tokenizer_model(folder)
    assert not (folder / TOKENIZER_MODEL).exists()


def test_a_broken_tokenizer_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path / "model", make_tokenizer())
    changed(folder, {"model.vocab": {"<unk>": 3, "x": 900}})
    with pytest.raises(ModelError, match=r"tokenizer\.json is not a tokenizer"):
        add_tokenizer_model(folder)
    (folder / "tokenizer.json").write_text("[]", encoding="utf-8")
    with pytest.raises(ModelError, match=r"tokenizer\.json is not a tokenizer"):
        add_tokenizer_model(folder)
    (folder / "tokenizer.json").unlink()
    assert not add_tokenizer_model(folder)


@pytest.mark.real_model
def test_the_ids_of_a_real_gemma(tmp_path: Path) -> None:
    """On the embedded exam, and on texts with the runs of blanks and lines that are tokens of their own."""
    import shutil

    from lorachain.data.exam import load_exam
    from lorachain.embedded_model import embedded_weights
    from lorachain.prompts import question_block
    from lorachain.weights.load import load_tokenizer

    base = embedded_weights()
    folder = tmp_path / "model"
    folder.mkdir()
    shutil.copyfile(base / "tokenizer.json", folder / "tokenizer.json")
    assert add_tokenizer_model(folder)
    encoder = TokenEncoder(load_tokenizer(base))
    texts = [*TEXTS, "a\n\n \n\n\n  b", *(question_block(one) for one in load_exam(["sample"], "dev").questions)]
    assert ids_of(folder, texts) == [encoder.text_ids(text) for text in texts]
