"""The chat template decides the turns and the end of an answer, within limits, and is read from all its files."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import CHAT_TEMPLATE, make_tokenizer
from lorachain.chat_template import MAX_TEMPLATE_CHARS, chat_turns, template_from_files
from lorachain.errors import ModelError
from lorachain.prompts import Example, Prompt, instruction_examples, render
from lorachain.records import Instruction
from lorachain.tokens import TokenEncoder
from lorachain.weights.load import load_tokenizer

# In the form of Gemma 3's own template: BOS, a system prefix, checked roles, lists of parts.
GEMMA_3 = """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- if messages[0]['content'] is string -%}
        {%- set first_user_prefix = messages[0]['content'] + '

' -%}
    {%- else -%}
        {%- set first_user_prefix = messages[0]['content'][0]['text'] + '

' -%}
    {%- endif -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = "" -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("Conversation roles must alternate user/assistant/user/assistant/...") }}
    {%- endif -%}
    {%- if (message['role'] == 'assistant') -%}
        {%- set role = "model" -%}
    {%- else -%}
        {%- set role = message['role'] -%}
    {%- endif -%}
    {{ '<start_of_turn>' + role + '
' + (first_user_prefix if loop.first else "") }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] -%}
            {%- if item['type'] == 'image' -%}
                {{ '<start_of_image>' }}
            {%- elif item['type'] == 'text' -%}
                {{ item['text'] | trim }}
            {%- endif -%}
        {%- endfor -%}
    {%- else -%}
        {{ raise_exception("Invalid content type") }}
    {%- endif -%}
    {{ '<end_of_turn>
' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{'<start_of_turn>model
'}}
{%- endif -%}
"""
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
INST = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content.strip() }} [/INST]"
    "{% else %} {{ m.content.strip() }} {{ eos_token }}{% endif %}{% endfor %}"
)


def with_template(template: object, *extra: str) -> Any:
    tokenizer = make_tokenizer()
    tokenizer.add_tokens(list(extra), special_tokens=True)
    tokenizer.chat_template = template
    return tokenizer


TOKENIZERS = {
    "gemma-3": with_template(GEMMA_3),
    "tests": with_template(CHAT_TEMPLATE),
    "chatml": with_template(CHATML, "<|im_start|>", "<|im_end|>"),
    "inst": with_template(INST),
    "named": with_template({"default": CHATML, "tool_use": "{{ tools }}"}, "<|im_start|>", "<|im_end|>"),
}


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("gemma-3", "<end_of_turn>"),
        ("tests", "<end_of_turn>"),
        ("chatml", "<|im_end|>"),
        ("inst", "<eos>"),
        ("named", "<|im_end|>"),
    ],
)
def test_an_answer_ends_with_the_templates_own_end_of_turn(name: str, end: str) -> None:
    encoder = TokenEncoder(TOKENIZERS[name])
    row = encoder.encode(Example(Prompt("질문", "정답："), " B"))
    assert encoder.tokenizer.decode([row.ids[-1]]) == end
    assert row.ids.count(row.ids[-1]) == 1 + encoder.prompt_ids(Prompt("질문", "정답：")).count(row.ids[-1])


questions = st.text(st.characters(codec="utf-8"), max_size=60)


@pytest.mark.parametrize("name", TOKENIZERS)
@given(user=questions)
def test_the_rendered_prompt_is_what_the_template_renders(name: str, user: str) -> None:
    tokenizer = TOKENIZERS[name]
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": user}], tokenize=False, add_generation_prompt=True
    )
    turns = chat_turns(tokenizer)
    assert turns is not None
    assert render(Prompt(user, "정답："), turns) == str(rendered).removeprefix("<bos>") + "정답："


FORGETFUL = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{{ '' if m.role == 'assistant' and not loop.last else m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""Leaves out what the assistant said before, as templates of reasoning models do with its thoughts."""


@pytest.mark.parametrize("name", TOKENIZERS)
@given(texts=st.lists(questions, min_size=3, max_size=3))
def test_a_conversation_is_rendered_as_the_template_renders_it(name: str, texts: list[str]) -> None:
    tokenizer = TOKENIZERS[name]
    message, answer, last = texts
    rendered = tokenizer.apply_chat_template(
        [
            {"role": "user", "content": message},
            {"role": "assistant", "content": answer},
            {"role": "user", "content": last},
        ],
        tokenize=False,
        add_generation_prompt=True,
    )
    turns = chat_turns(tokenizer)
    assert turns is not None
    assert turns.between is not None
    prompt = Prompt(last, "", ((message, answer),))
    assert render(prompt, turns) == str(rendered).removeprefix("<bos>")


def test_a_template_that_changes_earlier_answers_has_no_conversations() -> None:
    encoder = TokenEncoder(with_template(FORGETFUL, "<|im_start|>", "<|im_end|>"))
    assert encoder.turns is not None
    assert encoder.turns.between is None
    talk = Instruction("물음", "답", (("또", "네"),))
    assert [example.completion for example in instruction_examples(talk, encoder.turns)] == ["답"]
    assert [example.completion for example in instruction_examples(talk, None)] == ["답", "네"]
    with pytest.raises(ValueError, match="cannot print a conversation"):
        encoder.prompt_ids(Prompt("또", "", (("물음", "답"),)))


def test_a_message_that_names_a_special_token_ends_no_turn_of_a_conversation() -> None:
    encoder = TokenEncoder(TOKENIZERS["gemma-3"])
    plain = encoder.prompt_ids(Prompt("셋", "", (("하나", "둘"),)))
    named = encoder.prompt_ids(Prompt("셋", "", (("하나", "둘<end_of_turn>"),)))
    assert named.count(encoder.end_id) == plain.count(encoder.end_id) == 3
    assert encoder.tokenizer.decode(plain) == (
        "<bos><start_of_turn>user\n하나<end_of_turn>\n<start_of_turn>model\n둘<end_of_turn>\n"
        "<start_of_turn>user\n셋<end_of_turn>\n<start_of_turn>model\n"
    )


def test_without_a_template_there_are_no_turns() -> None:
    assert chat_turns(make_tokenizer()) is None
    assert TokenEncoder(make_tokenizer()).end_id == make_tokenizer().eos_token_id


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (CHATML, r"ends an answer with '<\|im_end\|>\\n', which is not a token of the tokenizer"),
        ("{% for m in messages %}{{ m.content }}{% endfor %}", "ends an answer with ''"),
        ("{% for m in messages %}{{ m.content | upper }}<end_of_turn>{% endfor %}", "changes the text of a message"),
        ("{% for m in messages %}{{ m.content | e }}<end_of_turn>{% endfor %}", "changes the text of a message"),
        ("{{ messages[0].content }}<end_of_turn>", "changes the text of a message, or does not print it once"),
        ("{% for m in messages %}{{ m.content ~ m.content }}{% endfor %}", "does not print it once"),
        ("{% for m in messages %}{{ m.content.split(' ') | join('_') }}{% endfor %}", "changes the text"),
        ("{{ raise_exception('only tools') }}", "cannot be rendered: only tools"),
        ("{% if %}", "cannot be rendered"),
        ("{{ messages[0]['content'][0]['text'] }}", "cannot be rendered|changes the text"),
        ("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}", "more than 10,000 steps"),
        (
            "{% macro m(n) %}{{ m(n) }}{{ m(n) }}{% endmacro %}{{ m(1) }}",
            "cannot be rendered",
        ),
        (
            "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
            "more than 10,000 steps",
        ),
        (
            "{% set ns = namespace(s='x') %}{% for a in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}",
            "more than 100,000 characters",
        ),
        ("{{ 'x' * 99999 * 99999 }}", "multiplies"),
        ("{{ 9 ** 9 ** 9 }}", "multiplies"),
        ("{{ 'x' | center(9999999999) }}", "number of more than five digits"),
        ("{{ '%09999999999d' % 1 }}", "number of more than five digits"),
        ("{{ ('x' ~ '\n') | center(99999) }}{{ 'x' | center(99999) }}", "more than 100,000 characters"),
        ("x" * (MAX_TEMPLATE_CHARS + 1), "has 100,001 characters; at most 100,000"),
        ({"tool_use": CHATML}, "none is called `default`"),
        (7, "of type int"),
    ],
)
def test_a_template_that_cannot_be_used_is_refused_with_the_next_step(template: object, message: str) -> None:
    tokenizer = make_tokenizer()
    tokenizer.chat_template = template
    with pytest.raises(ModelError, match=message) as error:
        TokenEncoder(tokenizer)
    assert "use the tokenizer files published with the model" in str(error.value)


def test_the_limits_leave_no_trace_function_behind() -> None:
    before = sys.gettrace()
    chat_turns(TOKENIZERS["gemma-3"])
    assert sys.gettrace() is before


def test_the_legacy_file_of_a_processor_is_read(tmp_path: Path) -> None:
    assert template_from_files(tmp_path) is None
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": CHATML}), encoding="utf-8")
    assert template_from_files(tmp_path) == CHATML
    named = [{"name": "default", "template": GEMMA_3}, {"name": "rag", "template": "x"}]
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": named}), encoding="utf-8-sig")
    assert template_from_files(tmp_path) == GEMMA_3


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("chat_template.json", "{", "chat_template.json cannot be read"),
        ("chat_template.json", "[" * 100_000, "chat_template.json cannot be read"),
        ("chat_template.json", "{}", "has no text under `chat_template`"),
        ("chat_template.json", "[]", "has no text under `chat_template`"),
        ("chat_template.json", '{"chat_template": 5}', "of type int"),
        ("processor_config.json", '{"chat_template": "{{ x }}"}', r"save its text \(7 characters\) as .*\.jinja"),
    ],
)
def test_a_legacy_file_that_cannot_be_used_is_refused(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(ModelError, match=message):
        template_from_files(tmp_path)


def test_a_processor_configuration_without_a_template_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "processor_config.json").write_text('{"processor_class": "Gemma3Processor"}', encoding="utf-8")
    assert template_from_files(tmp_path) is None


def test_a_tokenizer_whose_template_is_only_in_the_legacy_file_has_its_turns(tmp_path: Path) -> None:
    make_tokenizer(chat=True).save_pretrained(tmp_path)
    modern = tmp_path / "chat_template.jinja"
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": modern.read_text(encoding="utf-8")}))
    expected = load_tokenizer(tmp_path).chat_template
    modern.unlink()
    loaded = load_tokenizer(tmp_path)
    assert loaded.chat_template == expected == CHAT_TEMPLATE
    loaded.save_pretrained(tmp_path / "saved")
    assert load_tokenizer(tmp_path / "saved").chat_template == CHAT_TEMPLATE
