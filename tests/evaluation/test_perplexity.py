"""Perplexity equals cross entropy over full logits."""

import math

import pytest
import torch

from conftest import make_tokenizer
from lorachain.errors import DataError, NonFiniteError
from lorachain.evaluation.perplexity import document_sums, perplexity, rows_sha256
from lorachain.prompts import Example, Prompt
from lorachain.tokens import TokenEncoder, TokenRow
from lorachain.weights.load import head_weight
from reference.ledger import document_nll


@pytest.mark.parametrize("budget", [1, 150, 10_000])
def test_equals_cross_entropy_over_full_logits(tiny_model, budget: int) -> None:  # type: ignore[no-untyped-def]
    encoder = TokenEncoder(make_tokenizer())
    texts = ["감기는 바이러스 감염이다.", "열", "aspirin 은 진통제이다. " * 3]
    rows = [encoder.encode(Example(None, text)) for text in texts]
    rows.append(encoder.encode(Example(Prompt("용어: 감기", "뜻:"), " 바이러스 감염")))
    total, count = 0.0, 0
    for row in rows:
        with torch.no_grad():
            logits = tiny_model(input_ids=torch.tensor([row.ids])).logits[0]
        first = row.supervised_from
        total += torch.nn.functional.cross_entropy(
            logits[first - 1 : -1], torch.tensor(row.ids[first:]), reduction="sum"
        ).item()
        count += len(row.ids) - first
    result = perplexity(tiny_model, rows, token_budget=budget)
    assert result.tokens == count
    assert result.nll_sum == pytest.approx(total, rel=1e-5)
    assert result.perplexity == pytest.approx(math.exp(total / count), rel=1e-4)


def test_nothing_to_score_is_an_error(tiny_model) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(DataError, match="held-out slice is empty"):
        perplexity(tiny_model, [])


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_logits_that_are_not_finite_are_never_a_perplexity(tiny_model, value: float) -> None:  # type: ignore[no-untyped-def]
    encoder = TokenEncoder(make_tokenizer())
    rows = [encoder.encode(Example(None, text)) for text in ("감기", "열")]
    with torch.no_grad():
        head_weight(tiny_model)[380] = value  # a row that no token of the text needs
    with pytest.raises(NonFiniteError, match="perplexity of the held-out documents: the model's logits are NaN"):
        perplexity(tiny_model, rows)


def test_pieces_of_a_document_are_added_up(tiny_model) -> None:  # type: ignore[no-untyped-def]
    """In the order in which the documents come, whatever their numbers."""
    pieces = [TokenRow([2, *range(40 + i, 50 + 2 * i)], 1, record=record) for i, record in enumerate((7, 7, 2, 7, 5))]
    sums, tokens = document_sums(pieces, perplexity(tiny_model, pieces, token_budget=30))
    expected = [document_nll(tiny_model, piece.ids) for piece in pieces]
    assert sums == pytest.approx([expected[0] + expected[1] + expected[3], expected[2], expected[4]], rel=1e-5)
    lengths = [len(piece.ids) - 1 for piece in pieces]
    assert tokens == [lengths[0] + lengths[1] + lengths[3], lengths[2], lengths[4]]


def test_other_tokens_have_another_hash() -> None:
    rows = [TokenRow([2, 10, 11], 1), TokenRow([2, 12], 1)]
    hashes = {rows_sha256(rows), rows_sha256(rows[::-1]), rows_sha256(rows[:1]), rows_sha256([*rows, rows[0]])}
    hashes.add(rows_sha256([TokenRow([2, 10, 13], 1), rows[1]]))
    assert len(hashes) == 5
