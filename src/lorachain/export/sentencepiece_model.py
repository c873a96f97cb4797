"""A fast tokenizer's vocabulary as a SentencePiece model, as Gemma's own `tokenizer.model`.

Without that file llama.cpp's converter guesses how the tokenizer splits texts, and writes a name for it that only
recent versions of llama.cpp and Ollama know. With it, it writes the vocabulary in the form of every Gemma 3 GGUF file.
"""

import json
import re
from pathlib import Path
from typing import Any

from sentencepiece import sentencepiece_model_pb2

from lorachain.errors import ModelError

_PROTO: Any = sentencepiece_model_pb2  # its classes are made at import, so that they have no types
TOKENIZER_MODEL = "tokenizer.model"
_TOKENIZER = "tokenizer.json"
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_SPACE = "\u2581"


def add_tokenizer_model(folder: Path) -> bool:
    """Writes `tokenizer.model` beside a `tokenizer.json` of the same vocabulary; returns whether it did.

    Nothing is written where there is one already, or where the tokenizer does not work as SentencePiece does: another
    kind than BPE with bytes, or other spaces.

    Raises:
        ModelError: tokenizer.json cannot be read.
    """
    file, target = folder / _TOKENIZER, folder / TOKENIZER_MODEL
    if target.exists() or not file.is_file():
        return False
    try:
        content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        if not _is_sentencepiece(content):
            return False
        target.write_bytes(_model(content).SerializeToString())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{file} is not a tokenizer of the library tokenizers: {error!r}") from error
    return True


def _is_sentencepiece(content: dict[str, Any]) -> bool:
    model, normalizer = content["model"], content["normalizer"] or {}
    replaced = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    return model["type"] == "BPE" and bool(model["byte_fallback"]) and normalizer == replaced


def _model(content: dict[str, Any]) -> Any:
    """Pieces in the order of their ids. SentencePiece merges the pair whose piece has the highest score, so a score is
    minus the place of the first merge that makes the piece."""
    vocabulary: dict[str, int] = content["model"]["vocab"]
    added = {token["content"]: token for token in content["added_tokens"]}
    unknown = content["model"]["unk_token"]
    scores: dict[str, float] = {}
    for place, merge in enumerate(content["model"]["merges"]):
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        scores.setdefault(left + right, -float(place))
    kinds = _PROTO.ModelProto.SentencePiece
    model = _PROTO.ModelProto()
    lowest = -float(len(scores) + 1)
    for number, (piece, id_) in enumerate(sorted(_all(vocabulary, added).items(), key=lambda item: item[1])):
        if id_ != number:
            raise ValueError(f"no token has the id {number}")
        if piece == unknown:
            kind = kinds.UNKNOWN
        elif piece in added:
            kind = kinds.CONTROL if added[piece]["special"] else kinds.USER_DEFINED
        else:
            kind = kinds.BYTE if _BYTE.fullmatch(piece) else kinds.NORMAL
        model.pieces.add(piece=piece, score=scores.get(piece, lowest), type=kind)
    trainer, normalizer = model.trainer_spec, model.normalizer_spec
    trainer.model_type, trainer.byte_fallback = _PROTO.TrainerSpec.BPE, True
    trainer.vocab_size, trainer.unk_id, trainer.unk_piece = len(model.pieces), vocabulary[unknown], unknown
    normalizer.name = "identity"
    normalizer.add_dummy_prefix = normalizer.remove_extra_whitespaces = False
    return model


def _all(vocabulary: dict[str, int], added: dict[str, Any]) -> dict[str, int]:
    return {**vocabulary, **{text: int(token["id"]) for text, token in added.items()}}
