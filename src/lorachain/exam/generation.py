"""Greedy answers of one line, in batches."""

from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import GenerationConfig

from lorachain.exam.inference import evaluating
from lorachain.tokens import TokenEncoder, token_budget_groups
from lorachain.weights.load import plain_model


def newline_ids(encoder: TokenEncoder) -> list[int]:
    """Every id of the vocabulary whose text holds a newline."""
    tokenizer = encoder.tokenizer
    tokens = cast(list[str], tokenizer.convert_ids_to_tokens(range(len(tokenizer))))  # type: ignore[attr-defined,arg-type]
    return [i for i, token in enumerate(tokens) if "\n" in token or token == "<0x0A>"]


def generate_lines(
    model: nn.Module,
    encoder: TokenEncoder,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    token_budget: int = 8192,
    on_progress: Callable[[int], None] | None = None,
) -> list[str]:
    """The greedy continuation of each prompt (ids with BOS) up to its end token or first newline, in the given order.

    Through transformers' own `generate`, prompts of like length together, padded on the left. A batch holds at most
    `token_budget` tokens, prompt and continuation together. `on_progress` hears how many are done.
    """
    stops = sorted({encoder.end_id, encoder.eos_id, *newline_ids(encoder)})
    inner = cast(Any, plain_model(model))
    config = GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=stops,
        pad_token_id=encoder.pad_id,
        bos_token_id=encoder.bos_id,
    )
    answers: dict[int, str] = {}
    lengths = [len(prompt) + max_new_tokens for prompt in prompts]
    with evaluating(model):
        for group in token_budget_groups(lengths, token_budget):
            width = max(len(prompts[i]) for i in group)
            ids = torch.full((len(group), width), encoder.pad_id, dtype=torch.int64)  # (B, T), padded on the left
            seen = torch.zeros((len(group), width), dtype=torch.int64)
            for line, index in enumerate(group):
                ids[line, width - len(prompts[index]) :] = torch.tensor(prompts[index])
                seen[line, width - len(prompts[index]) :] = 1
            device = inner.device
            output = cast(
                Tensor,
                inner.generate(input_ids=ids.to(device), attention_mask=seen.to(device), generation_config=config),
            )
            for index, line_ids in zip(group, output[:, width:].tolist(), strict=True):
                answers[index] = encoder.tokenizer.decode(_before_stop(line_ids, stops), skip_special_tokens=True)
            if on_progress is not None:
                on_progress(len(answers))
    return [answers[i] for i in range(len(prompts))]


def _before_stop(ids: list[int], stops: list[int]) -> list[int]:
    end = next((i for i, token in enumerate(ids) if token in stops), len(ids))
    return ids[:end]
