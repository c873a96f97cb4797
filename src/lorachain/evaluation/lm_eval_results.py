"""Results of lm-evaluation-harness: `samples_*.jsonl`, with the `results_*.json` beside them.

Written by its `--log_samples --output_path DIR`, read as version 0.4.13 writes them. Task `kormedmcqa` 3.0 is our
protocol `lm-eval-3.0`, so that its results compare with ours; other tasks compare with each other.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lorachain.artifacts.evaluation import ScoredModelIdentity
from lorachain.errors import DataError
from lorachain.evaluation.comparable import Answered, Comparable
from lorachain.evaluation.questions import question_content_hash
from lorachain.provenance import load_json
from lorachain.records import LETTERS

_NAME = re.compile(r"samples_(?P<task>.+)_(?P<date>\d{4}-\d\d-\d\dT\d\d-\d\d-\d\d(?:\.\d+)?)\.jsonl")
_PARITY = ("lm-eval-3.0", "3.0")
"""Our protocol and its version, which is compared with the harness question by question."""
_METRICS = ("exact_match", "acc")
_MAX_LINE = 16_000_000
"""Bytes of one line; a sample of KorMedMCQA with five shots has about 30,000."""


def is_lm_eval(path: Path) -> bool:
    """Whether a path names results of the harness: a samples file, or a directory with some."""
    return path.is_dir() or _NAME.fullmatch(path.name) is not None


def lm_eval_result(path: Path) -> Comparable:
    """The samples of one run of the harness; of a directory, all of its tasks together.

    Raises:
        DataError: a file is missing or is not what the harness writes; the directory has several runs; the tasks have
            different settings; a document is not a question with five options.
    """
    samples = _samples_files(path)
    (date,) = {match["date"] for match in samples.values()}
    folder = path if path.is_dir() else path.parent
    results = _results(folder / f"results_{date}.json")
    tasks = [match["task"] for match in samples.values()]
    protocol, version = _one(results, tasks, path, _protocol)
    shots = _one(results, tasks, path, lambda found, task: _number(found, "n-shot", task))
    split = _one(results, tasks, path, _split)
    rows = tuple(row for file, match in samples.items() for row in _rows(file, match["task"]))
    if not rows:
        raise DataError(f"{path} has no samples; run lm_eval again with --log_samples")
    tokens = _one(results, tasks, path, _max_new_tokens)
    settings = {"shots": shots} | ({} if tokens is None else {"max_new_tokens": tokens})
    return Comparable(
        path=path,
        model=ScoredModelIdentity(
            name=f"{_text(results.get('model_name')) or folder.name} (lm-eval {_text(results.get('lm_eval_version'))})",
            base_sha256=None,
            adapter_sha256=None,
            quantization="not recorded",
        ),
        protocol=protocol,
        version=version,
        prompt_version=None,
        settings=settings,
        split=split,
        engine=None,
        questions=None,
        rows=rows,
    )


def _samples_files(path: Path) -> dict[Path, re.Match[str]]:
    files = sorted(path.glob("samples_*.jsonl")) if path.is_dir() else [path]
    matches = {file: match for file in files if (match := _NAME.fullmatch(file.name))}
    if not matches:
        raise DataError(
            f"{path} has no samples_*.jsonl of lm-evaluation-harness; run lm_eval with --log_samples --output_path "
            "DIR, and name the directory below DIR that it made for the model"
        )
    dates = sorted({match["date"] for match in matches.values()})
    if len(dates) > 1:
        raise DataError(
            f"{path} has {len(dates)} runs of lm-evaluation-harness ({', '.join(dates)}); move the others away, or "
            "name one samples_*.jsonl"
        )
    return matches


def _results(path: Path) -> dict[str, Any]:
    try:
        results = load_json(path)
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(
            f"{path} cannot be read: {error}; the harness writes it beside its samples, and version, shots and split "
            "are in it"
        ) from error
    if not isinstance(results, dict) or not isinstance(results.get("configs"), dict):
        raise DataError(f"{path} is not a results file of lm-evaluation-harness")
    return results


def _protocol(results: dict[str, Any], task: str) -> tuple[str, str]:
    version = _text(_of(results, "versions", task))
    if task.startswith("kormedmcqa") and version == _PARITY[1]:
        return _PARITY
    family = "kormedmcqa" if task.startswith("kormedmcqa") else task
    return f"lm-eval task {family}", version


def _split(results: dict[str, Any], task: str) -> str:
    config = _of(results, "configs", task)
    if not isinstance(config, dict):
        return "not recorded"
    return _text(config.get("test_split") or config.get("validation_split"))


def _max_new_tokens(results: dict[str, Any], task: str) -> int | None:
    """Of a task that generates."""
    config = _of(results, "configs", task)
    generation = config.get("generation_kwargs") if isinstance(config, dict) else None
    value = generation.get("max_gen_toks") if isinstance(generation, dict) else None
    return value if isinstance(value, int) else None


def _number(results: dict[str, Any], key: str, task: str) -> int:
    value = _of(results, key, task)
    return value if isinstance(value, int) else 0


def _of(results: dict[str, Any], key: str, task: str) -> Any:
    values = results.get(key)
    return values.get(task) if isinstance(values, dict) else None


def _text(value: object) -> str:
    return "not recorded" if value is None else str(value)


def _one(results: dict[str, Any], tasks: list[str], path: Path, read: Any) -> Any:
    """What `read` says of every task.

    Raises:
        DataError: it differs between them.
    """
    values = {task: read(results, task) for task in tasks}
    if len(set(values.values())) > 1:
        shown = ", ".join(f"{task}: {value}" for task, value in values.items())
        raise DataError(f"{path}: its tasks were not run in the same way ({shown}); name one samples_*.jsonl")
    return values[tasks[0]]


def _rows(path: Path, task: str) -> Iterator[Answered]:
    filters: set[str] = set()
    number = 0
    with path.open("rb") as file:
        try:
            for line in iter(lambda: file.readline(_MAX_LINE), b""):
                number += 1
                sample = json.loads(line)
                if not isinstance(sample, dict):
                    raise ValueError("not an object")
                filters.add(str(sample.get("filter")))
                if len(filters) > 1:
                    raise DataError(
                        f"{path} has answers by several filters ({', '.join(sorted(filters))}); keep the lines of one"
                    )
                yield _answered(sample, task)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError(
                f"{path}, line {number}: not a sample of a five-option exam as lm-evaluation-harness logs it ({error})"
            ) from error


def _answered(sample: dict[str, Any], task: str) -> Answered:
    document = sample["doc"]
    options = tuple(str(document[letter]) for letter in LETTERS)
    answer = _answer(document["answer"])
    metric = next((name for name in _METRICS if name in sample), None)
    if metric is None:
        raise ValueError(f"it has no {' or '.join(_METRICS)}")
    return Answered(
        content=question_content_hash(str(document["question"]), options, answer),
        exam=task,
        id=str(sample["doc_id"]),
        question=str(document["question"])[:40],
        gold=LETTERS[answer],
        chosen=_chosen(sample),
        correct=float(sample[metric]) == 1.0,
    )


def _answer(value: object) -> int:
    """The index of the right option: KorMedMCQA counts from 1; some tasks name the letter."""
    if isinstance(value, str) and value in LETTERS:
        return LETTERS.index(value)
    if isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= len(LETTERS):
        return value - 1
    raise ValueError(f"its answer is {value!r}")


def _chosen(sample: dict[str, Any]) -> str | None:
    """The letter that was chosen: extracted from the text, or of the option with the highest log-likelihood."""
    answers = sample["filtered_resps"]
    if len(answers) == len(LETTERS):
        likelihoods = [float(answer[0]) for answer in answers]
        return LETTERS[likelihoods.index(max(likelihoods))]
    return str(answers[0]) if answers and str(answers[0]) in LETTERS else None
