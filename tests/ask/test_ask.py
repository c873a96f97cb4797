"""`lorachain ask`: the trained prompts, tokens as they come, exam questions with their log-probabilities."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from chain_making import FinishedChain, options_of
from conftest import make_text_model, make_tokenizer
from lora_making import save_adapter_for
from lorachain.ask.answers import Answer, Answered, Sampling, ask
from lorachain.ask.exam_question import find_question
from lorachain.ask.forms import AskedPrompt, check_form, prompts_of_question, prompts_of_text
from lorachain.chain.context import ChainContext
from lorachain.chain.scored_model import ScoredModel
from lorachain.errors import ConfigError, DataError
from lorachain.inference.generate import generate
from lorachain.prompts import dictionary_example, exam_examples
from lorachain.records import ExamQuestion, Term
from lorachain.report.ask_text import Blocks, Columns, answers_view
from lorachain.tokens import TokenEncoder

Run = Callable[..., tuple[int, str, str]]


# ---- what is asked ---------------------------------------------------------------------------------------------------


def test_the_dictionary_prompts_are_those_that_stage_01_trains() -> None:
    encoder = TokenEncoder(make_tokenizer())
    asked = prompts_of_text(" 급성심근경색\n", "dictionary", encoder)
    entry = Term("급성심근경색", definition="뜻풀이", english="acute myocardial infarction")
    for prompt, direction in zip(asked, ("term->definition", "term->english"), strict=True):
        row = encoder.encode(dictionary_example(entry, direction))  # type: ignore[arg-type]
        assert prompt.ids == row.ids[: row.supervised_from]
        assert prompt.one_line


QUESTION = ExamQuestion("q-1", "doctor", "열이 나는 병은?", ("가", "나", "다", "라", "마"), 2, "풀이", "sample")


def test_the_exam_prompts_are_those_that_stage_02_trains() -> None:
    encoder = TokenEncoder(make_tokenizer(chat=True))
    reasoned, direct = (encoder.encode(example) for example in exam_examples(QUESTION, "letters"))
    asked = prompts_of_question(QUESTION, encoder, explain=True)
    assert [prompt.ids for prompt in asked] == [row.ids[: row.supervised_from] for row in (direct, reasoned)]
    assert [prompt.label for prompt in asked] == ["정답：", "풀이："]
    assert len(prompts_of_question(QUESTION, encoder, explain=False)) == 1


def test_the_default_is_a_chat_message_where_there_is_a_template() -> None:
    plain, chat = TokenEncoder(make_tokenizer()), TokenEncoder(make_tokenizer(chat=True))
    (continued,) = prompts_of_text("고혈압이란", None, plain)
    assert continued.ids == [2, *plain.text_ids("고혈압이란")]
    (message,) = prompts_of_text("고혈압이란", None, chat)
    text = chat.tokenizer.decode(message.ids)
    assert text == "<bos><start_of_turn>user\n고혈압이란<end_of_turn>\n<start_of_turn>model\n"
    assert prompts_of_text("고혈압이란", "plain", chat) == [continued]
    with pytest.raises(ConfigError, match="no chat template"):
        prompts_of_text("고혈압이란", "chat", plain)
    with pytest.raises(ConfigError, match="--as is 'poem'; allowed: dictionary, exam, chat, plain"):
        check_form("poem")


# ---- tokens as they come ---------------------------------------------------------------------------------------------


def test_every_token_is_reported_as_it_comes() -> None:
    model, encoder = make_text_model(), TokenEncoder(make_tokenizer())
    prompts = [[2, *encoder.text_ids(text)] for text in ("가나다", "라")]
    seen: dict[int, list[list[int]]] = {0: [], 1: []}
    generations = generate(
        model,
        encoder,
        prompts,
        stop=lambda text: False,
        max_new_tokens=6,
        on_token=lambda index, ids: seen[index].append(list(ids)),
    )
    for index, generation in enumerate(generations):
        assert [len(ids) for ids in seen[index]] == list(range(1, generation.tokens + 1))
        for before, after in zip(seen[index], seen[index][1:], strict=False):
            assert after[:-1] == before


class Recorder:
    def __init__(self) -> None:
        self.texts: list[tuple[str, str, str]] = []

    def loading(self, name: str) -> None:
        self.texts.append((name, "loading", ""))

    def text(self, name: str, label: str, text: str) -> None:
        self.texts.append((name, label, text))

    def answered(self, answered: Answered) -> None:
        self.texts.append((answered.name, "answered", answered.answers[0].text))


def context_of(root: Path) -> ChainContext:
    from lorachain.cli.options import Common, build_context

    return build_context(Common("tiny", root, root / "chain.toml", device="cpu"), "ask")


def test_models_are_asked_one_after_the_other(root: Path, tmp_path: Path, save_tiny_in: Callable[..., Path]) -> None:
    base = save_tiny_in(tmp_path / "four layers")  # which answer with letters
    adapter = save_adapter_for(base, tmp_path / "adapter", "text", scale_b=0.5)
    models = [ScoredModel("base", base, None), ScoredModel("tuned", base, adapter)]
    view = Recorder()
    asked: list[int] = []

    def prompts(encoder: TokenEncoder) -> list[AskedPrompt]:
        asked.append(1)
        return prompts_of_text("고혈압", "plain", encoder)

    before, after = ask(context_of(root), models, prompts, view, sampling=Sampling(max_new_tokens=8))
    assert len(asked) == 2
    assert before.answers[0].text != after.answers[0].text
    assert [name for name, what, _ in view.texts if what == "loading"] == ["base", "tuned"]
    of_base = [text for name, label, text in view.texts if (name, label) == ("base", "")]
    assert len(of_base) == before.answers[0].tokens + 1
    assert of_base[-1] == before.answers[0].text
    # The same prompt and greedy: the same answer again.
    again = ask(context_of(root), models[:1], prompts, Recorder(), sampling=Sampling(max_new_tokens=8))
    assert again[0].answers[0].text == before.answers[0].text


# ---- what is shown ---------------------------------------------------------------------------------------------------


def answer(text: str, label: str = "") -> Answer:
    return Answer(label, text, tokens=4, first_seconds=0.25, seconds=2.0, complete=True)


def test_blocks_print_each_character_once() -> None:
    out = io.StringIO()
    view = Blocks(Console(file=out, width=200))
    view.loading("base")
    for text in ("고", "고혈", "고혈압\n둘째", "고혈압\n둘째 \x1b[31m줄"):
        view.text("base", "뜻:", text)
    view.text("base", "영어:", "hypertension")
    view.answered(Answered("base", 1.5, (answer("고혈압", "뜻:"),), None))
    assert out.getvalue().splitlines() == [
        "base:",
        "  뜻: 고혈압",
        "  둘째 \\x1b[31m줄",
        "  영어: hypertension",
        "  loaded in 1.5 s, first token after 0.25 s, 4 tokens in 2.0 s (2.0 tokens/s)",
    ]


def test_columns_at_a_wide_terminal_only() -> None:
    out = io.StringIO()
    terminal = Console(file=out, width=100, force_terminal=True, force_interactive=False)
    with answers_view(terminal, ["a", "b"]) as view:
        assert isinstance(view, Columns)
        view.text("a", "뜻:", " 첫[b]째")
        view.text("b", "뜻:", " 둘째")
        view.answered(Answered("b", 1.0, (answer("둘째"),), None))
    assert "첫[b]째" in out.getvalue()
    assert "둘째" in out.getvalue()
    for console, names in ((terminal, ["a"]), (terminal, list("abcde")), (Console(file=out, width=100), ["a", "b"])):
        with answers_view(console, names) as view:
            assert isinstance(view, Blocks)


# ---- the command -----------------------------------------------------------------------------------------------------


def test_the_base_is_asked_where_nothing_is_trained(root: Path, lorachain: Run) -> None:
    code, out, err = lorachain("ask", "고혈압", "--as", "dictionary", "--max-new-tokens", "5", *options_of(root))
    assert code == 0, err
    lines = out.splitlines()
    assert lines[0] == "tiny:"
    assert lines[1].startswith("  뜻:")
    assert lines[2].startswith("  영어:")
    assert "cut at the limit" in lines[3] or "tokens/s" in lines[3]


@pytest.fixture
def chain(finished_chain: Callable[..., FinishedChain]) -> FinishedChain:
    return finished_chain("text")


def test_steps_of_a_chain_side_by_side(chain: FinishedChain, lorachain: Run) -> None:
    arguments = ("--max-new-tokens", "4", *chain.options)
    code, out, err = lorachain("ask", "고혈압", "--compare", "base,01,02", *arguments)
    assert code == 0, err
    assert [line for line in out.splitlines() if not line.startswith(" ")] == ["tiny:", "tiny:01:", "tiny:02:"]
    code, out, _ = lorachain("ask", "고혈압", *arguments)
    assert out.splitlines()[0] == "tiny:02:"


def test_an_exam_question_with_its_log_probabilities(chain: FinishedChain, lorachain: Run) -> None:
    sample = ["sample"]
    name = find_question(sample, _first_id(sample))[0].id
    code, out, err = lorachain(
        "ask", "--question", name, "--compare", "base,02", "--max-new-tokens", "4", "--explain", *chain.options
    )
    assert code == 0, err
    assert out.startswith(f"{name} (sample, ")
    assert out.count("풀이：") == 2
    assert out.count("<==") == 1
    table = out[out.index("letter: its probability") :]
    rows = [line.split("│") for line in table.splitlines() if line.startswith("│")]
    assert [row[1].strip() for row in rows] == list("ABCDE")
    for column in (4, 6):
        shares = [float(row[column].strip(" *%")) for row in rows]
        assert sum(shares) == pytest.approx(100, abs=0.3)
        assert sum("*" in row[column] for row in rows) == 1
        assert all(float(row[column + 1].strip(" *")) < 0 for row in rows)


def _first_id(sources: list[str]) -> str:
    from lorachain.data.exam import load_exam

    return load_exam(sources, "dev").questions[0].id


def test_an_id_that_no_question_has() -> None:
    name = _first_id(["sample"])
    with pytest.raises(DataError, match=f"similar ids: .*{name}"):
        find_question(["sample"], f"{name}x")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "give a question, or --question"),
        (("질문", "--question", "q"), "give a question, or --question"),
        (("질문", "--as", "poem"), "allowed: dictionary, exam, chat, plain"),
        (("질문", "--as", "chat"), "no chat template"),
        (("질문", "--explain"), "--explain belongs to --question"),
        (("--question", "q", "--as", "exam"), "--as has no effect"),
        (("   ",), "the question is empty"),
        (("질문", "--compare", "07"), "'07' is not a model"),
        (("질문", "--compare", "01"), "is missing; create it with: lorachain run"),
    ],
)
def test_what_cannot_be_asked(root: Path, lorachain: Run, arguments: tuple[str, ...], says: str) -> None:
    code, _, err = lorachain("ask", *arguments, *options_of(root))
    assert code == 2
    assert says in err
    assert err.count("error: ") == 1


def test_nothing_is_left_in_memory_of_a_model(root: Path, tmp_path: Path) -> None:
    """One model in memory at a time: a chain of 27B models would not fit otherwise."""
    import gc
    import weakref

    def embeddings() -> list[torch.nn.Module]:
        return [one for one in gc.get_objects() if isinstance(one, torch.nn.Embedding)]

    of_other_tests = set(map(id, embeddings()))
    model = ScoredModel("base", tmp_path / "tiny-text-0", None)
    alive: list[Any] = []

    class Loading(Recorder):
        def loading(self, name: str) -> None:
            assert not [one for one in alive if one() is not None]

    def prompts(encoder: TokenEncoder) -> list[AskedPrompt]:
        alive.extend(weakref.ref(one) for one in embeddings() if id(one) not in of_other_tests)
        return prompts_of_text("가", "plain", encoder)

    context = context_of(root)
    ask(context, [model, model], prompts, Loading(), sampling=Sampling(max_new_tokens=2))
    assert alive
