"""Blockwise attention equals PyTorch's own, masks, windows and shared key heads included."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from conftest import make_text_model
from lorachain.weights import attention as attention_module
from lorachain.weights.attention import BLOCKWISE, blockwise_attention, use_blockwise_attention


def mask_of(documents: list[int], window: int | None) -> Tensor:
    """(1, 1, T, T): causal, within the window, within the same document."""
    document = torch.repeat_interleave(torch.arange(len(documents)), torch.tensor(documents))
    query, key = torch.arange(len(document))[:, None], torch.arange(len(document))[None, :]
    near = (query - key) < (window or len(document))
    return ((key <= query) & near & (document[:, None] == document[None, :]))[None, None]


@pytest.mark.parametrize("heads", [(4, 1), (4, 2), (2, 2)])
@pytest.mark.parametrize(
    ("documents", "window", "masked"),
    [([23], None, False), ([23], None, True), ([9, 1, 13], None, True), ([40], 6, True),
     ([20, 20], 6, True), ([1], 6, False)],
    ids=["causal", "causal mask", "packed", "window", "packed window", "one token"],
)  # fmt: skip
def test_output_and_gradients_equal_torch(
    heads: tuple[int, int], documents: list[int], window: int | None, masked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attention_module, "QUERY_BLOCK", 8)  # several blocks, the last one short
    generator = torch.Generator().manual_seed(0)
    length = sum(documents)
    query, key, value = (
        torch.randn(3, count, length, 16, generator=generator, dtype=torch.float64).requires_grad_()
        for count in (heads[0], heads[1], heads[1])
    )
    upstream = torch.randn(3, length, heads[0], 16, generator=generator, dtype=torch.float64)
    mask = mask_of(documents, window).expand(3, -1, -1, -1)
    output = blockwise_attention(query, key, value, mask if masked else None, 0.3)
    expected = F.scaled_dot_product_attention(query, key, value, mask, scale=0.3, enable_gqa=True).transpose(1, 2)
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-6)
    ours, theirs = (torch.autograd.grad(o, (query, key, value), upstream) for o in (output, expected))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("masked", [True, False], ids=["mask", "no mask"])
@pytest.mark.parametrize("length", [1, 5, 19])
def test_queries_behind_a_prefix_equal_torch(length: int, masked: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_module, "QUERY_BLOCK", 8)
    generator = torch.Generator().manual_seed(0)
    before = 30
    query = torch.randn(2, 4, length, 16, generator=generator)
    key, value = (torch.randn(2, 2, before + length, 16, generator=generator) for _ in range(2))
    causal = torch.arange(before + length) <= torch.arange(before, before + length)[:, None]
    mask = causal.expand(2, 1, -1, -1).clone()
    if masked:
        mask[1, :, :, :11] = False  # the second row's prefix starts later
        mask[0, :, :, 3:7] = False  # and the first row's has a gap
    output = blockwise_attention(query, key, value, mask if masked else None, 0.3)
    expected = F.scaled_dot_product_attention(query, key, value, mask, scale=0.3, enable_gqa=True).transpose(1, 2)
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("before", [0, 30])
@pytest.mark.parametrize("window", [None, 6])
def test_packed_sequences_equal_torch(before: int, window: int | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """With their bounds, and a mask only where there is a window; one sequence is empty."""
    monkeypatch.setattr(attention_module, "QUERY_BLOCK", 8)
    lengths = [13, 1, 0, 20]
    sequences = mask_of(lengths, window)
    mask = torch.cat([torch.ones(1, 1, sum(lengths), before, dtype=torch.bool), sequences], dim=-1)
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 4, sum(lengths), 16, generator=generator, dtype=torch.float64).requires_grad_()
    key, value = (
        torch.randn(2, 2, before + sum(lengths), 16, generator=generator, dtype=torch.float64).requires_grad_()
        for _ in range(2)
    )
    output = blockwise_attention(query, key, value, None if window is None else mask, 0.3, [0, 13, 14, 14, 34])
    expected = F.scaled_dot_product_attention(query, key, value, mask, scale=0.3, enable_gqa=True).transpose(1, 2)
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-6)
    upstream = torch.randn(expected.shape, generator=generator, dtype=torch.float64)
    ours, theirs = (torch.autograd.grad(o, (query, key, value), upstream) for o in (output, expected))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_padding_that_attends_to_nothing_stays_finite() -> None:
    query, key, value = torch.randn(3, 2, 1, 6, 8, generator=torch.Generator().manual_seed(0)).unbind()
    mask = torch.ones(6, 6, dtype=torch.bool).tril().expand(2, 1, -1, -1).clone()
    mask[0, :, :, :4] = False  # four positions of padding on the left, which nothing attends to
    output = blockwise_attention(query, key, value, mask, 0.3)
    assert output.isfinite().all()
    alone = blockwise_attention(query[:1, :, 4:], key[:1, :, 4:], value[:1, :, 4:], None, 0.3)
    torch.testing.assert_close(output[:1, 4:], alone)


@pytest.mark.parametrize("padding_side", ["left", "right"])
def test_a_model_switched_to_it_agrees_with_its_own_attention(padding_side: str) -> None:
    model = make_text_model()
    ids = torch.randint(6, 380, (2, 50), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[0, slice(0, 9) if padding_side == "left" else slice(41, 50)] = 0
    with torch.no_grad():
        before = model(input_ids=ids, attention_mask=mask).logits
    use_blockwise_attention(model)
    assert model.config._attn_implementation == BLOCKWISE
    for gradients in (True, False):
        with torch.set_grad_enabled(gradients):
            after = model(input_ids=ids, attention_mask=mask).logits
        assert not torch.equal(after, before)
        torch.testing.assert_close(after[mask.bool()], before[mask.bool()], rtol=1e-4, atol=1e-4)
