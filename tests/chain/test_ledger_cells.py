"""What a model scores in the ledger equals the reference, which reads full logits, item by item."""

import copy
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import make_multimodal_model, make_text_model, make_tokenizer
from lorachain.artifacts import Cell
from lorachain.chain.ledger_data import AskedTerm, LedgerData
from lorachain.chain.ledger_jobs import Subject, jobs
from lorachain.evaluation.divergence import prompt_hidden_states
from lorachain.inference.generate import Generation
from lorachain.records import ExamQuestion
from lorachain.tokens import TokenEncoder, TokenRow
from lorachain.weights.load import text_decoder
from reference import exam_scores, ledger

TEXTS = ("열", "기침", "두통", "구토", "간 x", "위염", "y")
ENCODER = TokenEncoder(make_tokenizer(words=(*"ABCDE", "열", "위염")))


def ids_of(rng: random.Random, length: int) -> list[int]:
    return [2, *(rng.randrange(6, 270) for _ in range(length - 1))]


def data() -> LedgerData:
    rng = random.Random(3)
    questions = []
    for i in range(7):
        a, b, c, d, e = rng.sample(TEXTS, 5)
        questions.append(ExamQuestion(f"q{i}", "doctor", "열 " * (i + 1) + "?", (a, b, c, d, e), i % 5))
    return LedgerData(
        texts={"korean": [TokenRow(ids_of(rng, 6 + 5 * i), 1, record=i) for i in range(5)]},
        exam=questions[:4],
        dictionary_exam=questions[4:],
        text_prompts=[ids_of(rng, 3 + 4 * i) for i in range(5)],
        term_prompts=[AskedTerm(ids_of(rng, 12), "x") for _ in range(2)],
        exam_prompts=questions[:3],
    )


@pytest.fixture(params=["text", "multimodal", "text in bf16"])
def pair(request: pytest.FixtureRequest) -> tuple[Any, Any, float]:
    """A base, a model that was tuned from it (head and embeddings untouched), and the tolerance of their type."""
    make: Callable[..., Any] = make_multimodal_model if request.param == "multimodal" else make_text_model
    dtype = torch.bfloat16 if "bf16" in request.param else torch.float32
    base = make(dtype=dtype)
    tuned = copy.deepcopy(base)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in text_decoder(tuned).layers.parameters():  # type: ignore[union-attr]
            parameter += (0.02 * torch.randn(parameter.shape, generator=generator)).to(dtype)
    return base, tuned, 2e-2 if dtype == torch.bfloat16 else 1e-4


def cells_of(base: Any, model: Any, wanted: set[str], token_budget: int = 64) -> dict[str, Cell]:
    def hidden_states(digest: str, prompts: Any) -> list[torch.Tensor] | None:
        return None if model is base else prompt_hidden_states(base, prompts, token_budget=999)

    subject = Subject(model, ENCODER, token_budget, Path("unused"), None, hidden_states)
    cells: dict[str, Cell] = {}
    for job in jobs(data(), intruder_layers=0):
        if wanted & {*job.measures}:
            cells |= {cell.measure: cell for cell in job.score(subject)}
            assert all(cells[measure].data_sha256 == job.data_sha256 for measure in job.measures)
            assert all(cells[measure].version == job.version for measure in job.measures)
    return cells


def test_perplexity_of_documents(pair: tuple[Any, Any, float]) -> None:
    _, model, tolerance = pair
    cell = cells_of(None, model, {"korean"})["korean"]
    rows = data().texts["korean"]
    exact = copy.deepcopy(model).float()
    sums = [ledger.document_nll(exact, row.ids) for row in rows]
    tokens = [len(row) - 1 for row in rows]
    assert cell.weights == tuple(tokens)
    assert cell.sums == pytest.approx(sums, rel=tolerance)
    assert cell.value == pytest.approx(ledger.perplexity(sums, tokens), rel=5 * tolerance)


