"""The model card has the base, its terms, the data with licences, scores with intervals, and the warning."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from artifact_making import HASH, exact_match_measure, perplexity_measure, source_record, training_info
from chain_making import FinishedChain
from lorachain.artifacts import TrainingInfo, read_training_info
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
        "| 02 | letters 1 | dev | 1,039 | 47.3 % (44.2 % to 50.3 %) "
        "| 55.3 % (52.3 % to 58.3 %), above chance (p < 0.001) |"
    ) in card


def test_a_score_that_was_not_measured_before_says_so() -> None:
    validation = training_info().validation.model_copy(update={"before": None})
    card = render_card(facts(stages=[training_info(validation=validation)]), "hf")
    assert "| 02 | letters 1 | dev | 1,039 | not measured | 55.3 % (52.3 % to 58.3 %), above chance" in card


SENTENCE = "Cleared by the FDA <b>x</b>|[y](https://z) \x1b[2J"


def forged(info: TrainingInfo, path: str, value: object) -> TrainingInfo:
    """With another value at a dotted path; `*` names the first entry, and a last part `KEY` renames it."""
    stored = info.as_dict()
    holder: Any = stored
    *parents, last = path.split(".")
    for name in parents:
        holder = holder[next(iter(holder)) if name == "*" else int(name) if isinstance(holder, list) else name]
    if last == "KEY":
        holder[value] = holder.pop(next(iter(holder), ""), 1)
    else:
        holder[last] = value
    return TrainingInfo.parse(stored)


@pytest.mark.parametrize(
    "path",
    [
        *("stage", "model", "base", "finished", "counts.KEY", "configuration.KEY", "versions.KEY", "training.device"),
        *("validation.selected_by", "validation.after.KEY", "validation.after.*.protocol"),
        *("validation.after.*.protocol_version", "validation.after.*.split", "validation.after.*.summary"),
        *("validation.before.*.protocol", "validation.before.*.split", "validation.before.*.summary"),
        *("measures.after.KEY", "measures.after.*.name", "measures.after.*.split", "measures.after.*.protocol_version"),
        *("measures.before.*.name", "measures.before.*.split", "measures.before.*.protocol_version"),
        *("sources.0.name", "sources.0.short_name", "sources.0.sha256", "sources.0.revision", "sources.0.files.KEY"),
        *("sources.1.name", "sources.2.name", "exam_sources.0.name"),
    ],
)
@pytest.mark.parametrize("form", ["hf", "adapter", "gguf"])
def test_no_sentence_of_a_forged_file_is_in_the_card(path: str, form: Any) -> None:
    measures = Measures(
        before={"exact_match": exact_match_measure(0.1)}, after={"exact_match": exact_match_measure(0.2)}
    )
    sources = (*SOURCES, source_record(name="sample", kind="sample"))
    info = forged(training_info(measures=measures, sources=sources), path, SENTENCE)
    card = render_card(facts(stages=[info, training_info("01")]), form)
    for part in ("FDA", "<b>", "(https://z)", "\x1b", "2J"):
        assert part not in card
    assert "| 01 | letters 1 | dev | 1,039 |" in card


@pytest.mark.parametrize(
    ("path", "value"),
    [
        *(("validation.after.*.split", value) for value in ("test", "DEV", "")),
        *(("validation.after.*.protocol", value) for value in ("cloze", "Letters", "")),
        *(("validation.after.*.protocol_version", value) for value in ("", "1 ", "one", "1\n")),
        *(("validation.after.*.n", value) for value in (0, -1, 10)),
        ("validation.after.*.correct", -1),
    ],
)
def test_scores_that_no_stage_writes_are_left_out_and_counted(path: str, value: object) -> None:
    card = render_card(facts(stages=[forged(training_info(), path, value), training_info("01")]), "hf")
    assert "| 02 | letters" not in card
    assert "1 more in the chain's files have a name that lorachain does not know" in card


def test_accuracies_are_computed_from_the_counts() -> None:
    info = forged(training_info(), "validation.after.*.accuracy", 0.999)
    info = forged(info, "validation.after.*.wilson95", [0.99, 1.0])
    assert render_card(facts(stages=[info]), "hf") == render_card(facts(stages=[training_info()]), "hf")


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
    assert f"| 02 | a local file | 12 | {UNKNOWN_LICENCE} | cdcdcdcdcdcdcdcd |" in card
    assert "someone" not in card
    assert "questions.csv" not in card  # a name can say anything
    several = source_record(name="corpus", kind="local", files={"a.txt": HASH, "b.txt": HASH})
    config = source_record(name="wikimedia/wikipedia:20231101.ko", kind="hub")
    card = render_card(facts(stages=[training_info(sources=(several, config))]), "hf")
    assert f"| 02 | 2 local files | 3,401 | {UNKNOWN_LICENCE} |" in card
    assert "| 02 | wikimedia/wikipedia:20231101.ko | 3,401 | CC BY-SA 4.0" in card


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


def test_everything_that_a_chain_measures_and_counts_is_in_its_card(
    finished_chain: Callable[..., FinishedChain],
) -> None:
    model = finished_chain("text").model
    stages = [read_training_info(model / f"{stage}_trained" / "tiny") for stage in ("00", "01", "02")]
    card = render_card(facts(stages=stages), "hf")
    assert "does not know" not in card
    for info in stages:
        for measure in info.measures.after.values():
            assert f"| {info.stage} | {measure.name} {measure.protocol_version} | {measure.split} |" in card
        for name, count in info.counts.items():
            shown = f"{count:,} {name.replace('_', ' ')}" in card
            assert shown != name.endswith("left_out"), name
