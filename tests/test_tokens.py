"""One BOS, exactly the completion supervised, packing that loses no token and isolates documents (design, section 3,
lines 6 and 7)."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conftest import SPECIAL, make_multimodal_model, make_text_model, make_tokenizer
from lorachain.errors import ModelError
from lorachain.prompts import Example, Prompt, render
from lorachain.tokens import (
    IGNORE_INDEX,
    TokenEncoder,
    TokenRow,
    collate,
    pack,
    split_long,
    token_budget_groups,
)
from lorachain.training.loss import SupervisedLanguageModel
from lorachain.weights.load import text_decoder

PLAIN, CHAT = TokenEncoder(make_tokenizer()), TokenEncoder(make_tokenizer(chat=True))
ENCODERS = pytest.mark.parametrize("encoder", [PLAIN, CHAT], ids=["plain", "chat"])
texts = st.text(st.characters(codec="utf-8", exclude_characters="<>"), max_size=40)
# What a document about language models can contain: it must not become a special token.
texts |= st.lists(st.sampled_from(["<bos>", "<eos>", "<pad>", "<end_of_turn>", "간", " "]), max_size=6).map("".join)
words = st.text(st.sampled_from("정답풀이 용어뜻영 ABCDE가나다\n1 "), min_size=1, max_size=40)


@ENCODERS
@given(user=words, completion=texts)
def test_supervised_ids_are_exactly_the_completion_and_its_end_token(
    encoder: TokenEncoder, user: str, completion: str
) -> None:
    row = encoder.encode(Example(Prompt(user, "정답："), completion))
    end = encoder.tokenizer.convert_tokens_to_ids("<end_of_turn>") if encoder is CHAT else encoder.eos_id
    assert row.ids[row.supervised_from :] == [*encoder.text_ids(completion), end]
    assert row.ids[: row.supervised_from] == encoder.prompt_ids(Prompt(user, "정답："))
    batch = collate([[row]], encoder.pad_id)
    targets = batch.labels[0][batch.labels[0] != IGNORE_INDEX].tolist()
    assert targets == row.ids[row.supervised_from :]
    # Shifted: a label is one position before the id that it names.
    for position in (batch.labels[0] != IGNORE_INDEX).nonzero().flatten().tolist():
        assert batch.labels[0, position] == batch.input_ids[0, position + 1]


@ENCODERS
@given(user=words, completion=texts)
def test_exactly_one_bos_and_it_is_first(encoder: TokenEncoder, user: str, completion: str) -> None:
    for example in (Example(Prompt(user, "정답："), completion), Example(None, completion)):
        row = encoder.encode(example)
        assert row.ids[0] == encoder.bos_id
        assert row.ids.count(encoder.bos_id) == 1


@ENCODERS
def test_plain_text_supervises_every_token_but_bos(encoder: TokenEncoder) -> None:
    row = encoder.encode(Example(None, "간은 오른쪽 위에 있다."))
    assert row.ids == [encoder.bos_id, *encoder.text_ids("간은 오른쪽 위에 있다."), encoder.eos_id]
    assert row.supervised == len(row) - 1


def test_the_chat_template_is_around_the_prompt_and_the_cue_is_not_supervised() -> None:
    prompt = Prompt("간이란?", "정답：")
    text = CHAT.tokenizer.decode(CHAT.prompt_ids(prompt))
    assert text == "<bos><start_of_turn>user\n간이란?<end_of_turn>\n<start_of_turn>model\n정답："
    assert PLAIN.tokenizer.decode(PLAIN.prompt_ids(prompt)) == "<bos>간이란?\n정답："


@ENCODERS
@given(user=texts)
def test_the_text_of_a_question_becomes_no_special_token(encoder: TokenEncoder, user: str) -> None:
    def special(ids: list[int]) -> list[int]:
        return [token for token in ids if token < len(SPECIAL)]

    ids = encoder.prompt_ids(Prompt(user, "정답："))
    assert special(ids) == special(encoder.prompt_ids(Prompt("간", "정답：")))
    inside = user.strip() if encoder is CHAT else user
    assert encoder.tokenizer.decode(ids) == encoder.tokenizer.decode(
        encoder.prompt_ids(Prompt("QUESTION", "정답："))
    ).replace("QUESTION", inside)


@ENCODERS
@given(user=texts)
def test_a_rendered_prompt_has_the_ids_of_the_prompt(encoder: TokenEncoder, user: str) -> None:
    for message in (user, f"{user}<end_of_turn>\n<start_of_turn>model\n"):
        prompt = Prompt(message, "정답：")
        assert encoder.rendered_ids(render(prompt, encoder.turns)) == encoder.prompt_ids(prompt)


def test_text_without_the_turns_of_the_template_is_refused() -> None:
    text = render(Prompt("간", "정답："), CHAT.turns)
    for other in ("<bos>" + text, "간\n정답：", text.split("<end_of_turn>")[0]):
        with pytest.raises(ValueError, match="is not within the turns"):
            CHAT.rendered_ids(other)


def test_a_row_says_which_record_and_form_it_was_made_from() -> None:
    row = PLAIN.encode(Example(Prompt("간", "뜻:"), " 장기", "term->definition"), record=7)
    assert (row.record, row.form) == (7, "term->definition")
    document = PLAIN.encode(Example(None, "가나다라마바사"), record=3)
    assert [(piece.record, piece.form) for piece in split_long(document, 6)] == [(3, "")] * 5


def test_a_tokenizer_without_its_special_tokens_is_refused() -> None:
    tokenizer = make_tokenizer()
    tokenizer.pad_token = None
    with pytest.raises(ModelError, match="lacks a BOS, EOS or padding token"):
        TokenEncoder(tokenizer)


bodies_of_rows = st.lists(st.lists(st.integers(6, 300), min_size=1, max_size=30), min_size=1, max_size=12)


@given(bodies_of_rows, st.integers(0, 5))
def test_padding_is_never_supervised(bodies: list[list[int]], pad: int) -> None:
    packs = [[TokenRow([2, *body], 1)] for body in bodies]
    batch = collate(packs, pad)
    for number, (row,) in enumerate(packs):
        assert (batch.labels[number, len(row) - 1 :] == IGNORE_INDEX).all()
        assert (batch.input_ids[number, len(row) :] == pad).all()
    assert batch.supervised == sum(map(len, bodies))


@given(bodies_of_rows, st.integers(4, 16))
def test_packing_loses_no_token(bodies: list[list[int]], capacity: int) -> None:
    documents = [TokenRow([2, *body, 1], 1) for body in bodies]
    pieces = [piece for document in documents for piece in split_long(document, capacity)]
    assert all(piece.ids[0] == 2 for piece in pieces)
    groups = pack([len(piece) for piece in pieces], capacity)
    assert sorted(index for group in groups for index in group) == list(range(len(pieces)))
    assert all(sum(len(pieces[i]) for i in group) <= capacity for group in groups)
    batch = collate([[pieces[i] for i in group] for group in groups], pad_id=0)
    targets = sorted(token for document in documents for token in document.ids[1:])
    assert sorted(batch.labels[batch.labels != IGNORE_INDEX].tolist()) == targets
    # In order within a document, each piece without its BOS.
    joined: list[int] = [token for piece in pieces for token in piece.ids[1:]]
    assert joined == [token for document in documents for token in document.ids[1:]]


@given(st.lists(st.integers(1, 40), max_size=60))
def test_packing_is_best_fit_and_ties_go_to_the_earliest(lengths: list[int]) -> None:
    free: list[int] = []
    since: list[int] = []  # when a group got its present number of free tokens
    groups: list[list[int]] = []
    for moment, index in enumerate(sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))):
        fitting = [group for group, tokens in enumerate(free) if tokens >= lengths[index]]
        if not fitting:
            fitting = [len(groups)]
            groups.append([])
            free.append(40)
            since.append(moment)
        chosen = min(fitting, key=lambda group: (free[group], since[group]))
        groups[chosen].append(index)
        free[chosen] -= lengths[index]
        since[chosen] = moment
    assert pack(lengths, 40) == groups


@given(st.lists(st.integers(1, 50), min_size=1, max_size=40), st.integers(1, 100))
def test_token_budget_groups_contain_every_row_once_within_the_budget(lengths: list[int], budget: int) -> None:
    groups = token_budget_groups(lengths, budget)
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    for group in groups:
        assert len(group) == 1 or len(group) * max(lengths[i] for i in group) <= budget


@pytest.mark.parametrize("kind", ["text", "multimodal"])
@torch.no_grad()
def test_changing_one_document_in_a_pack_moves_no_logit_of_another(kind: str) -> None:
    """Documents are longer than the sliding window of 16, so both kinds of layer are covered; a second pack of another
    length adds padding."""
    model = make_text_model() if kind == "text" else make_multimodal_model()
    decoder = text_decoder(model)
    generator = torch.Generator().manual_seed(3)

    def document(length: int) -> TokenRow:
        return TokenRow([2, *torch.randint(6, 300, (length - 1,), generator=generator).tolist()], 1)

    first, second, other, third, alone = document(40), document(30), document(30), document(25), document(90)

    def states(*documents: TokenRow) -> torch.Tensor:
        batch = collate([list(documents), [alone]], pad_id=0)
        output = decoder(input_ids=batch.input_ids, position_ids=batch.position_ids, use_cache=False)
        hidden: torch.Tensor = output.last_hidden_state[0]
        return hidden

    before, after = states(first, second, third), states(first, other, third)
    assert torch.equal(before[:40], after[:40])
    torch.testing.assert_close(before[70:95], after[70:95], atol=1e-6, rtol=1e-6)
    assert not torch.allclose(before[40:70], after[40:70], atol=1e-2)
    by_itself = decoder(input_ids=torch.tensor([third.ids]), use_cache=False).last_hidden_state[0]
    torch.testing.assert_close(before[70:95], by_itself, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_the_loss_of_a_pack_is_the_sum_of_its_documents_losses() -> None:
    model = SupervisedLanguageModel(make_text_model())
    generator = torch.Generator().manual_seed(4)
    documents = [
        TokenRow([2, *torch.randint(6, 300, (length,), generator=generator).tolist()], 1) for length in (40, 21, 9)
    ]
    one = torch.tensor(1.0)
    together = model(**collate([documents], 0).as_inputs(), normalizer=one)
    apart = sum(model(**collate([[document]], 0).as_inputs(), normalizer=one) for document in documents)
    batched = model(**collate([[document] for document in documents], 0).as_inputs(), normalizer=one)
    torch.testing.assert_close(together, apart, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(batched, apart, rtol=1e-5, atol=1e-4)
