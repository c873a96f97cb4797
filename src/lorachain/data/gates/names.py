"""Names of people, found by a token classification model that the user has on the disk (`data.personal.names`).

What it finds is what the model was trained to find; those published for Korean were trained on news.
"""

import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lorachain.errors import ConfigError
from lorachain.provenance import load_json, sha256_file, sha256_json

_SETTING = "data.personal.names_model"
_PERSON = re.compile(r"(?:^|[-_ ])(?:PS|PER|PERSON|PERSON_?NAME|NAME)(?:$|[-_ ])", re.IGNORECASE)
"""Labels of people: `PS` in KLUE and the corpora of NIKL, `PER` in CoNLL and NAVER's, before or behind `B` or `I`."""
_MOST_TOKENS = 512
_OVERLAP = 4
"""A window repeats one in so many of its tokens, so that a name at its end is whole in the next."""
_FILES = ("config.json", "model.safetensors", "tokenizer.json")


def check_names_model(folder: str) -> None:
    """Whether the folder has a model that names people; it is loaded and kept for this process.

    Raises:
        ConfigError: it is none, or it cannot be loaded.
    """
    _check_files(folder)
    _recognizer(folder)


def names_model_sha256(folder: str) -> str:
    """Of the files that decide what is found."""
    return sha256_json([sha256_file(Path(folder).expanduser() / name) for name in _FILES])


def find_names(folder: str, text: str) -> Iterator[tuple[int, int]]:
    """Where names are in the text, in order; parts of one that follow each other are one."""
    if not text.strip():
        return
    start = end = -1
    for found in sorted(_recognizer(folder)(text), key=lambda found: (found["start"], found["end"])):
        if not _PERSON.search(found["entity_group"]):
            continue
        if start >= 0 and found["start"] <= end:
            end = max(end, found["end"])
            continue
        if start >= 0:
            yield start, end
        start, end = found["start"], found["end"]
    if start >= 0:
        yield start, end


def _check_files(folder: str) -> None:
    """Raises ConfigError where the folder lacks a file, or its model has no label for people."""
    if not folder:
        raise _unusable(folder, "none is named")
    path = Path(folder).expanduser()
    missing = [name for name in _FILES if not (path / name).is_file()]
    if missing:
        raise _unusable(folder, f"it has no {', '.join(missing)}" if path.is_dir() else "it is not a folder")
    try:
        config = load_json(path / "config.json")
        labels = [str(label) for label in config["id2label"].values()]
    except (OSError, ValueError, RecursionError, KeyError, TypeError, AttributeError) as error:
        raise _unusable(folder, f"its config.json has no labels ({type(error).__name__})") from error
    if not any(map(_PERSON.search, labels)):
        raise _unusable(folder, f"none of its labels is PS or PER: {', '.join(labels[:8])}")


@functools.cache
def _recognizer(folder: str) -> Any:
    """The model in a pipeline that reads texts of any length in overlapping windows.

    Raises:
        ConfigError: it cannot be loaded, or a weight is missing (transformers would fill it with random numbers).
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForTokenClassification, AutoTokenizer, pipeline

    place = str(Path(folder).expanduser())
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, local_files_only=True, trust_remote_code=False)
        model, loading = AutoModelForTokenClassification.from_pretrained(
            place,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        raise _unusable(folder, f"it cannot be loaded ({str(error)[:200]})") from error
    lacking = sorted(loading["missing_keys"]) + sorted(map(str, loading["mismatched_keys"]))
    if lacking:
        raise _unusable(folder, f"it lacks {len(lacking)} weights, such as {lacking[0]}")
    if not tokenizer.is_fast:
        raise _unusable(folder, "its tokenizer does not say where a token is in the text")
    positions = getattr(model.config, "max_position_embeddings", _MOST_TOKENS)
    tokenizer.model_max_length = min(_MOST_TOKENS, positions - 2, tokenizer.model_max_length)
    return pipeline(
        "token-classification",
        model=model.eval(),
        tokenizer=tokenizer,
        device=-1,
        aggregation_strategy="simple",
        stride=tokenizer.model_max_length // _OVERLAP,
    )


def _unusable(folder: str, reason: str) -> ConfigError:
    return ConfigError(
        f"{_SETTING} is {folder!r}, which cannot be used: {reason}. Name a folder with a token classification model "
        f"({', '.join(_FILES)}) that has a label for people, such as PS or PER; or set data.personal.names to off"
    )
