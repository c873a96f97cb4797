"""Batched generation: each sequence ends by itself, and the next prompt takes its slot."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from lorachain.inference.batching import forward_groups
from lorachain.inference.eval_mode import eval_mode
from lorachain.inference.forward import hidden_states
from lorachain.inference.kv_cache import KvCache
from lorachain.inference.logprobs import greedy_tokens, non_finite_logits
from lorachain.inference.prefix_cache import KeyValues, common_prefix, compute_prefix_cache
from lorachain.inference.prefix_tree import PrefixTree
from lorachain.tokens import TokenEncoder
from lorachain.weights.load import head_weight, plain_model, text_decoder

_TAIL = 48
"""The stop condition sees the text of this many last ids, more than any stop string takes."""
_MAX_SLOTS = 64


@dataclass(frozen=True, slots=True)
class Generation:
    """What follows a prompt, without the end token."""

    text: str
    tokens: int
    """Generated ids, the end token included."""
    ended: bool
    """By an end token or the stop condition; False where it was cut at the limit."""


@dataclass(slots=True)
class _Sequence:
    """A prompt that is being continued."""

    index: int
    """Of the prompt."""
    ids: list[int] = field(default_factory=list)
    """Generated so far."""
    generator: torch.Generator | None = None


def stop_ids(model: nn.Module, encoder: TokenEncoder) -> set[int]:
    """The ids that end a sequence: those of the tokenizer and those of the model's generation configuration."""
    config = cast(Any, plain_model(model)).generation_config
    configured = config.eos_token_id if config is not None else None
    return {
        encoder.end_id,
        encoder.eos_id,
        *([configured] if isinstance(configured, int) else configured or []),
    }


