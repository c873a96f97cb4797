"""Which forms of an entry stage 01 trains in each epoch."""

import dataclasses
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from torch import nn

from conftest import make_text_model, make_tokenizer
from lorachain.chain.context import load_config
from lorachain.chain.tasks import dictionary
from lorachain.chain.tasks.base import TaskInputs
from lorachain.chain.tasks.dictionary import DictionaryTask, load_dictionary_task
from lorachain.config_reading import parse_setting
from lorachain.dictionary_forms import direction_of, form_name
from lorachain.errors import ConfigError
from lorachain.evaluation.exact_match import exact_match
from lorachain.tokens import TokenEncoder

Load = Callable[..., DictionaryTask]
BOTH = ("term->definition", "definition->term", "term->english", "english->term")


@pytest.fixture
def load(tmp_path: Path) -> Load:
    config = load_config()

    def make(*, forms: int | None, seed: int = 0, source: str = "sample", max_length: int = 3000) -> DictionaryTask:
        settings = {"forms": forms, "max_samples": 12, "max_length": max_length}
        return load_dictionary_task(
            TaskInputs(
                encoder=TokenEncoder(make_tokenizer()),
                stage=config.stages["01"].model_copy(update=settings),
                validation=config.validation,
                seed=seed,
                sources=[source],
                dev=[],
                held_out=[],
                answer_style="options",
                cache=tmp_path / "tokens",
                tokenizer_sha256="of the tokenizer",
                skip_bad_rows=False,
                on_message=lambda message: None,
            )
        )

    return make


def forms_of(task: DictionaryTask, epoch: int) -> list[tuple[int, str]]:
    packs = task.packs_of_epoch(epoch)
    rows = [row for i in range(len(packs)) for row in packs[i]]
    return [(row.record, row.form) for row in rows]


@pytest.mark.parametrize(("forms", "per_side"), [(0, 1), (1, 1), (2, 2), (4, 4)])
def test_every_epoch_has_as_many_examples(load: Load, forms: int, per_side: int) -> None:
    task = load(forms=forms)
    for epoch in range(5):
        rows = forms_of(task, epoch)
        sides = Counter((record, form.startswith("term->")) for record, form in rows)
        assert set(sides.values()) == {per_side}
        assert len(rows) == 12 * 2 * per_side


@pytest.mark.parametrize("forms", [None, 0])
def test_without_forms_only_the_entrys_own_is_trained(load: Load, forms: int | None) -> None:
    task = load(forms=forms)
    trained = [forms_of(task, epoch) for epoch in range(2)]
    assert {form for rows in trained for _, form in rows} == set(BOTH)
    assert [form for _, form in trained[0][:4]] == [*BOTH[:2], *BOTH[2:]]  # directions alternate over the entries
    assert [form for _, form in trained[1][:2]] == list(BOTH[2:])


def test_forms_take_turns_until_all_were_trained(load: Load) -> None:
    task = load(forms=1)
    seen = Counter(item for epoch in range(8) for item in forms_of(task, epoch))
    assert set(seen.values()) == {1}  # 2 directions of 4 forms towards the description and back: 8 epochs
    assert len(seen) == 12 * 4 * 4
    forms = Counter(form_name(form) for _, form in forms_of(task, 0))
    assert len(forms) == 4  # the entries start with different forms


def test_two_forms_of_an_epoch_are_different(load: Load) -> None:
    rows = forms_of(load(forms=2), 0)
    assert len(set(rows)) == len(rows)


def test_the_seed_decides_the_form(load: Load) -> None:
    assert forms_of(load(forms=1), 3) == forms_of(load(forms=1), 3)
    assert forms_of(load(forms=1), 3) != forms_of(load(forms=1, seed=1), 3)


def test_a_form_that_does_not_fit_is_left_out_and_its_entry_stays(load: Load, tmp_path: Path) -> None:
    source = tmp_path / "terms.jsonl"
    source.write_text('{"term": "심부전", "english": "heart failure"}\n', encoding="utf-8")
    longest = max(load(forms=1, source=str(source)).store.lengths)
    task = load(forms=1, source=str(source), max_length=int(longest) - 1)
    assert task.counts == {"entries": 1, "longer_than_max_length_left_out": 0}
    trained = Counter(form for epoch in range(4) for _, form in forms_of(task, epoch))
    assert len(trained) < 8
    assert all(len(forms_of(task, epoch)) == 2 for epoch in range(4))
    assert {direction_of(form) for form in trained} == {"term->english", "english->term"}


def test_exact_match_is_measured_in_the_own_form_and_in_new_ones(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bool] = []

    def spy(model: nn.Module, *arguments: object, held_out_forms: bool = False, **settings: object) -> object:
        asked.append(held_out_forms)
        return exact_match(model, *arguments, held_out_forms=held_out_forms, max_new_tokens=1, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(dictionary, "exact_match", spy)
    task = load(forms=1)
    task = dataclasses.replace(task, sample=task.sample[:2])
    measures = task.measure(make_text_model())
    assert asked == [False, True]
    assert measures["exact_match"].name == "exact match"
    assert measures["exact_match_new_forms"].name == "exact match, new forms"
    assert measures["exact_match"].n == measures["exact_match_new_forms"].n == 6


@pytest.mark.parametrize("stage", ["00", "02"])
def test_only_a_dictionary_has_forms(stage: str) -> None:
    with pytest.raises(ConfigError, match=f"stages.{stage}.forms is 2, but stage {stage} trains no dictionary.*01"):
        load_config(overrides=[parse_setting(f"stages.{stage}.forms=2")])


def test_the_number_of_forms_is_a_setting() -> None:
    assert load_config().stages["01"].forms == 1
    assert load_config(overrides=[parse_setting("stages.01.forms=0")]).stages["01"].forms == 0
    with pytest.raises(ConfigError, match=r"stages\.01\.forms"):
        load_config(overrides=[parse_setting("stages.01.forms=-1")])
