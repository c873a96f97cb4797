"""Text to ids: one BOS, the supervised span, packing of isolated sequences, and collation.

Gemma needs its BOS exactly once: perplexity explodes without it, and chat templates print one too, so two are as
likely as none. Here text never contains a BOS and `TokenEncoder` always adds one.

A pack is one row of a batch: a single sequence, or several end to end that do not attend to each other.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from lorachain.chat_template import chat_turns
from lorachain.errors import ModelError
from lorachain.prompts import ChatTurns, Example, Piece, Prompt, pieces

IGNORE_INDEX = -100
REJECTED = "rejected"
"""The form of a wrong answer, which follows the right one in its pack: the pair trains a preference."""


class Tokenizer(Protocol):
    """The part of a `transformers` tokenizer that is needed."""

    bos_token: str
    bos_token_id: int | None
    eos_token_id: int | None
    pad_token_id: int | None
    chat_template: str | None
    added_tokens_decoder: dict[int, Any]

    def __call__(self, text: str, **kwargs: Any) -> Any: ...
    def apply_chat_template(self, conversation: list[dict[str, str]], **kwargs: Any) -> Any: ...
    def convert_tokens_to_ids(self, tokens: str) -> int: ...
    def decode(self, token_ids: Sequence[int], **kwargs: Any) -> str: ...
    def save_pretrained(self, save_directory: str | Path) -> object: ...


@dataclass(frozen=True, slots=True)
class TokenRow:
    """One sequence: ids with BOS first; ids from `supervised_from` on are targets."""

    ids: list[int]
    supervised_from: int
    record: int = 0
    """Index, in the list or stream that it was read from, of the record that this row was made from."""
    form: str = ""
    """The example's form, where one record gives several (see `Example.form`)."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def supervised(self) -> int:
        """Number of ids that are targets of the likelihood loss: none of a rejected answer."""
        return 0 if self.is_rejected else len(self.ids) - self.supervised_from

    @property
    def is_rejected(self) -> bool:
        return self.form == REJECTED


class TokenEncoder:
    """Examples and prompts to ids with one tokenizer.

    Raises:
        ModelError: the tokenizer has no BOS, EOS or padding token, or its chat template cannot be used.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        if tokenizer.bos_token_id is None or tokenizer.eos_token_id is None or tokenizer.pad_token_id is None:
            raise ModelError(
                "the tokenizer lacks a BOS, EOS or padding token; Gemma 3 has all three "
                "(<bos>, <eos>, <pad>): use the tokenizer files published with the model"
            )
        self.tokenizer = tokenizer
        self.bos_id: int = tokenizer.bos_token_id
        self.pad_id: int = tokenizer.pad_token_id
        self.eos_id: int = tokenizer.eos_token_id
        self.turns: ChatTurns | None = chat_turns(tokenizer)
        # A chat model ends its turn; a base model ends the text.
        self.end_id: int = tokenizer.convert_tokens_to_ids(self.turns.end) if self.turns else self.eos_id
        self._special = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
        self._special_starts = {name[0] for name in self._special}  # one or two characters for Gemma's 6,249 names

    def text_ids(self, text: str) -> list[int]:
        """Ids of the text alone: no BOS, no EOS. A `<bos>` in the data is five characters, not a token."""
        return self._ids(text, split_special_tokens=True)

    def _ids(self, text: str, *, split_special_tokens: bool) -> list[int]:
        ids: list[int] = self.tokenizer(text, add_special_tokens=False, split_special_tokens=split_special_tokens)[
            "input_ids"
        ]
        return ids

    def prompt_ids(self, prompt: Prompt) -> list[int]:
        """BOS and the rendered prompt. Only the chat template's own turns become special tokens: a question that
        mentions `<end_of_turn>` does not end its turn."""
        parts = pieces(prompt, self.turns)
        if self.turns is None:
            return [self.bos_id, *self.text_ids(parts[0].text)]
        return self._piece_ids(parts)

    def rendered_ids(self, text: str) -> list[int]:
        """`prompt_ids` of a prompt that `render` has rendered already.

        Raises:
            ValueError: it is not within the chat template's turns.
        """
        if self.turns is None:
            return [self.bos_id, *self.text_ids(text)]
        end = text.rfind(self.turns.after)  # the last one is the template's: a question can mention it
        if not text.startswith(self.turns.before) or end < len(self.turns.before):
            raise ValueError(f"{text[:60]!r} is not within the turns of the tokenizer's chat template")
        start = len(self.turns.before)
        return self._piece_ids([Piece(self.turns.before, True), Piece(text[start:end], False), Piece(text[end:], True)])

    def _piece_ids(self, parts: Sequence[Piece]) -> list[int]:
        """BOS and a prompt within the chat template's turns."""
        if not any(self._names_special_token(part.text) for part in parts if not part.of_template):
            text = "".join(part.text for part in parts)
            return [self.bos_id, *self._ids(text, split_special_tokens=False)]
        ids = [self._ids(part.text, split_special_tokens=not part.of_template) for part in parts]
        return [self.bos_id, *(id for of_part in ids for id in of_part)]

    def _names_special_token(self, text: str) -> bool:
        return any(start in text for start in self._special_starts) and any(name in text for name in self._special)

    def encode(self, example: Example, record: int = 0) -> TokenRow:
        """The row of one example; `record` is the index of the record that it was made from.

        Prompt and completion are tokenized separately, so that the supervised ids are exactly the completion's and
        the end token, and the prompt's ids are those that an evaluation uses.
        """
        if example.prompt is None:
            ids = [self.bos_id, *self.text_ids(example.completion), self.eos_id]
            return TokenRow(ids, supervised_from=1, record=record, form=example.form)
        prompt = self.prompt_ids(example.prompt)
        ids = [*prompt, *self.text_ids(example.completion), self.end_id]
        return TokenRow(ids, supervised_from=len(prompt), record=record, form=example.form)


