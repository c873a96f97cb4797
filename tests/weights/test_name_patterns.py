"""Patterns match as in `re`, in bounded work whatever the pattern."""

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lorachain.errors import AdapterError
from lorachain.weights.name_patterns import MAX_LENGTH, NamePattern, StepBudget

NAMES = [
    f"{prefix}.{layer}.{part}"
    for prefix in ("model.language_model.layers", "model.vision_tower.encoder.layers", "language_model.model.layers")
    for layer in (0, 7, 12, 61)
    for part in ("self_attn.q_proj", "self_attn.o_proj", "mlp.down_proj")
] + ["lm_head", "model.multi_modal_projector"]

IN_USE = [
    # lorachain's tests, PEFT's documentation, Unsloth, ms-swift, LLaMA-Factory
    r".*(language_model|model)\.layers\.\d+\.(self_attn\.[qkvo]_proj|mlp\.(gate|up|down)_proj)",
    r".*\.(0|7)\.self_attn\..*",
    r"(?:.*?(?:language|text).*?(?:self_attn|attention|attn|mlp|feed_forward|ffn|dense).*?(?:k_proj|v_proj|q_proj|o_proj|"
    r"down_proj).*?)|(?:\bmodel\.layers\.[\d]{1,}\.(?:self_attn|mlp)\.(?:(?:k_proj|v_proj|q_proj|o_proj|down_proj)))",
    r"^(model\.language_model(?=\.).*\.(q_proj|o_proj|down_proj))$",
    r"^(?!.*vision).*(?:q_proj|down_proj).*",
    r"model\.language_model\.layers\.([0-9]|1[0-5])\..*_proj",
    r".*(?<=attn)\.q_proj",
    r"lm_head",
    r"[^.]+\.[^.]+",
    r"model\.(?:language_model|vision_tower)\.(?:encoder\.)?layers\.\d{1,2}\.\w+\.[a-z]_proj",
]

pieces = st.sampled_from(
    ["a", "b", "ab", ".", r"\.", r"\d", r"\w", r"\W", r"\s", "[ab]", "[^a.]", "[a-c0-3]", r"\b", "^", "$"]
)
patterns = st.recursive(
    pieces,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map(lambda pair: f"(?:{pair[0]}|{pair[1]})"),
        st.tuples(inner, st.sampled_from(["*", "+", "?", "*?", "+?", "{2}", "{0}", "{1,3}"])).map(
            lambda pair: f"({pair[0]}){pair[1]}"
        ),
        inner.map(lambda pattern: f"(?={pattern})"),
        inner.map(lambda pattern: f"(?!{pattern})"),
    ),
    max_leaves=6,
)


@settings(max_examples=600, derandomize=True)
@given(patterns, st.text("abc01. _", min_size=1, max_size=6))
def test_any_pattern_matches_as_in_re(pattern: str, name: str) -> None:
    compiled, ours = re.compile(pattern), NamePattern(pattern, StepBudget())
    assert ours.fullmatch(name) == bool(compiled.fullmatch(name))
    assert ours.match(name) == bool(compiled.match(name))


@pytest.mark.parametrize("pattern", IN_USE)
def test_patterns_in_use_match_as_in_re(pattern: str) -> None:
    ours = NamePattern(pattern, StepBudget())
    matched = {name for name in NAMES if ours.fullmatch(name)}
    assert matched == {name for name in NAMES if re.fullmatch(pattern, name)}
    assert 0 < len(matched) < len(NAMES)


@pytest.mark.parametrize(
    "key", ["q_proj", "layers.7.self_attn.q_proj", r"^model.*q_proj", r"(self_attn|mlp)\..*", "proj"]
)
def test_keys_match_the_end_of_a_name_as_in_peft(key: str) -> None:
    from peft.utils.other import get_pattern_key

    ours = NamePattern(key, StepBudget(), of_key=True)
    assert [ours.match(name) for name in NAMES] == [get_pattern_key([key], name) == key for name in NAMES]


@pytest.mark.parametrize(
    "pattern",
    [
        r"((([a-z.0-9]+)+)+)+!",
        r"(a|a)*!",
        r"(.*)*X",
        r"(\w*\.?)*!",
        r"(.{1,60}){1,60}!",
        r"(x?){50}x{50}",
        r"(a*)*(a*)*(a*)*!",
    ],
)
def test_patterns_that_backtrack_in_re_take_linear_work(pattern: str) -> None:
    """Steps are counted, not time: from 40 to 80 characters they grow at most with the square."""
    spent = []
    for length in (40, 80):
        budget = StepBudget()
        assert not NamePattern(pattern, budget).fullmatch("a" * length)
        spent.append(budget.steps - budget.left)
    assert spent[1] <= 5 * spent[0]
    assert spent[1] < 200_000


def test_usual_patterns_take_little_of_the_budget() -> None:
    for pattern in IN_USE:
        budget = StepBudget()
        ours = NamePattern(pattern, budget)
        assert sum(ours.fullmatch(name) for name in NAMES)
        assert budget.steps - budget.left < 2_000 * len(NAMES)


def test_a_pattern_that_is_still_too_much_work_is_refused() -> None:
    pattern = NamePattern("(.*.*.*)*X", StepBudget(1_000))
    with pytest.raises(
        AdapterError, match=r"'\(\.\*\.\*\.\*\)\*X' is too complex .* 1,000 steps.*name the modules in a list"
    ):
        pattern.fullmatch("a" * 60)


@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        (r"(a)\1", "back-references"),
        (r"(?P<x>a)(?P=x)", "back-references"),
        (r"(a)?(?(1)b|c)", "conditionals"),
        (r"(?>a*)b", "atomic groups"),
        (r"a*+b", "atomic groups"),
        (r"(?i)Q_PROJ*", "flags"),
        (r"(?i:Q)_proj", "flags"),
        (r"(", "missing"),
        (r"*", "nothing to repeat"),
        (r"a{99999999999}", "repetition number is too large"),
        ("(" * 900 + ")" * 900, "cannot be used"),
        ("a" * (MAX_LENGTH + 1), "2,001 characters, more than the 2,000 allowed"),
    ],
)
def test_unsupported_patterns_are_refused(pattern: str, reason: str) -> None:
    with pytest.raises(AdapterError, match=reason):
        NamePattern(pattern, StepBudget())
