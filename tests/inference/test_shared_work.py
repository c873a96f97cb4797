"""Inference shared by processes gives each of them what one process computes."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from conftest import make_text_model, make_tokenizer
from lorachain.errors import NonFiniteError
from lorachain.evaluation.divergence import prompt_hidden_states
from lorachain.evaluation.perplexity import perplexity
from lorachain.evaluation.scoring import score_questions
from lorachain.inference import batching
from lorachain.inference.generate import generate
from lorachain.inference.shared_work import shared_inference
from lorachain.processes import Processes
from lorachain.records import ExamQuestion
from lorachain.tokens import TokenEncoder, TokenRow
from lorachain.weights.load import text_decoder
from two_threads import TwoThreads

QUESTIONS = [
    ExamQuestion(f"q{i}", "doctor", "무엇인가 " * (1 + 7 * i), ("가", "나다", "라 마", "바", "사"), i % 5)
    for i in range(7)
]
PROMPTS = [[2, *range(3, 3 + length)] for length in (4, 9, 5, 30, 17)]
MODEL, ENCODER = make_text_model(), TokenEncoder(make_tokenizer())


def score(progress: Callable[[int], None] | None = None) -> Any:
    return score_questions(MODEL, ENCODER, QUESTIONS, token_budget=128, on_progress=progress)


def draw() -> Any:
    return generate(
        MODEL, ENCODER, PROMPTS, stop=lambda text: False, max_new_tokens=6, temperature=0.7, seeds=[3, 1, 4, 1, 5]
    )


WORK: dict[str, Callable[[], Any]] = {
    "scoring": score,
    "perplexity": lambda: perplexity(MODEL, [TokenRow(ids, 1) for ids in PROMPTS], token_budget=32).row_sums,
    "divergence": lambda: [s.tolist() for s in prompt_hidden_states(MODEL, PROMPTS, token_budget=32)],
    "generation": draw,
}


@pytest.fixture
def forwards(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Ids of each forward pass, of both threads."""
    counted: list[int] = []
    hook = text_decoder(MODEL).register_forward_pre_hook(
        lambda module, arguments, named: counted.append(named["input_ids"].numel()), with_kwargs=True
    )
    monkeypatch.setattr(batching, "CPU_TOKENS", 128)
    yield counted
    hook.remove()


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> TwoThreads:
    return TwoThreads(monkeypatch)


def shared(processes: Processes, work: Callable[[], Any]) -> Any:
    with shared_inference(processes):
        return work()


@pytest.mark.parametrize("name", WORK)
def test_each_process_computes_a_part_and_has_all(two: TwoThreads, forwards: list[int], name: str) -> None:
    expected = WORK[name]()
    alone = sum(forwards)
    forwards.clear()
    assert two.run(lambda processes: shared(processes, WORK[name])) == [expected, expected]
    assert sum(forwards) <= alone


def test_a_sharded_model_is_computed_by_all(two: TwoThreads, forwards: list[int]) -> None:
    expected = score()
    alone = sum(forwards)
    forwards.clear()
    assert two.run(lambda processes: shared(processes, score), sharded=True) == [expected, expected]
    assert sum(forwards) == 2 * alone


def test_progress_counts_all_questions(two: TwoThreads) -> None:
    counts: list[list[int]] = [[], []]
    two.run(lambda processes: shared(processes, lambda: score(counts[processes.rank].append)))
    for one in counts:
        assert one[-1] == len(QUESTIONS)
        assert one == sorted(one)


def test_an_error_of_one_process_ends_all(two: TwoThreads, monkeypatch: pytest.MonkeyPatch) -> None:
    def compute(group: list[int]) -> list[int]:
        if 0 in group:
            raise NonFiniteError("logits of sequence 0 are NaN")
        return group

    def work() -> list[int]:
        return batching.map_in_groups(MODEL, [5, 600, 700], 8192, compute)

    errors = two.run(lambda processes: shared(processes, work))
    assert [(type(error), str(error)) for error in errors] == [(NonFiniteError, "logits of sequence 0 are NaN")] * 2


def test_outside_nothing_is_shared(two: TwoThreads) -> None:
    def work(processes: Processes) -> Any:
        shared(processes, score)
        return score() if processes.main else None  # the other would be waited for

    assert two.run(work) == [score(), None]
    assert torch.is_grad_enabled()
