from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import nn
from transformers import PreTrainedModel

from conftest import make_text_model
from lorachain.exam.batching import packs
from lorachain.exam.hidden import tree_hidden
from lorachain.exam.prefix import KeyValues, common_prefix, compute_prefix
from lorachain.exam.tree import Tree
from lorachain.weights.attention import takes_packed_lines, use_blockwise_attention
from lorachain.weights.load import text_decoder


def ids(count: int, seed: int) -> list[int]:
    return torch.randint(6, 380, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


@pytest.fixture(params=["a line each", "packed"])
def model(tiny_model: PreTrainedModel, request: pytest.FixtureRequest) -> Iterator[PreTrainedModel]:
    """Both Gemma classes, with PyTorch's attention and with ours."""
    own = tiny_model.config._attn_implementation
    if request.param == "packed":
        use_blockwise_attention(tiny_model)
    assert takes_packed_lines(text_decoder(tiny_model)) == (request.param == "packed")
    yield tiny_model
    tiny_model.set_attn_implementation(own)


def test_every_branch_is_what_it_would_be_alone(model: PreTrainedModel) -> None:
    """Stem and branches both longer than the window of 16, so that it must count positions and not places."""
    trees = [Tree(ids(30, 0), [ids(20, 1), [], ids(3, 2)]), Tree(ids(5, 3), [ids(9, 4)]), Tree(ids(40, 5))]
    read = [[p for b in range(len(tree.branches)) for p in tree.path(b)] or [39] for tree in trees]
    with torch.no_grad():
        found = tree_hidden(model, trees, read)
        wanted = []
        for tree in trees:
            for branch in tree.branches or [[]]:
                line = torch.tensor([[*tree.stem, *branch]])
                alone = text_decoder(model)(input_ids=line).last_hidden_state[0]
                wanted.append(alone[len(tree.stem) - 1 :])
    torch.testing.assert_close(found, torch.cat(wanted), atol=2e-5, rtol=1e-4)


def test_lengths_and_places() -> None:
    tree = Tree([1, 2, 3], [[4, 5], [], [6]])
    assert len(tree) == 6
    assert tree.starts == [3, 5, 5]
    assert [tree.path(b) for b in range(3)] == [[2, 3, 4], [2], [2, 5]]


@pytest.mark.parametrize("branches", [[], [ids(4, 7)]])
def test_neighbours_change_nothing(model: PreTrainedModel, branches: list[list[int]]) -> None:
    tree = Tree(ids(9, 6), branches)
    with torch.no_grad():
        alone = tree_hidden(model, [tree], [[8]])
        beside = tree_hidden(model, [Tree(ids(7, 1)), tree, Tree(ids(50, 8), branches)], [[], [8], []])
    torch.testing.assert_close(alone, beside, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("length", [40, 33])
def test_a_shared_prefix_is_as_good_as_its_ids(model: PreTrainedModel, length: int) -> None:
    prefix_ids = ids(length, 9)
    trees = [Tree(ids(30, 0), [ids(20, 1), ids(3, 2)]), Tree(ids(2, 3))]
    whole = [Tree(prefix_ids + tree.stem, tree.branches) for tree in trees]
    read = [[0, 29, 40, 52], [1]]
    with torch.no_grad():
        prefix = compute_prefix(model, prefix_ids)
        assert prefix is not None
        found = tree_hidden(model, trees, read, KeyValues(prefix))
        wanted = tree_hidden(model, whole, [[place + length for place in places] for places in read])
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
    trees = [Tree(ids(30, 0), [ids(20, 1), ids(3, 2)]), Tree(ids(25, 3)), Tree(ids(44, 4))]
    few = [[29, 52], [24], [0, 20, 43]]
    with torch.no_grad(), rows_of_last_mlp(model) as rows:
        prefix = compute_prefix(model, ids(prefix_length, 9))
        rows.clear()
        everything = tree_hidden(model, trees, [range(len(tree)) for tree in trees], KeyValues(prefix))
        found = tree_hidden(model, trees, few, KeyValues(prefix))
    whole, narrow = rows
    assert whole >= sum(map(len, trees))
    assert narrow == (6 if packs(text_decoder(model), prefix) else 9)
    wanted = [everything[start + place] for start, places in zip((0, 53, 78), few, strict=True) for place in places]
    torch.testing.assert_close(found, torch.stack(wanted), atol=2e-5, rtol=1e-4)


def test_a_short_prefix_is_not_worth_it() -> None:
    with torch.no_grad():
        assert compute_prefix(make_text_model(), ids(31, 0)) is None


@pytest.mark.parametrize(
    ("rows", "common"),
    [([[1, 2, 3], [1, 2, 4]], 2), ([[1, 2], [1, 2]], 1), ([[1]], 0), ([[5, 6, 7]], 2), ([[1], [2, 3]], 0)],
)
def test_common_prefix_leaves_each_row_one_id(rows: list[list[int]], common: int) -> None:
    assert common_prefix(rows) == common
