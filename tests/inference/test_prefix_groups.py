"""Which prompts share what: every prompt once, no prefix that its prompts do not have."""

import hypothesis.strategies as st
import pytest
from hypothesis import given

from lorachain.inference import prefix_groups as prefix_groups_module
from lorachain.inference.prefix_groups import family_tree, prefix_groups, tree_paths

ids = st.lists(st.integers(0, 2), min_size=1, max_size=12)
few_shot = st.tuples(st.sampled_from([0, 1, 2]), ids).map(lambda pair: [pair[0]] * 40 + pair[1])


@given(st.lists(st.one_of(ids, few_shot), min_size=1, max_size=40), st.sampled_from([2, 3, 32]))
def test_groups_and_families_hold_every_prompt_once(prompts: list[list[int]], shared_by: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(prefix_groups_module, "SHARED_BY", shared_by)
        groups = prefix_groups(prompts)
    members = [i for group in groups for family in group.families for i in family]
    assert sorted(members) == list(range(len(prompts)))
    assert len({group.prefix for group in groups}) == len(groups)
    for group in groups:
        for family in group.families:
            own = [prompts[i][len(group.prefix) :] for i in family]
            assert all(prompts[i] == [*group.prefix, *rest] and rest for i, rest in zip(family, own, strict=True))
            tree = family_tree(own)
            flat = [*tree.prefix, *(token for continuation in tree.continuations for token in continuation)]
            assert [[flat[i] for i in path] for path in tree_paths(tree)] == own


def test_few_shot_blocks_are_prefixes_and_stems_are_families() -> None:
    """Two subjects with 40 prompts each, in mixed order: eight samples of each of five questions."""
    blocks = {0: [2, *[50] * 100], 1: [2, *[60] * 80]}
    prompts = [
        [*blocks[subject], *[70 + question] * 30, *[100 + sample] * 10]
        for sample in range(8) for question in range(5) for subject in (0, 1)
    ]  # fmt: skip
    groups = prefix_groups(prompts)
    assert [group.prefix for group in groups] == [tuple(blocks[0]), tuple(blocks[1])]
    for group in groups:
        assert [len(family) for family in group.families] == [8] * 5
        for family in group.families:
            assert len({tuple(prompts[i][:-10]) for i in family}) == 1


def test_prompts_with_little_in_common_stay_alone() -> None:
    prompts = [[2, 5, *[i] * (20 + i)] for i in range(40)]
    (group,) = prefix_groups(prompts)
    assert group.prefix == ()
    assert group.families == [[i] for i in reversed(range(40))]  # longest first


def test_samples_of_one_prompt_are_one_family() -> None:
    (group,) = prefix_groups([[2, *range(25)]] * 4)
    assert group.families == [[0, 1, 2, 3]]
    tree = family_tree([[2, *range(25)]] * 4)
    assert len(tree) == 25 + 4
