"""The card's table by profession: n, shots, base beside the model, and nothing that a forged file says."""

from typing import Any

import pytest
import yaml

from artifact_making import HASH, epoch_score, eval_result, source_record, training_info
from lorachain.artifacts import EvalResult
from lorachain.artifacts.evaluation import ScoredModelIdentity
from lorachain.errors import DataError
from lorachain.export.card import CardFacts, render_card
from lorachain.export.professions import ProfessionRow, profession_rows

ON_HUB = (source_record(name="sean0042/KorMedMCQA", kind="hub", short_name="kormedmcqa"),)
INFO = training_info(exam_sources=ON_HUB, adapter_sha256="cd" * 32)
BASE = epoch_score("00", 0, {"doctor": (2, 10), "nurse": (4, 10)})
KEPT = epoch_score("02", 3, {"doctor": (5, 10), "nurse": (8, 10)})
LATER = epoch_score("02", 4, {"doctor": (1, 10), "nurse": (1, 10)})
HISTORY = [BASE, epoch_score("02", 0, {"doctor": (3, 10), "nurse": (3, 10)}), KEPT, LATER]
OF_02 = ScoredModelIdentity(name="02", base_sha256="ef" * 32, adapter_sha256="cd" * 32, quantization="none")
OF_BASE = ScoredModelIdentity(name="base", base_sha256=HASH, adapter_sha256=None, quantization="none")


def rows(*results: EvalResult, history: Any = HISTORY, info: Any = INFO) -> tuple[ProfessionRow, ...]:
    return profession_rows([info], history, results)


def card(*results: EvalResult, korean: bool = False, **changes: Any) -> str:
    facts = CardFacts("kormed", "google/medgemma-4b-it", "AutoModelForCausalLM", [INFO], rows(*results, **changes))
    return render_card(facts, "hf", korean=korean)


def test_the_epoch_that_was_kept_beside_the_public_base() -> None:
    doctor, nurse = rows()
    assert (doctor.profession, doctor.n, doctor.shots, doctor.split) == ("doctor", 10, 0, "dev")
    assert (doctor.model, doctor.base) == ((5, 10), (2, 10))
    assert (nurse.model, nurse.base) == ((8, 10), (4, 10))
    assert (
        "| doctor (의사) | 10 | 0 | dev | letters 1 | 20.0 % (5.7 % to 51.0 %) | 50.0 % (23.7 % to 76.3 %) |" in card()
    )


def test_evaluations_have_their_shots_and_the_base_of_the_same_questions() -> None:
    after = eval_result({"pharm": (60, 100), "dentist": (30, 100)}, model=OF_02)
    before = eval_result({"pharm": (50, 100), "dentist": (20, 100)}, model=OF_BASE)
    pharm, dentist = rows(after, before)[2:]
    assert (pharm.shots, pharm.split, pharm.protocol, pharm.base, pharm.model) == (
        *(5, "test", "lm-eval-3.0"),
        *((50, 100), (60, 100)),
    )
    assert dentist.base == (20, 100)
    other = eval_result({"pharm": (50, 100)}, model=OF_BASE, settings={"shots": 0, "max_new_tokens": 1024})
    assert rows(after, other)[2].base is None
    assert "| pharm (약사) | 100 | 5 | test | lm-eval-3.0 3.0 | not measured | 60.0 %" in card(after)


def test_a_result_of_another_model_is_refused() -> None:
    with pytest.raises(DataError, match="neither stage 02 nor the public base"):
        rows(eval_result({"pharm": (1, 2)}))


def test_the_header_has_what_the_hub_shows() -> None:
    result = eval_result({"pharm": (60, 100)}, model=OF_02)
    metadata = yaml.safe_load(card(result).split("---\n")[1])
    (index,) = metadata["model-index"]
    assert index["name"] == "kormed"
    pharm = next(one for one in index["results"] if one["dataset"]["config"] == "pharm")
    assert pharm["dataset"]["type"] == "sean0042/KorMedMCQA"
    assert (pharm["dataset"]["split"], pharm["dataset"]["args"]) == ("test", {"num_few_shot": 5})
    assert pharm["metrics"] == [
        {"type": "accuracy", "value": 60.0, "name": "accuracy, lm-eval-3.0 3.0, 5 shots, n = 100"}
    ]
    from huggingface_hub import ModelCardData

    parsed = ModelCardData(**{**metadata, "model_name": "kormed", "ignore_metadata_errors": False})
    assert len(parsed.eval_results or []) == 3


def test_other_questions_are_in_the_table_only() -> None:
    own = training_info(exam_sources=(source_record(),), adapter_sha256="cd" * 32)
    text = card(info=own)
    assert "model-index" not in yaml.safe_load(text.split("---\n")[1])
    assert "Where the questions are not KorMedMCQA's" in text
    assert "Where the questions are not KorMedMCQA's" not in card()


def test_in_korean() -> None:
    text = card(korean=True)
    assert "| 의사 | 10 | 0 | dev | letters 1 | 20.0 % (5.7 % to 51.0 %) | 50.0 %" in text
    assert "무작위 수준보다 높음 (p < 0.001)" in text
    assert "above chance" not in text
    assert "- 02단계: 옵티마이저 스텝 1,234회, 토큰 5,678,901개; 문항 3,000개.\n" in text
    assert "임상에 사용하지 마십시오" in text
    assert "Gemma is provided under" in text
    assert text.startswith("# kormed\n")  # the hub reads README.md alone
    assert "[English](README.md)" in text
    assert "[한국어](README.ko.md)" in card()


@pytest.mark.parametrize(
    "forged",
    [
        {"per_subject": {"FDA": {"n": 10, "correct": 5, "accuracy": 0.5, "wilson95": (0.1, 0.9)}}},
        {"per_subject": {"pharm": {"n": 10, "correct": 15, "accuracy": 0.5, "wilson95": (0.1, 0.9)}}},
        {"per_subject": {"pharm": {"n": 0, "correct": 0, "accuracy": 0.5, "wilson95": (0.1, 0.9)}}},
        {"protocol": "cleared by the FDA"},
        {"protocol_version": "1 FDA"},
        {"split": "FDA"},
        {"settings": {"shots": "FDA"}},
        {"settings": {"shots": -1}},
    ],
)
def test_what_lorachain_does_not_know_is_left_out(forged: dict[str, Any]) -> None:
    result = EvalResult(**{**eval_result({"pharm": (5, 10)}, model=OF_02).model_dump(), **forged})
    assert len(rows(result)) == 2  # those of the validation
    assert "FDA" not in card(result)


def test_a_history_without_the_epoch_or_the_base() -> None:
    assert rows(history=[]) == ()
    assert rows(history=[LATER]) == ()
    (doctor, _) = rows(history=[KEPT])
    assert doctor.base is None
    other_questions = epoch_score("00", 0, {"doctor": (2, 11), "nurse": (4, 10)})
    assert rows(history=[other_questions, KEPT])[0].base is None
