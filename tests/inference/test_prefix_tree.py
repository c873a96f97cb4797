from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from conftest import make_text_model
from lorachain.inference.batching import packs
from lorachain.inference.forward import hidden_states
from lorachain.inference.prefix_cache import KeyValues, common_prefix, compute_prefix_cache
from lorachain.inference.prefix_tree import PrefixTree
from lorachain.weights.attention import takes_packed_rows, use_blockwise_attention
from lorachain.weights.load import text_decoder


def ids(count: int, seed: int) -> list[int]:
    return torch.randint(6, 380, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


@pytest.fixture(params=["a line each", "packed"])
def model(tiny_model: PreTrainedModel, request: pytest.FixtureRequest) -> Iterator[PreTrainedModel]:
    """Both Gemma classes, with PyTorch's attention and with ours."""
    own = tiny_model.config._attn_implementation
    if request.param == "packed":
        use_blockwise_attention(tiny_model)
    assert takes_packed_rows(text_decoder(tiny_model)) == (request.param == "packed")
    yield tiny_model
    tiny_model.set_attn_implementation(own)


def test_every_branch_is_what_it_would_be_alone(model: PreTrainedModel) -> None:
    """Stem and continuations both longer than the window of 16, so that it must count positions and not places."""
    trees = [
        PrefixTree(ids(30, 0), [ids(20, 1), [], ids(3, 2)]),
        PrefixTree(ids(5, 3), [ids(9, 4)]),
        PrefixTree(ids(40, 5)),
    ]
    read = [[p for b in range(len(tree.continuations)) for p in tree.path(b)] or [39] for tree in trees]
    with torch.no_grad():
        found = hidden_states(model, trees, read)
        wanted = []
        for tree in trees:
            for continuation in tree.continuations or [[]]:
                line = torch.tensor([[*tree.prefix, *continuation]])
                alone = text_decoder(model)(input_ids=line).last_hidden_state[0]
                wanted.append(alone[len(tree.prefix) - 1 :])
    torch.testing.assert_close(found, torch.cat(wanted), atol=2e-5, rtol=1e-4)


def test_lengths_and_places() -> None:
    tree = PrefixTree([1, 2, 3], [[4, 5], [], [6]])
    assert len(tree) == 6
    assert tree.starts == [3, 5, 5]
    assert [tree.path(b) for b in range(3)] == [[2, 3, 4], [2], [2, 5]]


@pytest.mark.parametrize("continuations", [[], [ids(4, 7)]])
def test_neighbours_change_nothing(model: PreTrainedModel, continuations: list[list[int]]) -> None:
    tree = PrefixTree(ids(9, 6), continuations)
    with torch.no_grad():
        alone = hidden_states(model, [tree], [[8]])
        beside = hidden_states(
            model, [PrefixTree(ids(7, 1)), tree, PrefixTree(ids(50, 8), continuations)], [[], [8], []]
        )
    torch.testing.assert_close(alone, beside, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("length", [40, 33])
def test_a_shared_prefix_is_as_good_as_its_ids(model: PreTrainedModel, length: int) -> None:
    prefix_ids = ids(length, 9)
    trees = [PrefixTree(ids(30, 0), [ids(20, 1), ids(3, 2)]), PrefixTree(ids(2, 3))]
    whole = [PrefixTree(prefix_ids + tree.prefix, tree.continuations) for tree in trees]
    read = [[0, 29, 40, 52], [1]]
    with torch.no_grad():
        prefix = compute_prefix_cache(model, prefix_ids)
        assert prefix is not None
        found = hidden_states(model, trees, read, KeyValues(prefix))
        wanted = hidden_states(model, whole, [[place + length for place in places] for places in read])
    torch.testing.assert_close(found, wanted, atol=2e-5, rtol=1e-4)


@contextmanager
def rows_of_last_mlp(model: nn.Module) -> Iterator[list[int]]:
    """How many tokens each forward takes through the last layer's MLP."""
    seen: list[int] = []
    last = text_decoder(model).layers[-1].mlp  # type: ignore[index, union-attr]
    handle = last.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[:-1].numel()))
    yield seen
    handle.remove()


@pytest.mark.parametrize("prefix_length", [0, 40])
def test_the_last_layer_computes_only_what_is_read(model: PreTrainedModel, prefix_length: int) -> None:
    """The same hidden states as with everything read, once of few tokens (the last two trees are read unevenly)."""
    trees = [PrefixTree(ids(30, 0), [ids(20, 1), ids(3, 2)]), PrefixTree(ids(25, 3)), PrefixTree(ids(44, 4))]
    few = [[29, 52], [24], [0, 20, 43]]
    with torch.no_grad(), rows_of_last_mlp(model) as rows:
        prefix = compute_prefix_cache(model, ids(prefix_length, 9))
        rows.clear()
        everything = hidden_states(model, trees, [range(len(tree)) for tree in trees], KeyValues(prefix))
        found = hidden_states(model, trees, few, KeyValues(prefix))
    whole, narrow = rows
    assert whole >= sum(map(len, trees))
    assert narrow == (6 if packs(text_decoder(model), prefix) else 9)
    wanted = [everything[start + place] for start, places in zip((0, 53, 78), few, strict=True) for place in places]
    torch.testing.assert_close(found, torch.stack(wanted), atol=2e-5, rtol=1e-4)


def test_a_short_prefix_is_not_worth_it() -> None:
    with torch.no_grad():
        assert compute_prefix_cache(make_text_model(), ids(31, 0)) is None


@pytest.mark.parametrize(
    ("rows", "common"),
    [([[1, 2, 3], [1, 2, 4]], 2), ([[1, 2], [1, 2]], 1), ([[1]], 0), ([[5, 6, 7]], 2), ([[1], [2, 3]], 0)],
)
def test_common_prefix_leaves_each_row_one_id(rows: list[list[int]], common: int) -> None:
    assert common_prefix(rows) == common
