"""Attention by bounds equals attention by masks: kernels, prefix trees, training; and which device gets which."""

import importlib.util
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import varlen
from transformers import PreTrainedModel
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask

from conftest import make_multimodal_model, make_text_model, make_tokenizer
from lorachain.inference.eval_mode import eval_mode
from lorachain.inference.forward import hidden_states
from lorachain.inference.generate import generate
from lorachain.inference.prefix_cache import KeyValues, compute_prefix_cache
from lorachain.inference.prefix_tree import PrefixTree
from lorachain.prompts import Prompt
from lorachain.tokens import TokenEncoder, TokenRow, collate, collate_packed
from lorachain.training.loss import SupervisedLanguageModel
from lorachain.weights import packed_attention
from lorachain.weights.attention import BLOCKWISE, blockwise_attention
from lorachain.weights.attention_choice import takes_packed_rows, takes_segments, use_fast_attention
from lorachain.weights.load import text_decoder
from lorachain.weights.packed_attention import FLEX, VARLEN, attend, block_mask, gpu_attention, varlen_kernel
from lorachain.weights.segments import KINDS, own_sequences, runs_of_keys
from reference import plain_varlen

CPU = torch.device("cpu")
MODULE = cast(nn.Module, SimpleNamespace(is_causal=True))


@pytest.fixture(autouse=True)
def kernels_of_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """The plain reference in place of FlashAttention, and small blocks for flex_attention."""
    monkeypatch.setattr(varlen, "varlen_attn", plain_varlen.varlen_attn)
    monkeypatch.setattr(packed_attention, "FLEX_BLOCK", 8)


def bounds(lengths: list[int]) -> Tensor:
    return torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=torch.int32)


def mask_of(lengths: list[int], window: int | None, prefix: int) -> Tensor:
    """(1, 1, T, P + T): sequences that share a prefix of which all lie within the window or none does."""
    document = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    within = torch.cat([torch.arange(length) for length in lengths])
    distance = within[:, None] - within
    own = (distance >= 0) & (document[:, None] == document) & (distance < (window or len(document)))
    before = within[:, None] + prefix - torch.arange(prefix)
    shared = before < (window or len(document) + prefix)
    return torch.cat([shared, own], dim=1)[None, None]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("window", [None, 6])
@pytest.mark.parametrize("prefix", [0, 5])
@pytest.mark.parametrize("heads", [(4, 1), (2, 2)])
def test_varlen_equals_blockwise_attention(
    heads: tuple[int, int], prefix: int, window: int | None, dtype: torch.dtype
) -> None:
    lengths = [13, 1, 20]
    total = sum(lengths)
    generator = torch.Generator().manual_seed(0)
    query, key, value = (
        torch.randn(1, count, length, 16, generator=generator, dtype=dtype).requires_grad_()
        for count, length in ((heads[0], total), (heads[1], prefix + total), (heads[1], prefix + total))
    )
    starts = [prefix, prefix + 13, prefix + 14]
    segments = own_sequences(bounds(lengths), 20)
    if prefix:
        runs = [(n, [range(prefix), range(s, s + n)]) for s, n in zip(starts, lengths, strict=True)]
        segments = runs_of_keys(runs, CPU)
    output, _ = attend(
        varlen_kernel, MODULE, query, key, value, None, scaling=0.3, sliding_window=window,
        segments=dict.fromkeys(KINDS, segments),
    )  # fmt: skip
    expected = blockwise_attention(query, key, value, mask_of(lengths, window, prefix), 0.3)
    torch.testing.assert_close(output, expected, rtol=1e-5, atol=1e-6)
    upstream = torch.randn(expected.shape, generator=generator, dtype=dtype)
    ours, theirs = (torch.autograd.grad(o, (query, key, value), upstream) for o in (output, expected))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("window", [None, 6])
def test_blocks_of_flex_attention_cover_what_is_attended_to(window: int | None) -> None:
    lengths, prefix = [13, 1, 20], 5
    runs = [(n, [range(prefix), range(n)]) for n in lengths]
    segments = runs_of_keys(runs, CPU)
    keys = sum(lengths) + 3 * prefix
    mask = block_mask(segments, window, sum(lengths), keys)
    allowed = torch.zeros(sum(lengths), keys, dtype=torch.bool)  # one run after another, as the layer gathers the keys
    row = column = 0
    for n in lengths:
        piece = mask_of([n], window, prefix)[0, 0]
        allowed[row : row + n, column : column + prefix + n] = piece
        row, column = row + n, column + prefix + n
    query, key = torch.arange(sum(lengths))[:, None], torch.arange(keys)
    assert torch.equal(mask.mask_mod(0, 0, query, key), allowed)
    whole = nn.functional.pad(allowed, (0, -keys % 8)).reshape(len(allowed), -1, 8)  # (queries, blocks, 8)
    padded = nn.functional.pad(whole.any(2), (0, 0, 0, -len(allowed) % 8))
    by_block = padded.reshape(-1, 8, padded.shape[1]).any(1)
    assert torch.equal(mask.to_dense()[0, 0].bool(), by_block)
    for index, count in enumerate(mask.full_kv_num_blocks[0, 0].tolist()):
        for block in mask.full_kv_indices[0, 0, index, :count].tolist():
            assert whole[8 * index : 8 * index + 8, block].all()