@pytest.mark.parametrize("name", ["exam", "dictionary_exam"])
def test_letters_and_options_of_an_exam(pair: tuple[Any, Any, float], name: str) -> None:
    _, model, tolerance = pair
    cells = cells_of(None, model, {f"{name}_letters", f"{name}_options"})
    exact = copy.deepcopy(model).float()
    questions: list[ExamQuestion] = getattr(data(), name)
    gold = "".join(question.answer_letter for question in questions)
    for protocol in ("letters", "options"):
        cell = cells[f"{name}_{protocol}"]
        chosen: str = cell.detail["chosen"]
        for question, letter in zip(questions, chosen, strict=True):
            text = exam_scores.question_text(question.question, question.options)
            prompt = exam_scores.prompt_ids(ENCODER.tokenizer, text)
            scores = (
                exam_scores.letters(exact, ENCODER.tokenizer, prompt)
                if protocol == "letters"
                else exam_scores.options_after(exact, ENCODER.tokenizer, prompt, question.options)
            )
            choice = exam_scores.clear_choice(scores, 25 * tolerance)
            assert choice in (None, "ABCDE".index(letter))
        assert cell.correct == "".join("01"[a == b] for a, b in zip(chosen, gold, strict=True))
        assert cell.value == cell.correct.count("1") / len(gold)
        assert cell.detail["chosen_letters"] == {letter: chosen.count(letter) for letter in "ABCDE"}
        assert cell.detail["right_letters"] == {letter: gold.count(letter) for letter in "ABCDE"}


def test_the_first_items_are_scored_again_for_the_noise() -> None:
    """`measured_noise` compares them with the first items of the cells."""
    of = data()
    for count in (0, 1, 2, 3, 99):
        first = of.first(count)
        assert first.texts == {"korean": of.texts["korean"][:count]}
        for name in ("exam", "dictionary_exam", "text_prompts", "term_prompts", "exam_prompts", "terms"):
            assert getattr(first, name) == getattr(of, name)[:count], name
        assert first.asked_terms == count


def test_a_form_cell_shows_the_first_answers_without_the_form(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three of them, cut: the rest is counted."""
    answers = [Generation(f" No. {i} {'x' * 90}", 5, True) for i in range(5)]
    answers[1] = Generation(" 간은 배의 오른쪽에 있다", 5, False)
    monkeypatch.setattr("lorachain.chain.ledger_jobs.generate", lambda *arguments, **settings: answers)
    cell = cells_of(None, make_text_model(), {"form_plain_text"})["form_plain_text"]
    assert cell.correct == "01000"
    assert cell.detail == {"without_form": [answers[i].text.strip()[:80] for i in (0, 2, 3)]}


def test_intruder_dimensions_are_the_mean_over_the_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = {"layers.0.q_proj": 3, "layers.0.v_proj": 0, "layers.1.q_proj": 1}
    asked: list[dict[str, int]] = []

    def intruder_dimensions(base: Path, adapter: Path, **settings: int) -> dict[str, int]:
        asked.append(settings)
        return counts

    monkeypatch.setattr("lorachain.weights.intruders.intruder_dimensions", intruder_dimensions)
    subject = Subject(None, ENCODER, 64, Path("base"), Path("adapter"), lambda digest, prompts: None)  # type: ignore[arg-type]
    *_, job = jobs(LedgerData(), intruder_layers=2)
    (cell,) = job.score(subject)
    assert (cell.value, cell.n, cell.unit, cell.detail["by_layer"]) == (4 / 3, 3, "layers", counts)
    assert asked == [{"layers": 2}]
    assert job.version != next(iter(jobs(LedgerData(), intruder_layers=1))).version


@pytest.mark.parametrize("measure", ["kl_plain_text", "kl_dictionary", "kl_exam"])
def test_divergence_from_the_base(pair: tuple[Any, Any, float], measure: str) -> None:
    """Every second prompt of each kind, at its last positions."""
    base, model, tolerance = pair
    of = data()
    prompts = {
        "kl_plain_text": of.text_prompts,
        "kl_dictionary": [term.prompt for term in of.term_prompts],
        "kl_exam": [
            exam_scores.prompt_ids(ENCODER.tokenizer, exam_scores.question_text(q.question, q.options))
            for q in of.exam_prompts
        ],
    }[measure][::2]
    exact_base, exact = copy.deepcopy(base).float(), copy.deepcopy(model).float()
    by_prompt = [ledger.kl_from_base(exact_base, exact, prompt) for prompt in prompts]
    cell = cells_of(base, model, {measure})[measure]
    assert cell.kind == "description"
    assert cell.n == len(prompts)
    assert cell.weights == tuple(map(len, by_prompt))
    assert cell.sums == pytest.approx([sum(values) for values in by_prompt], rel=10 * tolerance, abs=10 * tolerance)
    assert cell.value == pytest.approx(
        sum(map(sum, by_prompt)) / sum(map(len, by_prompt)), rel=10 * tolerance, abs=0.05
    )
    assert cell.value > 0.01
    of_base = cells_of(base, base, {measure})[measure]
    assert (of_base.value, of_base.weights) == (0, cell.weights)
