"""Batched generation: each sequence ends by itself, and the next prompt takes its slot."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from lorachain.errors import DeviceError
from lorachain.inference.batching import fits, forward_groups
from lorachain.inference.eval_mode import eval_mode
from lorachain.inference.forward import hidden_states
from lorachain.inference.kv_cache import KvCache, default_cache_bytes, sequence_bytes
from lorachain.inference.logprobs import greedy_tokens, non_finite_logits
from lorachain.inference.prefix_cache import KeyValues, PrefixCache, compute_prefix_cache
from lorachain.inference.prefix_groups import family_tree, prefix_groups, tree_paths
from lorachain.inference.sampling import sample_tokens
from lorachain.inference.shared_work import share_groups
from lorachain.tokens import TokenEncoder
from lorachain.weights.load import configured_end_ids, head_weight, plain_model, text_decoder

logger = logging.getLogger(__name__)

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
    seed: int = 0


def stop_ids(model: nn.Module, encoder: TokenEncoder) -> set[int]:
    """The ids that end a sequence: those of the tokenizer and those of the model's generation configuration."""
    config = cast(Any, plain_model(model)).generation_config
    return {encoder.end_id, encoder.eos_id, *configured_end_ids(config)}


def generate(
    model: nn.Module,
    encoder: TokenEncoder,
    prompts: Sequence[list[int]],
    *,
    stop: Callable[[str], bool],
    max_new_tokens: int,
    token_budget: int = 8192,
    cache_bytes: int | None = None,
    temperature: float = 0.0,
    seeds: Sequence[int] | None = None,
    on_token: Callable[[int, Sequence[int]], None] | None = None,
    on_generation: Callable[[int, Generation], None] | None = None,
    on_progress: Callable[[int], None] | None = None,
) -> list[Generation]:
    """The continuation of each prompt (ids with BOS), in the order of the prompts.

    A sequence ends at an end token, when `stop` is true for the text of its last ids, or after `max_new_tokens`; the
    next prompt then takes its slot. What many prompts begin with is computed once (`prefix_groups`).

    Args:
        token_budget: ids in one forward pass over prompts, roughly.
        cache_bytes: keys and values of all sequences that run at a time, counted at their full length; None: what
            `default_cache_bytes` allows. At least one sequence runs.
        temperature: 0 is greedy.
        seeds: one per prompt; what is drawn for a prompt depends on its own seed alone, on any device. None: all 0.
        on_token: called with the index of the prompt and all ids generated for it so far, after each of them.
        on_generation: called with the index of the prompt as soon as its generation is finished.
        on_progress: called with the number of finished prompts.

    Within `shared_inference` the prompts are shared out, those of one family together. `on_token` is then called for
    the process's own prompts only, `on_generation` for those of the others when all are finished.

    Where the device runs out of memory, the prompts that are not finished are started again, half as many at a time.

    Raises:
        NonFiniteError: logits are NaN or infinite.
        DeviceError: a single sequence does not fit in the device's memory.
    """
    finished: dict[int, Generation] = {}  # by this process

    def own(families: list[list[int]], report: Callable[[int], None]) -> dict[int, Generation]:
        mine = sorted(index for family in families for index in family)

        def finish(index: int, generation: Generation) -> None:
            finished[index] = generation
            if on_generation is not None:
                on_generation(index, generation)
            report(len(finished))

        slots = _slots(model, [prompts[i] for i in mine], max_new_tokens, cache_bytes) if mine else 0
        budget = token_budget
        while len(finished) < len(mine):
            left = _Prompts([i for i in mine if i not in finished], prompts, seeds)
            slots = min(slots, len(left.indices))
            attempt = partial(
                _generate, model, encoder, left, stop=stop, max_new_tokens=max_new_tokens, token_budget=budget,
                slots=slots, temperature=temperature, on_token=on_token, finish=finish,
            )  # fmt: skip
            if not fits(model, attempt):
                slots, budget = _half(model, slots), max(1, budget // 2)
        return finished

    families = [family for group in prefix_groups(prompts) for family in group.families] if prompts else []
    generations = share_groups(families, own, on_progress)
    if on_generation is not None:
        for index in sorted(generations.keys() - finished.keys()):
            on_generation(index, generations[index])
    return [generations[i] for i in range(len(prompts))]


def _half(model: nn.Module, slots: int) -> int:
    """Half as many sequences as those that did not fit."""
    device = next(text_decoder(model).parameters()).device
    if slots == 1:
        raise DeviceError(
            f"out of memory on {device}: one sequence does not fit next to the model; lower the number of tokens that "
            "are generated or of worked examples, or use a device with more memory"
        )
    logger.warning("out of memory on %s: at most %s sequences at a time from here on", device, slots // 2)
    return slots // 2


@dataclass(frozen=True, slots=True)
class _Prompts:
    """Those that are not finished."""

    indices: list[int]
    of_all: Sequence[list[int]]
    seeds: Sequence[int] | None

    def seed(self, index: int) -> int:
        return self.seeds[index] if self.seeds else 0


def _generate(
    model: nn.Module,
    encoder: TokenEncoder,
    left: _Prompts,
    *,
    stop: Callable[[str], bool],
    max_new_tokens: int,
    token_budget: int,
    slots: int,
    temperature: float,
    on_token: Callable[[int, Sequence[int]], None] | None,
    finish: Callable[[int, Generation], None],
) -> None:
    """Calls `finish` with each generation; `slots` sequences run at a time."""
    end_ids = stop_ids(model, encoder)
    decoder, weight = text_decoder(model), head_weight(model)
    prompts = [left.of_all[i] for i in left.indices]
    groups = prefix_groups(prompts)
    # Families that have not entered yet, each with the number of its group.
    waiting = [(number, family) for number, group in enumerate(groups) for family in group.families]
    with eval_mode(model):
        cache = KvCache(decoder, slots)
        prefix_cache: PrefixCache | None = None
        current = -1  # the group that `prefix_cache` is of
        running: list[_Sequence] = []  # running[s] is in slot s of the cache

        def append_next(hidden: Tensor, sequences: list[_Sequence]) -> None:
            """Appends the next id to each sequence: hidden (len(sequences), H)."""
            for sequence, token in zip(sequences, _next_tokens(hidden, weight, temperature, sequences), strict=True):
                sequence.ids.append(token)
                if on_token is not None:
                    on_token(sequence.index, sequence.ids)

        def remove_finished() -> None:
            for slot in reversed(range(len(running))):
                generation = _finished(running[slot].ids, end_ids, stop, max_new_tokens, encoder)
                if generation is None:
                    continue
                index = running[slot].index
                cache.free(slot)
                running[slot] = running[-1]
                running.pop()
                finish(index, generation)

        while waiting or running:
            # Slots are refilled several at a time: the prefill of a single prompt underuses the hardware.
            free = cache.slots - len(running)
            if waiting and (not running or free >= max(1, cache.slots // 4)):
                number, entering = _take(waiting, free)
                if number != current:
                    prefix_cache = None  # freed before the next one is computed
                    prefix_cache, current = compute_prefix_cache(model, groups[number].prefix), number
                cached = prefix_cache.length if prefix_cache is not None else 0
                own = [[prompts[i][cached:] for i in family] for family in entering]
                lengths = [len(family_tree(family)) for family in own]
                for forward in forward_groups(model, lengths, token_budget, prefix_cache):
                    numbers = [left.indices[i] for f in forward for i in entering[f]]
                    sequences = [_Sequence(number, seed=left.seed(number)) for number in numbers]
                    append_next(_prefill(model, cache, prefix_cache, [own[f] for f in forward]), sequences)
                    running += sequences
            else:
                append_next(_decode_step(cache, [sequence.ids[-1] for sequence in running]), running)
            remove_finished()


def _slots(model: nn.Module, prompts: Sequence[list[int]], max_new_tokens: int, cache_bytes: int | None) -> int:
    """How many sequences run at a time."""
    budget = default_cache_bytes(model) if cache_bytes is None else cache_bytes
    longest = max(map(len, prompts)) + max_new_tokens
    return min(len(prompts), _MAX_SLOTS, max(1, budget // sequence_bytes(text_decoder(model), longest)))


def _take(waiting: list[tuple[int, list[int]]], free: int) -> tuple[int, list[list[int]]]:
    """Removes the first families of one group, `free` prompts at most; returns the group's number and the families."""
    group = waiting[0][0]
    taken: list[list[int]] = []
    while waiting and waiting[0][0] == group and free:
        number, family = waiting.pop(0)
        taken.append(family[:free])
        if family[free:]:
            waiting.insert(0, (number, family[free:]))
        free -= len(taken[-1])
    return group, taken


def _prefill(
    model: nn.Module, cache: KvCache, prefix_cache: PrefixCache | None, families: list[list[list[int]]]
) -> Tensor:
    """Puts prompts, without the cached prefix, into free slots; returns the hidden states (prompts, H) that predict
    their next ids."""
    key_values = KeyValues(prefix_cache)
    trees = [family_tree(family) for family in families]
    paths = [tree_paths(tree) for tree in trees]
    hidden = hidden_states(model, trees, [[path[-1] for path in of_tree] for of_tree in paths], key_values)
    cache.add(key_values, [(tree, path) for tree, of_tree in enumerate(paths) for path in of_tree])
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


def _next_tokens(hidden: Tensor, weight: Tensor, temperature: float, sequences: list[_Sequence]) -> list[int]:
    if temperature == 0.0:
        drawn = greedy_tokens(hidden, weight)
    else:
        seeds, steps = [sequence.seed for sequence in sequences], [len(sequence.ids) for sequence in sequences]
        drawn = sample_tokens(hidden, weight, temperature, seeds, steps)
    tokens = cast(list[int], drawn.tolist())  # the only transfer from the device in a step
    for sequence, token in zip(sequences, tokens, strict=True):
        if token < 0:
            raise non_finite_logits(_subject(sequence))
    return tokens


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
