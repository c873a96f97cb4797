"""Hub data sets without a hub: the calls are pinned to one commit, each failure states the next step."""

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import datasets
import huggingface_hub
import pytest
from huggingface_hub.errors import OfflineModeIsEnabled

from lorachain.data import hub as hub_module
from lorachain.data.dictionary import load_dictionary
from lorachain.data.exam import load_exam
from lorachain.data.plain_text import stream_plain_text
from lorachain.errors import DataError
from lorachain.records import PlainText, Term

QUESTION = {"year": 2020, "period": 1, "cot": "", "A": "가", "B": "나", "C": "다", "D": "라", "E": "마", "answer": 1}


def question(subject: str, number: int) -> dict[str, object]:
    return {**QUESTION, "subject": subject, "q_number": number, "question": f"{subject}의 {number}번째 질문은?"}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A hub of one exam with two configurations and one corpus; `calls` keeps the arguments of `load_dataset`."""
    data: dict[tuple[str | None, str], list[dict[str, object]]] = {
        (subject, split): [question(subject, n) for n in numbers]
        for subject in ("doctor", "nurse")
        for split, numbers in {"train": range(1, 5), "dev": range(5, 9), "fewshot": range(5, 7)}.items()
    }
    data["20231101.ko", "train"] = [{"text": "첫 문서"}, {"text": ""}, {"text": "둘째 문서"}]
    data[None, "train"] = [{"term": "콜레라", "english": "Cholera"}]
    calls: list[tuple[Any, ...]] = []

    def load(repo: str, config: str | None, *, split: str, revision: str | None, streaming: bool) -> list[Any]:
        calls.append((repo, config, split, revision, streaming))
        return data[config, split]

    monkeypatch.setattr(
        huggingface_hub.HfApi, "dataset_info", lambda self, repo, **kwargs: SimpleNamespace(sha="c0ffee", siblings=[])
    )
    monkeypatch.setattr(datasets, "load_dataset", load)
    monkeypatch.setattr(datasets, "get_dataset_config_names", lambda repo, revision: ["doctor", "nurse"])
    monkeypatch.setattr(
        datasets, "get_dataset_split_names", lambda repo, config, revision: [s for c, s in data if c == config]
    )
    return SimpleNamespace(calls=calls, data=data)


def test_exam_reads_all_configurations_at_one_commit(hub: SimpleNamespace) -> None:
    loaded = load_exam(["sean0042/KorMedMCQA"], "dev")
    assert [q.id for q in loaded.questions] == [f"{s}-2020-1-{n}" for s in ("doctor", "nurse") for n in (7, 8)]
    assert loaded.fewshot_left_out == 4
    assert loaded.questions[0].exam == "KorMedMCQA"
    assert (loaded.sources[0].kind, loaded.sources[0].revision, loaded.sources[0].files) == ("hub", "c0ffee", {})
    assert {call[3] for call in hub.calls} == {"c0ffee"}
    assert not any(call[2] == "test" for call in hub.calls)


def test_a_data_set_that_moves_while_it_is_read(hub: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    commits = iter(["first", "second", "third"])
    monkeypatch.setattr(
        huggingface_hub.HfApi, "dataset_info", lambda *a, **k: SimpleNamespace(sha=next(commits), siblings=[])
    )
    assert load_exam(["o/exam"], "dev").sources[0].revision == "first"
    assert {(call[2], call[3]) for call in hub.calls} == {("dev", "first"), ("fewshot", "first")}


def test_exam_configuration_and_subjects(hub: SimpleNamespace) -> None:
    assert {q.subject for q in load_exam(["o/exam:nurse"], "train").questions} == {"nurse"}
    load_exam(["o/exam"], "train", subjects=["doctor"])
    assert [call[1] for call in hub.calls] == ["nurse", "doctor"]
    with pytest.raises(DataError, match="no test split; found: dev, fewshot, train"):
        load_exam(["o/exam"], "test", allow_test=True)


def test_plain_text_streams_and_fingerprints_the_rows(hub: SimpleNamespace) -> None:
    stream = stream_plain_text(["wikimedia/wikipedia:20231101.ko"])
    assert [(d.text, d.source) for d in stream if isinstance(d, PlainText)] == [
        ("첫 문서", "wikimedia/wikipedia:20231101.ko:train row 1"),
        ("둘째 문서", "wikimedia/wikipedia:20231101.ko:train row 3"),
    ]
    assert hub.calls == [("wikimedia/wikipedia", "20231101.ko", "train", "c0ffee", True)]
    before = stream.sources[0]
    assert before.rows == 2
    hub.data["20231101.ko", "train"][2] = {"text": "다른 문서"}
    changed = stream_plain_text(["wikimedia/wikipedia:20231101.ko"])
    list(changed)
    assert changed.sources[0].sha256 != before.sha256


def test_dictionary(hub: SimpleNamespace) -> None:
    assert load_dictionary(["owner/terms"]).entries[0].english == "Cholera"


def test_another_split_and_columns(hub: SimpleNamespace) -> None:
    hub.data[None, "terms"] = [{"name": "위염", "gloss": "염증"}]
    loaded = load_dictionary(["owner/terms#split=terms,term=name,definition=gloss"])
    assert loaded.entries == [Term("위염", "염증")]
    assert hub.calls == [("owner/terms", None, "terms", "c0ffee", True)]
    with pytest.raises(DataError, match="no column 'names'"):
        load_dictionary(["owner/terms#split=terms,term=names"])


def test_an_exam_of_which_one_split_is_trained_on(hub: SimpleNamespace) -> None:
    hub.data["doctor", "extra"] = [question("doctor", 99)]
    source = "o/exam:doctor#split=extra"
    assert [q.id for q in load_exam([source], "train").questions] == ["doctor-2020-1-99"]
    dev = load_exam([source, "sample"], "dev")
    assert {q.exam for q in dev.questions} == {"sample"}
    assert {call[2] for call in hub.calls} == {"extra"}
    with pytest.raises(DataError, match="no train split; found: dev, extra, fewshot, train"):
        load_exam(["o/exam:doctor#split=absent"], "train")


def _raise(error: BaseException) -> Callable[..., Any]:
    def call(*args: object, **kwargs: object) -> Any:
        raise error

    return call


GATED = type("GatedRepoError", (Exception,), {})
MISSING = type("RepositoryNotFoundError", (Exception,), {})


@pytest.mark.parametrize(
    ("error", "steps"),
    [
        (GATED("401"), ["gated", "https://huggingface.co/datasets/o/d", "hf auth login", "local copy"]),
        (MISSING("404"), ["neither a local path", "https://huggingface.co/datasets/o/d", "hf auth login"]),
        (ConnectionError("no route"), ["cannot be reached", "local path", "HF_HUB_OFFLINE=1"]),
        (RuntimeError("scripts"), ["RuntimeError", "owner/name:config"]),
    ],
)
def test_failures_state_the_next_step(
    hub: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, error: Exception, steps: list[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secretsecret")
    monkeypatch.setattr(hub_module, "offline", lambda: False)
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", _raise(error))
    with pytest.raises(DataError) as raised:
        list(stream_plain_text(["o/d"]))
    assert all(step in str(raised.value) for step in steps)
    assert "hf_secret" not in str(raised.value)


def test_offline_reads_the_cache_only(hub: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", _raise(OfflineModeIsEnabled("offline")))
    loaded = load_dictionary(["owner/terms"])
    assert loaded.sources[0].revision is None
    assert len(loaded.entries) == 1


def test_an_interrupted_stream(hub: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*args: object, **kwargs: object) -> Iterator[dict[str, str]]:
        yield {"text": "첫 문서"}
        raise ConnectionError("reset")

    monkeypatch.setattr(datasets, "load_dataset", broken)
    stream = stream_plain_text(["o/d"])
    documents = iter(stream)
    assert next(documents).text == "첫 문서"
    with pytest.raises(DataError, match="cannot be reached"):
        next(documents)