def switched(model: PreTrainedModel, name: str) -> PreTrainedModel:
    model.set_attn_implementation(name)
    return model


IDS = torch.randint(6, 380, (200,), generator=torch.Generator().manual_seed(0)).tolist()
TREES = [
    PrefixTree(IDS[:23], [IDS[40:43], [], IDS[50:70]]),
    PrefixTree(IDS[100:137]),
    PrefixTree(IDS[140:141], [IDS[150:152]]),
]
ALL = [range(len(tree)) for tree in TREES]
FEW = [[22, 25, 22, 26, 27], [36], [0, 2, 1]]


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("name", [VARLEN, FLEX])
@pytest.mark.parametrize("read", [ALL, FEW], ids=["all read", "few read"])
@pytest.mark.parametrize("prefix", [0, 33])
@pytest.mark.parametrize("make", [make_text_model, make_multimodal_model])
def test_prefix_trees_have_the_hidden_states_that_masks_give(make: Any, prefix: int, read: Any, name: str) -> None:
    plain, ours = switched(make(), "sdpa"), switched(make(), name)
    results = []
    for model in (plain, ours):
        with eval_mode(model):
            cached = compute_prefix_cache(model, IDS[-prefix:]) if prefix else None
            results.append(hidden_states(model, TREES, read, KeyValues(cached) if cached else None))
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-4)
    assert len(results[0]) == sum(map(len, read))


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("name", [VARLEN, FLEX])
@pytest.mark.parametrize("common", ["", "예시 " * 12], ids=["no prefix", "cached prefix"])
def test_generation_is_that_of_masks(common: str, name: str) -> None:
    """Prompts are computed by their bounds, and each following token with a mask."""
    encoder = TokenEncoder(make_tokenizer())
    prompts = [encoder.prompt_ids(Prompt(common + text, "뜻:")) for text in ("열", "감기는 바이러스로 생긴다", "yz")]
    expected, ours = (
        generate(switched(make_text_model(), of), encoder, prompts, stop=lambda text: False, max_new_tokens=20)
        for of in ("sdpa", name)
    )
    assert ours == expected


def test_packed_training_has_the_loss_and_gradients_of_padded_rows() -> None:
    packs = [[TokenRow(IDS[:30], 1), TokenRow(IDS[30:37], 5)], [TokenRow(IDS[60:80], 12)]]
    packed = collate_packed(packs, 0)
    assert packed.bounds is not None
    assert packed.bounds.tolist() == [0, 30, 37, 57]
    assert packed.longest == 30
    results = []
    for batch, name in ((collate(packs, 0), BLOCKWISE), (packed, VARLEN)):
        module = SupervisedLanguageModel(make_text_model())
        switched(cast(PreTrainedModel, module.model), name)
        embeddings = module.model.get_input_embeddings()  # type: ignore[operator]
        module.model.requires_grad_(False)
        states: list[Tensor] = []
        embeddings.register_forward_hook(lambda _, __, out, s=states: s.append(out.requires_grad_()) or out)
        loss = module(**batch.as_inputs(), normalizer=torch.tensor(1.0))
        loss.backward()
        gradient = cast(Tensor, states[0].grad)
        results.append((loss.detach(), gradient[batch.input_ids != 0]))
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-5)


def test_rows_of_one_sequence_need_no_mask_and_padded_ones_get_one() -> None:
    model = switched(make_text_model(), VARLEN)
    plain = make_text_model()
    ids = torch.tensor(IDS[:120]).view(2, 60)
    padded = torch.ones_like(ids)
    padded[0, :9] = 0
    arguments: dict[str, Any] = {
        "config": model.config,
        "inputs_embeds": torch.empty(2, 60, 1),
        "past_key_values": None,
    }
    for create in (create_causal_mask, create_sliding_window_causal_mask):
        assert create(**arguments, attention_mask=None) is None
        assert create(**arguments, attention_mask=padded) is not None
    with torch.no_grad():
        for mask in (None, padded):
            ours, expected = (m(input_ids=ids, attention_mask=mask).logits[:, 9:] for m in (model, plain))
            torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("capability", "flash", "triton", "dtype", "expected"),
    [((9, 0), True, True, torch.bfloat16, VARLEN), ((8, 6), True, True, torch.float16, VARLEN),
     ((9, 0), True, True, torch.float32, FLEX), ((7, 5), True, True, torch.bfloat16, FLEX),
     ((9, 0), False, True, torch.bfloat16, FLEX), ((9, 0), True, False, torch.float32, None),
     ((6, 1), True, True, torch.float32, None)],
)  # fmt: skip
def test_which_gpu_gets_which_attention(
    capability: tuple[int, int],
    flash: bool,
    triton: bool,
    dtype: torch.dtype,
    expected: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: flash)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object() if triton else None)
    assert gpu_attention(torch.device("cuda:0"), dtype) == expected
    assert gpu_attention(CPU, dtype) is None


def test_a_model_on_a_cpu_computes_in_blocks() -> None:
    model = make_text_model()
    use_fast_attention(model)
    decoder = text_decoder(model)
    assert takes_packed_rows(decoder)
    assert not takes_segments(decoder)
    switched(model, VARLEN)
    assert takes_packed_rows(decoder)
    assert takes_segments(decoder)