def generate(
    model: nn.Module,
    encoder: TokenEncoder,
    prompts: Sequence[list[int]],
    *,
    stop: Callable[[str], bool],
    max_new_tokens: int,
    token_budget: int = 8192,
    temperature: float = 0.0,
    seeds: Sequence[int] | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> list[Generation]:
    """The continuation of each prompt (ids with BOS), in the order of the prompts.

    A sequence ends at an end token, when `stop` is true for the text of its last ids, or after `max_new_tokens`; the
    next prompt then takes its slot. The prefix that all prompts share is computed once.

    Args:
        token_budget: ids in the KV cache at a time, roughly.
        temperature: 0 is greedy.
        seeds: one per prompt; what is drawn for a prompt depends on its own seed alone, on any device.
        on_progress: called with the number of finished prompts.

    Raises:
        NonFiniteError: logits are NaN or infinite.
    """
    if not prompts:
        return []
    end_ids = stop_ids(model, encoder)
    weight = head_weight(model)
    generations: dict[int, Generation] = {}
    waiting = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), i))
    with eval_mode(model):
        prefix_cache = compute_prefix_cache(model, prompts[0][: common_prefix(prompts)])
        cached = prefix_cache.length if prefix_cache is not None else 0
        longest = max(map(len, prompts)) - cached + min(max_new_tokens, _TAIL)
        slots = min(len(prompts), _MAX_SLOTS, max(1, token_budget // longest))
        cache = KvCache(text_decoder(model), slots, prefix_cache)
        running: list[_Sequence] = []  # running[s] is in slot s of the cache

        def append_next(hidden: Tensor, sequences: list[_Sequence]) -> None:
            """Appends the next id to each sequence: hidden (len(sequences), H)."""
            for sequence, token in zip(sequences, _next_tokens(hidden, weight, temperature, sequences), strict=True):
                sequence.ids.append(token)

        def remove_finished() -> None:
            for slot in reversed(range(len(running))):
                generation = _finished(running[slot].ids, end_ids, stop, max_new_tokens, encoder)
                if generation is None:
                    continue
                generations[running[slot].index] = generation
                cache.free(slot)
                running[slot] = running[-1]
                running.pop()
                if on_progress is not None:
                    on_progress(len(generations))

        while waiting or running:
            # Slots are refilled several at a time: the prefill of a single prompt underuses the hardware.
            if waiting and (not running or slots - len(running) >= max(1, slots // 4)):
                entering = waiting[: slots - len(running)]
                del waiting[: len(entering)]
                lengths = [len(prompts[i]) - cached for i in entering]
                for group in forward_groups(model, lengths, token_budget, prefix_cache):
                    sequences = [_Sequence(entering[i], generator=_generator(seeds, entering[i])) for i in group]
                    append_next(_prefill(model, cache, [prompts[s.index][cached:] for s in sequences]), sequences)
                    running += sequences
            else:
                append_next(_decode_step(cache, [sequence.ids[-1] for sequence in running]), running)
            remove_finished()
    return [generations[i] for i in range(len(prompts))]


def _prefill(model: nn.Module, cache: KvCache, prompts: list[list[int]]) -> Tensor:
    """Puts prompts into free slots; returns the hidden states (len(prompts), H) that predict their next ids."""
    key_values = KeyValues(cache.prefix_cache)
    last = [[len(prompt) - 1] for prompt in prompts]
    hidden = hidden_states(model, [PrefixTree(prompt) for prompt in prompts], last, key_values)
    cache.add(key_values, [len(prompt) for prompt in prompts])
    return hidden


def _decode_step(cache: KvCache, last_ids: list[int]) -> Tensor:
    """One id per occupied slot through the decoder: the hidden states (occupied, H) that predict the next ids."""
    device = next(cache.decoder.parameters()).device
    masks = cache.begin_step(device)
    hidden: Tensor = cache.decoder(
        input_ids=torch.tensor(last_ids, device=device)[:, None],
        attention_mask=masks,
        position_ids=cache.positions().to(device),
        past_key_values=cache,
        use_cache=False,
    ).last_hidden_state
    cache.finish_step()
    return hidden[:, -1]


def _generator(seeds: Sequence[int] | None, index: int) -> torch.Generator | None:
    return None if seeds is None else torch.Generator().manual_seed(seeds[index])


def _next_tokens(hidden: Tensor, weight: Tensor, temperature: float, sequences: list[_Sequence]) -> list[int]:
    if temperature == 0.0:
        tokens = cast(list[int], greedy_tokens(hidden, weight).tolist())
        for sequence, token in zip(sequences, tokens, strict=True):
            if token < 0:
                raise non_finite_logits(_subject(sequence))
        return tokens
    drawn = []
    for row, sequence in zip(hidden, sequences, strict=True):
        # Drawn on the CPU, so that a seed gives the same draw on every device.
        probabilities = torch.softmax((weight @ row).float().cpu() / temperature, dim=-1)
        if not probabilities.sum().isfinite():
            raise non_finite_logits(_subject(sequence))
        drawn.append(int(torch.multinomial(probabilities, 1, generator=sequence.generator)))
    return drawn


def _subject(sequence: _Sequence) -> str:
    return f"prompt {sequence.index + 1}, generated token {len(sequence.ids) + 1}"


def _finished(
    ids: list[int], end_ids: set[int], stop: Callable[[str], bool], max_new_tokens: int, encoder: TokenEncoder
) -> Generation | None:
    """The generation where `ids` are a finished one, else None."""
    kept = ids[:-1] if ids[-1] in end_ids else ids
    ended = len(kept) < len(ids) or stop(_text(encoder, ids[-_TAIL:]))
    if not ended and len(ids) < max_new_tokens:
        return None
    return Generation(_text(encoder, kept), len(ids), ended)


def _text(encoder: TokenEncoder, ids: list[int]) -> str:
    return encoder.tokenizer.decode(ids, skip_special_tokens=True)


def generate_lines(
    model: nn.Module,
    encoder: TokenEncoder,
    prompts: Sequence[list[int]],
    *,
    max_new_tokens: int,
    token_budget: int = 8192,
    on_progress: Callable[[int], None] | None = None,
) -> list[str]:
    """The greedy continuation of each prompt up to its end token or first newline, in the order of the prompts."""
    generations = generate(
        model,
        encoder,
        prompts,
        stop=lambda text: "\n" in text,
        max_new_tokens=max_new_tokens,
        token_budget=token_budget,
        on_progress=on_progress,
    )
    return [generation.text.split("\n")[0] for generation in generations]
