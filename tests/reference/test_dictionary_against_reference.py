"""Dictionary forms, greedy exact match and intruder dimensions equal plain implementations on random inputs."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from conftest import make_multimodal_model, make_text_model, make_tokenizer
from lora_making import LANGUAGE_LINEAR, load_plain, save_adapter_for, save_base
from lorachain.dictionary_forms import HELD_OUT_FORMS, TRAINED_FORMS, held_out_example, trained_examples
from lorachain.evaluation.exact_match import SHORT_ANSWERS, exact_match
from lorachain.prompts import Direction, Example
from lorachain.records import Term
from lorachain.tokens import TokenEncoder
from lorachain.weights.intruders import count_intruders, intruder_dimensions, layer_number
from reference import dictionary, plain_intruders

DIRECTIONS: tuple[Direction, ...] = ("term->definition", "term->english", "definition->term", "english->term")


def as_prompt(example: Example) -> dictionary.Prompt:
    assert example.prompt is not None
    return example.prompt.user, example.prompt.cue, example.completion


# ---- forms -----------------------------------------------------------------------------------------------------------

values = st.text(min_size=1, max_size=12)


@given(values, values, values, st.sampled_from(DIRECTIONS), st.integers(0, 9))
def test_forms_are_those_that_are_written_out(
    term: str, english: str, definition: str, direction: Direction, number: int
) -> None:
    entry = Term(term, definition, english)
    source, target = direction.split("->")
    named = {"term": term, "english": english, "definition": definition}
    own, *others = trained_examples(entry, direction)
    assert as_prompt(own) == dictionary.own_form(source, target, named)
    assert [as_prompt(other) for other in others] == dictionary.trained_forms(direction, term, english, definition)
    assert [other.form for other in (own, *others)] == [
        direction, *(f"{direction}:{name}" for name in ("question", "statement", "gloss")),
    ]  # fmt: skip
    expected = dictionary.held_out_forms(direction, term, english, definition)
    held_out = held_out_example(entry, direction, number)
    assert as_prompt(held_out) == expected[number % 2]
    assert held_out.form == f"{direction}:held-out-{number % 2 + 1}"
    assert len(TRAINED_FORMS[direction]) == len(others)
    assert len(HELD_OUT_FORMS[direction]) == len(expected)


# ---- greedy exact match ----------------------------------------------------------------------------------------------

MODELS: dict[str, Any] = {"text": make_text_model(), "multimodal": make_multimodal_model(1)}
TOKENIZER = make_tokenizer()
MOST = 6
terms = st.lists(
    st.text("가나열 감기ab", min_size=1, max_size=4).filter(str.strip), min_size=1, max_size=3, unique=True
)


def questions_of(entries: list[Term], *, held_out: bool) -> dict[str, list[dictionary.Prompt]]:
    """By direction, what is asked of each entry that has both of its sides."""
    asked: dict[str, list[dictionary.Prompt]] = {}
    for number, entry in enumerate(entries):
        named = {"term": entry.term, "english": entry.english, "definition": entry.definition}
        present = {name: value for name, value in named.items() if value is not None}
        for direction in DIRECTIONS:
            source, target = direction.split("->")
            if source not in present or target not in present:
                continue
            prompt = dictionary.own_form(source, target, present)
            if held_out:
                forms = dictionary.held_out_forms(direction, entry.term, entry.english or "", entry.definition or "")
                prompt = forms[number % 2]
            asked.setdefault(direction, []).append(prompt)
    return asked


@settings(max_examples=5)
@given(st.sampled_from(sorted(MODELS)), terms, st.data())
@pytest.mark.parametrize("held_out", [False, True])
def test_exact_match_equals_the_loop_without_a_cache(
    held_out: bool, kind: str, drawn: list[str], data: st.DataObject
) -> None:
    """Of some entries the English name is what the model answers, so that they match."""
    model = MODELS[kind]
    entries = []
    for number, term in enumerate(drawn):
        user, cue, _ = (
            dictionary.held_out_forms("term->english", term, "", "")[number % 2]
            if held_out
            else dictionary.own_form("term", "english", {"term": term, "english": ""})
        )
        answer = dictionary.greedy_line(model, TOKENIZER, user, cue, data.draw(st.integers(1, MOST))).strip()
        english = answer if data.draw(st.booleans()) else data.draw(st.sampled_from([None, "flu", "감 기"]))
        entries.append(Term(term, data.draw(st.sampled_from([None, "열이 난다"])), english or None))
    asked = questions_of(entries, held_out=held_out)
    assume(asked)
    result = exact_match(
        model, TokenEncoder(TOKENIZER), entries, split="s", held_out_forms=held_out, max_new_tokens=MOST
    )
    assert result.by_direction.keys() == asked.keys()
    f1_of_all = []
    for direction, prompts in asked.items():
        limit = dictionary.limit_of(TOKENIZER, [expected for _, _, expected in prompts], MOST)
        answers = [dictionary.greedy_line(model, TOKENIZER, user, cue, limit) for user, cue, _ in prompts]
        hits = [dictionary.same(answer, prompt[2]) for answer, prompt in zip(answers, prompts, strict=True)]
        f1 = [dictionary.overlap_f1(answer, prompt[2]) for answer, prompt in zip(answers, prompts, strict=True)]
        f1_of_all += f1
        part = result.by_direction[direction]  # type: ignore[index]
        assert (part.n, part.exact) == (len(prompts), sum(hits))
        assert part.correct == "".join("1" if hit else "0" for hit in hits)
        assert part.character_f1 == pytest.approx(sum(f1) / len(f1))
    assert result.n == sum(len(asked.get(direction, [])) for direction in SHORT_ANSWERS)
    assert result.character_f1 == pytest.approx(sum(f1_of_all) / len(f1_of_all))


# ---- intruder dimensions ---------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(
    st.integers(2, 24), st.integers(2, 24), st.integers(1, 4), st.sampled_from([0.1, 1.0, 5.0, 30.0]),
    st.integers(0, 10**6),
)  # fmt: skip
def test_intruders_are_those_of_an_svd(rows: int, columns: int, rank: int, strength: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    base = rng.standard_normal((rows, columns))
    tuned = base + strength * rng.standard_normal((rows, rank)) @ rng.standard_normal((rank, columns))
    # A cosine at the threshold may be on either side of it.
    assume(all(abs(cosine - plain_intruders.EPSILON) > 1e-6 for cosine in plain_intruders.similarities(base, tuned)))
    assert count_intruders(torch.from_numpy(base), torch.from_numpy(tuned)) == plain_intruders.intruders(base, tuned)


@pytest.mark.parametrize("kind", ["text", "multimodal"])
@pytest.mark.parametrize("layers", [0, 2])
def test_intruders_of_an_adapter(kind: str, layers: int, tmp_path: Path) -> None:
    base = save_base(tmp_path / "base", kind, dtype=torch.float32)
    settings_of_lora: dict[str, Any] = {"target_modules": LANGUAGE_LINEAR, "r": 3, "lora_alpha": 12}
    adapter = save_adapter_for(base, tmp_path / "adapter", kind, scale_b=0.4, **settings_of_lora)
    counted = intruder_dimensions(base, adapter, layers=layers)
    weights = dict(load_plain(base, kind, torch.float32).named_parameters())
    factors = load_file(adapter / "adapter_model.safetensors")
    expected = {}
    for name, a in factors.items():
        if name.endswith("lora_A.weight"):
            module = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
            b = factors[name.replace("lora_A", "lora_B")]
            weight = weights[f"{module}.weight"].detach().double().numpy()
            tuned = weight + 12 / 3 * b.double().numpy() @ a.double().numpy()
            expected[module] = plain_intruders.intruders(weight, tuned)
    numbers = sorted({layer_number(module) for module in expected})
    chosen = plain_intruders.spread(numbers, layers)
    assert counted == {module: count for module, count in expected.items() if layer_number(module) in chosen}
    assert sum(counted.values()) > 0
