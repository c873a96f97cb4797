"""The model card says what it must: base, terms, data with licences, scores with intervals, and the warning."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from lorachain.errors import WorkspaceError
from lorachain.export.card import CardFacts, read_stage_infos, render_card, write_card
from lorachain.export.licences import UNKNOWN_LICENCE, licence_of_source, terms_of_base
from lorachain.provenance import write_json


def headline(accuracy: float, low: float, high: float) -> dict[str, Any]:
    found = {"protocol": "letters", "version": 1, "split": "dev", "n": 1039, "correct": 470, "accuracy": accuracy}
    return {"letters": {**found, "wilson95": [low, high], "words": "above chance"}}


def stage_info(stage: str = "02", **changes: Any) -> dict[str, Any]:
    sources = [
        {"name": "sean0042/KorMedMCQA", "kind": "hub", "rows": 3401, "sha256": "ab" * 32},
        {"name": "/home/someone/secret|files/questions.csv", "kind": "local", "rows": 12, "sha256": "cd" * 32},
    ]
    validation = {"before": headline(0.4721, 0.4418, 0.5025), "after": headline(0.5534, 0.523, 0.5833)}
    training = {"optimizer_steps": 1234, "tokens": 5_678_901}
    return {"stage": stage, "sources": sources, "validation": validation, "training": training, **changes}


def facts(**changes: Any) -> CardFacts:
    values = {"name": "kormed-4b", "base": "google/medgemma-4b-it", "auto_class": "AutoModelForImageTextToText"}
    return CardFacts(**{**values, "stages": [stage_info()], **changes})


@pytest.mark.parametrize("form", ["hf", "adapter", "gguf"])
def test_header_is_valid_and_names_base_and_licence(form: Any) -> None:
    card = render_card(facts(), form)
    _, header, body = card.split("---\n", 2)
    found = yaml.safe_load(header)
    assert found["base_model"] == "google/medgemma-4b-it"
    assert found["license"] == "other"
    assert found["license_name"] == "health-ai-developer-foundations-terms-of-use"
    assert found["license_link"].startswith("https://developers.google.com/health-ai-developer-foundations")
    assert found["base_model_relation"] == ("adapter" if form == "adapter" else "finetune")
    assert "Not for clinical use" in body
    assert "Gemma Terms of Use" in body
    assert "Health AI Developer Foundations Terms of Use" in body


def test_plain_gemma_comes_under_gemmas_terms_alone() -> None:
    card = render_card(facts(base="gemma-3-270m", auto_class="AutoModelForCausalLM"), "hf")
    assert yaml.safe_load(card.split("---\n")[1])["license"] == "gemma"
    assert "Health AI" not in card


def test_scores_stand_with_n_interval_split_and_version() -> None:
    card = render_card(facts(), "hf")
    assert "| 02 | letters 1 | dev | 1,039 | 47.2 % (44.2 % to 50.2 %) | 55.3 % (52.3 % to 58.3 %) |" in card


def test_data_stand_with_their_licences_and_without_paths() -> None:
    card = render_card(facts(), "hf")
    assert "| 02 | sean0042/KorMedMCQA | 3,401 | CC BY-NC 2.0" in card
    assert f"| 02 | questions.csv | 12 | {UNKNOWN_LICENCE} | cdcdcdcdcdcdcdcd |" in card
    assert "someone" not in card


def test_a_chain_without_validation_says_so() -> None:
    card = render_card(facts(stages=[stage_info(validation={"before": None, "after": None})]), "hf")
    assert "Not validated" in card


def test_licences_by_name() -> None:
    assert licence_of_source("wikimedia/wikipedia:20231101.ko").startswith("CC BY-SA 4.0")
    assert licence_of_source("sample").startswith("CC0")
    assert len(terms_of_base("medgemma-27b")) == 2
    assert len(terms_of_base("google/gemma-3-4b-it")) == 1


def test_card_and_notice_are_written(tmp_path: Path) -> None:
    write_json(tmp_path / "01" / "training_info.json", stage_info("01"))
    write_json(tmp_path / "02" / "training_info.json", stage_info("02"))
    stages = read_stage_infos([tmp_path / "01", tmp_path / "02"])
    write_card(tmp_path / "out", facts(stages=stages), "hf")
    assert "- Stage 01: 1,234 optimizer steps, 5,678,901 tokens." in (tmp_path / "out" / "README.md").read_text()
    notice = (tmp_path / "out" / "NOTICE").read_text()
    assert "HAI-DEF is provided under" in notice
    assert "modified version of google/medgemma-4b-it" in notice


def test_no_stage_to_write_from() -> None:
    with pytest.raises(WorkspaceError, match="no trained stage"):
        read_stage_infos([])