def split_long(row: TokenRow, max_length: int) -> list[TokenRow]:
    """A plain-text row cut into pieces of at most `max_length` ids, each a sequence of its own with its BOS.

    No token is lost; only the last piece ends with EOS.
    """
    bos, body = row.ids[0], row.ids[1:]
    step = max_length - 1
    return [
        replace(row, ids=[bos, *body[start : start + step]], supervised_from=1) for start in range(0, len(body), step)
    ]


def pack(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Best-fit decreasing: indices of rows grouped so that each group's total length is at most `capacity`.

    Deterministic in `lengths`. Source: "Fewer Truncations Improve Language Modeling" (Ding et al. 2024,
    arXiv 2404.10830).

    Raises:
        ValueError: a row is longer than `capacity`.
    """
    by_free: dict[int, deque[int]] = {}  # free tokens -> groups with exactly that many
    free_bits = 0  # bit f is set if a group has exactly f free tokens
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        length = lengths[index]
        if length > capacity:
            raise ValueError(f"row {index} has {length} tokens, more than the pack's {capacity}")
        if sufficient := free_bits >> length:
            free = length + (sufficient & -sufficient).bit_length() - 1  # the lowest bit: the tightest fit
            group = by_free[free].popleft()
            if not by_free[free]:
                free_bits ^= 1 << free
        else:
            group, free = len(groups), capacity
            groups.append([])
        groups[group].append(index)
        by_free.setdefault(free - length, deque()).append(group)
        free_bits |= 1 << (free - length)
    return groups


@dataclass(frozen=True, slots=True)
class Batch:
    """Right-padded ids, one pack per row.

    `position_ids` restart at each sequence; transformers' mask functions isolate packed sequences by them. Padding
    continues the positions of the last sequence, and in a causal model no real token attends to what follows it.
    """

    input_ids: Tensor  # (B, T) int64
    position_ids: Tensor  # (B, T) int64
    labels: Tensor  # (B, T) int64, label of position t is the id at t + 1 or IGNORE_INDEX: already shifted
    supervised_rows: Tensor
    """(N,) int64: where `labels.flatten()` is not IGNORE_INDEX, ascending. A device that looked for them itself would
    make the host wait for their number."""
    bounds: Tensor | None = None
    """Of the N sequences of a single row, (N + 1,) int32; None: the rows are padded, or read by `position_ids`."""
    longest: int = 0
    """Tokens of the longest sequence between the bounds."""
    preference: Tensor | None = None
    """(P, N) float32, a row for each pair of answers: 1 at the targets of the right one, -1 at those of the wrong one.
    None: there is no pair."""

    @property
    def supervised(self) -> int:
        """Number of ids that are targets of the likelihood loss."""
        if self.preference is None:
            return len(self.supervised_rows)
        return int((self.preference >= 0).all(dim=0).sum())

    def as_inputs(self) -> dict[str, Any]:
        """The arguments of a model's forward pass."""
        inputs: dict[str, Any] = {
            "input_ids": self.input_ids,
            "position_ids": self.position_ids,
            "labels": self.labels,
            "supervised": self.supervised_rows,
        }
        if self.bounds is not None:
            inputs |= {"bounds": self.bounds, "longest": self.longest}
        return inputs if self.preference is None else inputs | {"preference": self.preference}


def collate(packs: Sequence[Sequence[TokenRow]], pad_id: int) -> Batch:
    """A batch with one row per pack, which contains the pack's sequences end to end.

    Labels are shifted within each sequence, so the last token of one never predicts the BOS of the next.
    """
    width = max(sum(map(len, rows)) for rows in packs)
    ids = torch.full((len(packs), width), pad_id, dtype=torch.int64)  # (B, T)
    positions = torch.zeros((len(packs), width), dtype=torch.int64)  # (B, T)
    labels = torch.full((len(packs), width), IGNORE_INDEX, dtype=torch.int64)  # (B, T)
    for i, rows in enumerate(packs):
        start = 0
        for row in rows:
            end, first = start + len(row), start + row.supervised_from
            ids[i, start:end] = torch.tensor(row.ids)
            positions[i, start:end] = torch.arange(len(row))
            labels[i, first - 1 : end - 1] = ids[i, first:end]
            start = end
        padding = width - start
        positions[i, start:] = torch.arange(len(rows[-1]), len(rows[-1]) + padding)
    supervised_rows = (labels.flatten() != IGNORE_INDEX).nonzero()[:, 0]
    return Batch(ids, positions, labels, supervised_rows, preference=_pair_signs(packs, len(supervised_rows)))


def _pair_signs(packs: Sequence[Sequence[TokenRow]], targets: int) -> Tensor | None:
    """`Batch.preference` of packs with `targets` supervised tokens in all."""
    rows = [row for pack in packs for row in pack]
    ends = [0, *accumulate(len(row) - row.supervised_from for row in rows)]
    rejected = [number for number, row in enumerate(rows) if row.is_rejected]
    if not rejected:
        return None
    signs = torch.zeros((len(rejected), targets))  # (P, N)
    for pair, number in enumerate(rejected):  # the right answer is the row before
        signs[pair, ends[number - 1] : ends[number]] = 1.0
        signs[pair, ends[number] : ends[number + 1]] = -1.0
    return signs


def collate_packed(packs: Sequence[Sequence[TokenRow]], pad_id: int) -> Batch:
    """A batch with one row, without padding, and the bounds of its sequences: for attention that takes them."""
    rows = [row for pack_rows in packs for row in pack_rows]
    batch = collate([rows], pad_id)
    bounds = torch.tensor([0, *accumulate(map(len, rows))], dtype=torch.int32)
    return replace(batch, bounds=bounds, longest=max(map(len, rows)))


def token_budget_groups(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Indices, longest first, in groups whose padded size (count times the longest) is at most `budget` tokens.

    A row longer than the budget is a group by itself.
    """
    groups: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if groups and (len(groups[-1]) + 1) * lengths[groups[-1][0]] <= budget:
            groups[-1].append(index)
        else:
            groups.append([index])
    return groups


def packed_groups(lengths: Sequence[int], budget: int) -> list[list[int]]:
    """Indices, longest first, in groups of at most `budget` tokens without padding.

    A row longer than the budget is a group by itself.
    """
    groups: list[list[int]] = []
    used = 0
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if not groups or used + lengths[index] > budget:
            groups.append([])
            used = 0
        groups[-1].append(index)
        used += lengths[index]
    return groups
