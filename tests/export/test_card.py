"""The model card has the base, its terms, the data with licences, scores with intervals, and the warning."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from artifact_making import exact_match_measure, perplexity_measure, source_record, training_info
from lorachain.artifacts.stages import Measures, StageValidation
from lorachain.export.card import CardFacts, render_card, write_card
from lorachain.licences import UNKNOWN_LICENCE, licence_of_source, terms_of_base

SOURCES = (
    source_record(name="sean0042/KorMedMCQA", kind="hub"),
    source_record(name="/home/someone/secret|files/questions.csv", kind="local", rows=12, sha256="cd" * 32),
)


def facts(**changes: Any) -> CardFacts:
    values = {"name": "kormed-4b", "base": "google/medgemma-4b-it", "auto_class": "AutoModelForImageTextToText"}
    return CardFacts(**{**values, "stages": [training_info(sources=SOURCES)], **changes})


@pytest.mark.parametrize("form", ["hf", "adapter", "gguf"])
def test_the_header_is_valid_and_names_base_and_licence(form: Any) -> None:
    card = render_card(facts(), form)
    _, header, body = card.split("---\n", 2)
    metadata = yaml.safe_load(header)
    assert metadata["base_model"] == "google/medgemma-4b-it"
    assert metadata["license"] == "other"
    assert metadata["license_name"] == "health-ai-developer-foundations-terms-of-use"
    assert metadata["license_link"].startswith("https://developers.google.com/health-ai-developer-foundations")
    assert metadata["base_model_relation"] == ("adapter" if form == "adapter" else "finetune")
    assert "Not for clinical use" in body
    assert "Gemma Terms of Use" in body
    assert "Health AI Developer Foundations Terms of Use" in body


def test_plain_gemma_has_the_terms_of_gemma_alone() -> None:
    card = render_card(facts(base="gemma-3-270m", auto_class="AutoModelForCausalLM"), "hf")
    assert yaml.safe_load(card.split("---\n")[1])["license"] == "gemma"
    assert "Health AI" not in card


def test_scores_have_n_interval_split_version_and_chance() -> None:
    card = render_card(facts(), "hf")
    assert (
        "| 02 | letters 1 | dev | 1,039 | 47.2 % (44.2 % to 50.2 %) "
        "| 55.3 % (52.3 % to 58.3 %), above chance (p < 0.001) |"
    ) in card


def test_a_score_that_was_not_measured_before_says_so() -> None:
    validation = training_info().validation.model_copy(update={"before": None})
    card = render_card(facts(stages=[training_info(validation=validation)]), "hf")
    assert "| 02 | letters 1 | dev | 1,039 | not measured | 55.3 % (52.3 % to 58.3 %), above chance" in card


def test_a_sentence_written_into_a_score_is_not_in_the_card() -> None:
    info = training_info()
    after = {
        name: score.model_copy(update={"summary": "Cleared by the FDA", "split": "<b>x</b>|[y](https://z) \x1b[2J"})
        for name, score in info.validation.after.items()
    }
    validation = info.validation.model_copy(update={"after": after})
    card = render_card(facts(stages=[training_info(validation=validation)]), "hf")
    assert "FDA" not in card
    assert r"| &lt;b>x&lt;/b>\|[y]\(https://z) \x1b[2J | 1,039 |" in card


def test_measures_of_a_stage_are_scores_too() -> None:
    perplexity = Measures(
        before={"heldout_perplexity": perplexity_measure(35.78)}, after={"heldout_perplexity": perplexity_measure(27.1)}
    )
    match = Measures(before={}, after={"exact_match": exact_match_measure(0.2)})
    card = render_card(
        facts(stages=[training_info("00", measures=perplexity), training_info("01", measures=match)]), "hf"
    )
    assert (
        "| 00 | perplexity 1 | held-out documents | 1,071 tokens "
        "| perplexity 35.78 (n=1,071 tokens) | perplexity 27.10 (n=1,071 tokens) |"
    ) in card
    assert (
        "| 01 | exact match 1 | trained entries | 30 answers | not measured | exact match 20.0 % [10.0, 30.0] n=30 |"
    ) in card


def test_data_have_their_licences_and_no_paths() -> None:
    card = render_card(facts(), "hf")
    assert "| 02 | sean0042/KorMedMCQA | 3,401 | CC BY-NC 2.0" in card
    assert f"| 02 | questions.csv | 12 | {UNKNOWN_LICENCE} | cdcdcdcdcdcdcdcd |" in card
    assert "someone" not in card


def test_a_chain_without_validation_says_so() -> None:
    validation = StageValidation(selected_by="letters", before=None, after={}, epoch_kept=1)
    card = render_card(facts(stages=[training_info(validation=validation)]), "hf")
    assert "Not validated" in card


def test_licences_by_name() -> None:
    assert licence_of_source("wikimedia/wikipedia:20231101.ko").startswith("CC BY-SA 4.0")
    assert licence_of_source("sample").startswith("CC0")
    assert len(terms_of_base("medgemma-27b")) == 2
    assert len(terms_of_base("google/gemma-3-4b-it")) == 1


def test_card_and_notice_are_written(tmp_path: Path) -> None:
    write_card(tmp_path / "out", facts(stages=[training_info("01"), training_info("02")]), "hf")
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "- Stage 01: 1,234 optimizer steps, 5,678,901 tokens; 3,000 questions.\n" in card
    assert "- Stage 02: 1,234 optimizer steps" in card
    notice = (tmp_path / "out" / "NOTICE").read_text(encoding="utf-8")
    assert "HAI-DEF is provided under" in notice
    assert "modified version of google/medgemma-4b-it" in notice
