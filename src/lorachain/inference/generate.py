"""Answers in words: batched generation that stops each sequence where it is decided, and refills its place."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from lorachain.inference.batching import forward_groups
from lorachain.inference.eval_mode import eval_mode
from lorachain.inference.forward import hidden_states
from lorachain.inference.kv_cache import KvCache
from lorachain.inference.logprobs import most_likely
from lorachain.inference.prefix_cache import KeyValues, common_prefix, compute_prefix_cache
from lorachain.inference.prefix_tree import PrefixTree
from lorachain.tokens import TokenEncoder
from lorachain.weights.load import head_weight, plain_model, text_decoder

_TAIL = 48
"""A stop is looked for in the text of this many last ids: longer than any stop string is spelled."""
_MOST_SLOTS = 64


@dataclass(frozen=True, slots=True)
class Generation:
    """What came after a prompt, without the end token. `ended`: by itself; otherwise it was cut at the limit."""

    text: str
    tokens: int
    ended: bool


@dataclass(slots=True)
class _Running:
    index: int
    ids: list[int] = field(default_factory=list)
    generator: torch.Generator | None = None


def stop_ids(model: nn.Module, encoder: TokenEncoder) -> set[int]:
    """The ids that end a sequence: the tokenizer's, and those that the model's own generation settings name."""
    config = cast(Any, plain_model(model)).generation_config
    named = config.eos_token_id if config is not None else None
    return {encoder.end_id, encoder.eos_id, *([named] if isinstance(named, int) else named or [])}


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
    """The continuation of each prompt (ids with BOS), in the given order.

    A sequence ends at an end token, where `stop` says so of the text of its last ids, or after `max_new_tokens`; its
    place in the batch goes to the next prompt. What all prompts begin with is computed once. The batch holds about
    `token_budget` ids. Greedy at temperature 0; otherwise sequence i draws with seed `seeds[i]`, whatever its
    neighbours. `on_progress` hears how many are done.
    """
    if not prompts:
        return []
    ends = stop_ids(model, encoder)
    weight = head_weight(model)
    done: dict[int, Generation] = {}
    waiting = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), i))
    with eval_mode(model):
        prefix_cache = compute_prefix_cache(model, prompts[0][: common_prefix(prompts)])
        begin = prefix_cache.length if prefix_cache is not None else 0
        longest = max(map(len, prompts)) - begin + min(max_new_tokens, _TAIL)
        count = min(len(prompts), _MOST_SLOTS, max(1, token_budget // longest))
        cache = KvCache(text_decoder(model), count, prefix_cache)
        running: list[_Running] = []

        def take(hidden: Tensor, sequences: list[_Running]) -> None:
            """Appends the next id to each sequence: hidden (len(sequences), H)."""
            for sequence, token in zip(sequences, _next(hidden, weight, temperature, sequences), strict=True):
                sequence.ids.append(token)

        def settle() -> None:
            """Frees the place of every sequence that has come to its end."""
            for slot in reversed(range(len(running))):
                generation = _finished(running[slot].ids, ends, stop, max_new_tokens, encoder)
                if generation is None:
                    continue
                done[running[slot].index] = generation
                cache.drop(slot)
                running[slot] = running[-1]
                running.pop()
                if on_progress is not None:
                    on_progress(len(done))

        while waiting or running:
            # A place is refilled together with others: a prefill of one line wastes a wide machine.
            if waiting and (not running or count - len(running) >= max(1, count // 4)):
                fresh = waiting[: count - len(running)]
                del waiting[: len(fresh)]
                own = [len(prompts[i]) - begin for i in fresh]
                for group in forward_groups(model, own, token_budget, prefix_cache):
                    lines = [prompts[fresh[i]][begin:] for i in group]
                    begun = [_Running(fresh[i], generator=_generator(seeds, fresh[i])) for i in group]
                    take(_prefill(model, cache, lines), begun)
                    running += begun
            else:
                take(_step(cache, [sequence.ids[-1] for sequence in running]), running)
            settle()
    return [done[i] for i in range(len(prompts))]


def _prefill(model: nn.Module, cache: KvCache, lines: list[list[int]]) -> Tensor:
    """Whole lines into free cache: hidden states (len(lines), H) that predict each line's next id."""
    store = KeyValues(cache.prefix_cache)
    hidden = hidden_states(model, [PrefixTree(line) for line in lines], [[len(line) - 1] for line in lines], store)
    cache.add(store, [len(line) for line in lines])
    return hidden


def _step(cache: KvCache, last: list[int]) -> Tensor:
    """One id a slot through the decoder: hidden states (occupied, H) that predict the next."""
    device = next(cache.decoder.parameters()).device
    masks = cache.start_step(device)
    hidden: Tensor = cache.decoder(
        input_ids=torch.tensor(last, device=device)[:, None],
        attention_mask=masks,
        position_ids=cache.positions().to(device),
        past_key_values=cache,
        use_cache=False,
    ).last_hidden_state
    cache.finish_step()
    return hidden[:, -1]


def _generator(seeds: Sequence[int] | None, index: int) -> torch.Generator | None:
    return None if seeds is None else torch.Generator().manual_seed(seeds[index])


def _next(hidden: Tensor, weight: Tensor, temperature: float, sequences: list[_Running]) -> list[int]:
    if temperature == 0.0:
        return cast(list[int], most_likely(hidden, weight).tolist())
    drawn = []
    for row, sequence in zip(hidden, sequences, strict=True):
        # Drawn on the CPU, so that a seed gives the same draw on every device.
        probabilities = torch.softmax((weight @ row).float().cpu() / temperature, dim=-1)
        drawn.append(int(torch.multinomial(probabilities, 1, generator=sequence.generator)))
    return drawn


def _finished(
    ids: list[int], ends: set[int], stop: Callable[[str], bool], max_new_tokens: int, encoder: TokenEncoder
) -> Generation | None:
    kept = ids[:-1] if ids[-1] in ends else ids
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
    """The greedy continuation of each prompt up to its end token or first newline, in the given order."""
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
