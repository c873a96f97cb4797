"""Hidden states of prefix trees equal those of each prefix with each continuation alone."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from conftest import make_text_model
from lorachain.inference.batching import packs_sequences
from lorachain.inference.forward import hidden_states
from lorachain.inference.prefix_cache import KeyValues, common_prefix, compute_prefix_cache
from lorachain.inference.prefix_tree import PrefixTree
from lorachain.weights.attention import use_blockwise_attention
from lorachain.weights.attention_choice import takes_packed_rows
from lorachain.weights.load import text_decoder


def ids(count: int, seed: int) -> list[int]:
    return torch.randint(6, 380, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


@pytest.fixture(params=["a row per tree", "packed"])
def model(tiny_model: PreTrainedModel, request: pytest.FixtureRequest) -> Iterator[PreTrainedModel]:
    """Both Gemma classes, with PyTorch's attention and with ours."""
    before = tiny_model.config._attn_implementation
    if request.param == "packed":
        use_blockwise_attention(tiny_model)
    assert takes_packed_rows(text_decoder(tiny_model)) == (request.param == "packed")
    yield tiny_model
    tiny_model.set_attn_implementation(before)


def test_every_continuation_gives_what_it_gives_alone(model: PreTrainedModel) -> None:
    """Prefix and continuations are longer than the window of 16, so that it has to count positions, not indices."""
    trees = [
        PrefixTree(ids(30, 0), [ids(20, 1), [], ids(3, 2)]),
        PrefixTree(ids(5, 3), [ids(9, 4)]),
        PrefixTree(ids(40, 5)),
    ]
    read = [[p for b in range(len(tree.continuations)) for p in tree.path(b)] or [39] for tree in trees]
    with torch.no_grad():
        result = hidden_states(model, trees, read)
        expected = []
        for tree in trees:
            for continuation in tree.continuations or [[]]:
                sequence = torch.tensor([[*tree.prefix, *continuation]])
                alone = text_decoder(model)(input_ids=sequence).last_hidden_state[0]
                expected.append(alone[len(tree.prefix) - 1 :])
    torch.testing.assert_close(result, torch.cat(expected), atol=2e-5, rtol=1e-4)


def test_lengths_and_indices() -> None:
    tree = PrefixTree([1, 2, 3], [[4, 5], [], [6]])
    assert len(tree) == 6
    assert tree.starts == [3, 5, 5]
    assert [tree.path(b) for b in range(3)] == [[2, 3, 4], [2], [2, 5]]


@pytest.mark.parametrize("continuations", [[], [ids(4, 7)]])
def test_other_trees_of_the_batch_change_nothing(model: PreTrainedModel, continuations: list[list[int]]) -> None:
    tree = PrefixTree(ids(9, 6), continuations)
    with torch.no_grad():
        alone = hidden_states(model, [tree], [[8]])
        together = hidden_states(
            model, [PrefixTree(ids(7, 1)), tree, PrefixTree(ids(50, 8), continuations)], [[], [8], []]
        )
    torch.testing.assert_close(alone, together, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("length", [40, 33])
def test_a_cached_prefix_equals_its_ids(model: PreTrainedModel, length: int) -> None:
    prefix_ids = ids(length, 9)
    trees = [PrefixTree(ids(30, 0), [ids(20, 1), ids(3, 2)]), PrefixTree(ids(2, 3))]
    with_prefix = [PrefixTree(prefix_ids + tree.prefix, tree.continuations) for tree in trees]
    read = [[0, 29, 40, 52], [1]]
    with torch.no_grad():
        prefix_cache = compute_prefix_cache(model, prefix_ids)
        assert prefix_cache is not None
        result = hidden_states(model, trees, read, KeyValues(prefix_cache))
        expected = hidden_states(model, with_prefix, [[index + length for index in indices] for indices in read])
    torch.testing.assert_close(result, expected, atol=2e-5, rtol=1e-4)


@contextmanager
def rows_of_last_mlp(model: nn.Module) -> Iterator[list[int]]:
    """How many tokens go through the last layer's MLP in each forward pass."""
    counts: list[int] = []
    last = text_decoder(model).layers[-1].mlp  # type: ignore[index, union-attr]
    handle = last.register_forward_pre_hook(lambda _, given: counts.append(given[0].shape[:-1].numel()))
    yield counts
    handle.remove()


@pytest.mark.parametrize("prefix_length", [0, 40])
def test_the_last_layer_computes_only_what_is_read(model: PreTrainedModel, prefix_length: int) -> None:
    """Reading few tokens (unevenly over the trees) gives the same hidden states as reading all."""
    trees = [PrefixTree(ids(30, 0), [ids(20, 1), ids(3, 2)]), PrefixTree(ids(25, 3)), PrefixTree(ids(44, 4))]
    few = [[29, 52], [24], [0, 20, 43]]
    with torch.no_grad(), rows_of_last_mlp(model) as rows:
        prefix_cache = compute_prefix_cache(model, ids(prefix_length, 9))
        rows.clear()
        all_states = hidden_states(model, trees, [range(len(tree)) for tree in trees], KeyValues(prefix_cache))
        result = hidden_states(model, trees, few, KeyValues(prefix_cache))
    full, narrow = rows
    assert full >= sum(map(len, trees))
    assert narrow == (6 if packs_sequences(text_decoder(model), prefix_cache) else 9)
    expected = [all_states[start + i] for start, indices in zip((0, 53, 78), few, strict=True) for i in indices]
    torch.testing.assert_close(result, torch.stack(expected), atol=2e-5, rtol=1e-4)


def test_a_short_prefix_is_not_cached() -> None:
    with torch.no_grad():
        assert compute_prefix_cache(make_text_model(), ids(31, 0)) is None


@pytest.mark.parametrize(
    ("sequences", "common"),
    [([[1, 2, 3], [1, 2, 4]], 2), ([[1, 2], [1, 2]], 1), ([[1]], 0), ([[5, 6, 7]], 2), ([[1], [2, 3]], 0)],
)
def test_common_prefix_leaves_each_sequence_one_id(sequences: list[list[int]], common: int) -> None:
    assert common_prefix(sequences) == common
