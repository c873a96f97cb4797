"""What is measured of a step: one job scores its items once and gives one cell or several."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor, nn

from lorachain.artifacts import Cell, LedgerStep, Measure
from lorachain.artifacts.ledger import Noise
from lorachain.chain.ledger_data import AskedTerm, LedgerData, exam_prompt_ids
from lorachain.chain.ledger_steps import Stored
from lorachain.evaluation import answer_form, divergence
from lorachain.evaluation.exact_match import SHORT_ANSWERS, entries_sha256, exact_match
from lorachain.evaluation.exact_match import VERSION as EXACT_MATCH_VERSION
from lorachain.evaluation.ledger_statistics import perplexity_cell, share_cell
from lorachain.evaluation.perplexity import document_sums, perplexity, rows_sha256
from lorachain.evaluation.protocols.base import LETTERS_VERSION, OPTIONS_VERSION
from lorachain.evaluation.questions import question_set_hash
from lorachain.evaluation.scoring import score_questions
from lorachain.inference.generate import Generation, generate
from lorachain.prompts import PROMPT_VERSION, Direction, directions
from lorachain.provenance import sha256_json
from lorachain.records import LETTERS, ExamQuestion
from lorachain.tokens import TokenEncoder, TokenRow
from lorachain.weights import intruders

PERPLEXITY_VERSION = "1"
_TEXT_TOKENS = 8
_SPARE_TOKENS = 8
"""Beyond the expected answer: enough for an exam answer's letter to show where a name was asked for."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A step's model in memory, and its files."""

    model: nn.Module
    encoder: TokenEncoder
    token_budget: int
    base: Path
    adapter: Path | None
    hidden_states: Callable[[str, Sequence[Sequence[int]]], list[Tensor] | None]
    """The base's hidden states after prompts of that hash; computed and kept by the base, None for it."""


@dataclass(frozen=True, slots=True)
class Job:
    """Items of one kind and how to score them."""

    measures: tuple[str, ...]
    version: str
    data_sha256: str
    score: Callable[[Subject], list[Cell]]
    reuse: Callable[[Stored], list[Cell] | None] = lambda stored: None
    """The cells from what a stage scored already of the same model and items."""
    of_adapters_only: bool = False
    has_noise: bool = True

    def is_scored_in(self, row: LedgerStep) -> bool:
        """Whether a step's row has all of its cells, of these items, this version and these prompts."""
        return all(cell and self.is_of(cell) for cell in map(row.cell, self.measures))

    def is_of(self, scored: Cell | Noise) -> bool:
        """Whether it was scored on these items, by this version and with these prompts."""
        return (scored.version, scored.prompt_version, scored.data_sha256) == (
            self.version,
            PROMPT_VERSION,
            self.data_sha256,
        )


def jobs(data: LedgerData, *, intruder_layers: int) -> Iterator[Job]:
    """Every job that the data allows, in the order of the table."""
    for measure, rows in data.texts.items():
        if rows:
            yield _text_job(measure, rows)
    if data.terms:
        yield from _exact_match_job(data)
    if data.dictionary_exam:
        yield _exam_job("dictionary_exam", data.dictionary_exam, reusable=False)
    if data.exam:
        yield _exam_job("exam", data.exam, reusable=True)
    if data.text_prompts:
        yield _text_form_job(data.text_prompts)
    if data.term_prompts:
        yield _term_form_job(data.term_prompts)
    if data.exam_prompts:
        yield _exam_form_job(data.exam_prompts)
    yield from _divergence_jobs(data)
    yield Job(
        measures=("intruder_dimensions",),
        version=f"{intruders.VERSION}-{intruder_layers}",
        data_sha256=sha256_json(["weights"]),
        score=lambda subject: [_intruders(subject, intruder_layers)],
        of_adapters_only=True,
        has_noise=False,
    )


def _text_job(measure: str, rows: Sequence[TokenRow]) -> Job:
    digest = rows_sha256(rows)

    def score(subject: Subject) -> list[Cell]:
        result = perplexity(subject.model, rows, token_budget=subject.token_budget)
        return [perplexity_cell(measure, PERPLEXITY_VERSION, digest, *document_sums(rows, result))]

    def reuse(stored: Stored) -> list[Cell] | None:
        of_stage = stored.measures.get("heldout_perplexity")
        detail = of_stage.detail if of_stage is not None else {}
        if detail.get("rows_sha256") != digest:
            return None
        return [perplexity_cell(measure, PERPLEXITY_VERSION, digest, detail["document_nll"], detail["document_tokens"])]

    return Job((measure,), PERPLEXITY_VERSION, digest, score, reuse)


def _exact_match_job(data: LedgerData) -> Iterator[Job]:
    terms = data.terms[: data.asked_terms]
    digest = entries_sha256(terms)
    named = [way for way in SHORT_ANSWERS if any(way in directions(term) for term in terms)]

    def cells(correct: dict[Direction, str]) -> list[Cell]:
        return [
            share_cell(exact_match_name(way), EXACT_MATCH_VERSION, digest, [c == "1" for c in correct[way]], "answers")
            for way in named
        ]

    def score(subject: Subject) -> list[Cell]:
        result = exact_match(
            subject.model,
            subject.encoder,
            terms,
            split="trained entries",
            ask=SHORT_ANSWERS,
            token_budget=subject.token_budget,
        )
        return cells({way: part.correct for way, part in result.by_direction.items()})

    def reuse(stored: Stored) -> list[Cell] | None:
        of_stage: Measure | None = stored.measures.get("exact_match")
        detail = of_stage.detail if of_stage is not None else {}
        if of_stage is None or (detail.get("entries_sha256"), of_stage.protocol_version) != (
            entries_sha256(data.terms),
            EXACT_MATCH_VERSION,
        ):
            return None
        parts = detail["by_direction"]
        # The stage's entries begin with these.
        counts = {way: sum(way in directions(term) for term in terms) for way in named}
        return cells({way: parts[way]["correct"][: counts[way]] for way in named})

    if named:
        yield Job(tuple(map(exact_match_name, named)), EXACT_MATCH_VERSION, digest, score, reuse)


def exact_match_name(way: Direction) -> str:
    return f"exact_match_{way.replace('->', '_to_')}"


def _exam_job(name: str, questions: Sequence[ExamQuestion], *, reusable: bool) -> Job:
    digest = question_set_hash(questions)
    version = f"{LETTERS_VERSION}/{OPTIONS_VERSION}"
    gold = "".join(question.answer_letter for question in questions)

    def cells(chosen: dict[str, str]) -> list[Cell]:
        made = []
        for protocol in ("letters", "options"):
            hits = [a == b for a, b in zip(chosen[protocol], gold, strict=True)]
            counts = {letter: chosen[protocol].count(letter) for letter in LETTERS}
            made.append(
                share_cell(
                    f"{name}_{protocol}",
                    version,
                    digest,
                    hits,
                    "questions",
                    chosen=chosen[protocol],
                    chosen_letters=counts,
                    right_letters={letter: gold.count(letter) for letter in LETTERS},
                )
            )
        return made

    def score(subject: Subject) -> list[Cell]:
        scores = score_questions(subject.model, subject.encoder, questions, token_budget=subject.token_budget)
        return cells(
            {
                "letters": "".join(LETTERS[one.chosen_letter] for one in scores),
                "options": "".join(LETTERS[one.chosen_option] for one in scores),
            }
        )

    def reuse(stored: Stored) -> list[Cell] | None:
        result = stored.validation
        if not reusable or result is None or (result.data_sha256, result.prompt_version) != (digest, PROMPT_VERSION):
            return None
        versions = "/".join(result.protocols[name].protocol_version for name in ("letters", "options"))
        return cells(result.questions.chosen) if versions == version else None

    return Job((f"{name}_letters", f"{name}_options"), version, digest, score, reuse)


def _text_form_job(prompts: list[list[int]]) -> Job:
    digest = sha256_json(prompts)

    def score(subject: Subject) -> list[Cell]:
        answers = _answers(subject, prompts, _TEXT_TOKENS, stop=lambda text: False)
        hits = [answer_form.has_plain_text_form(answer.text) for answer in answers]
        return [_form_cell("form_plain_text", digest, hits, answers)]

    return Job(("form_plain_text",), answer_form.VERSION, digest, score)


def _term_form_job(asked: list[AskedTerm]) -> Job:
    digest = sha256_json([[term.prompt, term.expected] for term in asked])

    def score(subject: Subject) -> list[Cell]:
        longest = max(len(subject.encoder.text_ids(term.expected)) for term in asked)
        prompts = [term.prompt for term in asked]
        answers = _answers(subject, prompts, longest + _SPARE_TOKENS, stop=lambda text: "\n" in text)
        hits = [
            answer_form.has_dictionary_form(answer.text, term.expected, ended=answer.ended)
            for answer, term in zip(answers, asked, strict=True)
        ]
        return [_form_cell("form_dictionary", digest, hits, answers)]

    return Job(("form_dictionary",), answer_form.VERSION, digest, score)


def _exam_form_job(questions: list[ExamQuestion]) -> Job:
    digest = question_set_hash(questions)

    def score(subject: Subject) -> list[Cell]:
        texts = [text for question in questions for text in question.options]
        longest = max(len(subject.encoder.text_ids(text)) for text in texts)
        prompts = exam_prompt_ids(subject.encoder, questions)
        answers = _answers(subject, prompts, longest + _SPARE_TOKENS, stop=lambda text: "\n" in text)
        hits = [
            answer_form.has_exam_form(answer.text, question, ended=answer.ended)
            for answer, question in zip(answers, questions, strict=True)
        ]
        return [_form_cell("form_exam", digest, hits, answers)]

    return Job(("form_exam",), answer_form.VERSION, digest, score)


def _answers(
    subject: Subject, prompts: list[list[int]], max_new_tokens: int, stop: Callable[[str], bool]
) -> list[Generation]:
    return generate(
        subject.model,
        subject.encoder,
        prompts,
        stop=stop,
        max_new_tokens=max_new_tokens,
        token_budget=subject.token_budget,
    )


def _form_cell(measure: str, digest: str, hits: list[bool], answers: list[Generation]) -> Cell:
    """With the first answers that do not have the form, for people."""
    others = [answer.text.strip()[:80] for answer, hit in zip(answers, hits, strict=True) if not hit]
    return share_cell(measure, answer_form.VERSION, digest, hits, "answers", without_form=others[:3])


def _divergence_jobs(data: LedgerData) -> Iterator[Job]:
    if data.text_prompts:
        texts = data.text_prompts[::2]
        yield _divergence_job("kl_plain_text", lambda encoder: texts, sha256_json(texts))
    if data.term_prompts:
        prompts = [term.prompt for term in data.term_prompts[::2]]
        yield _divergence_job("kl_dictionary", lambda encoder: prompts, sha256_json(prompts))
    if data.exam_prompts:
        questions = data.exam_prompts[::2]
        yield _divergence_job(
            "kl_exam", lambda encoder: exam_prompt_ids(encoder, questions), question_set_hash(questions)
        )


def _divergence_job(measure: str, prompts_for: Callable[[TokenEncoder], list[list[int]]], digest: str) -> Job:
    def score(subject: Subject) -> list[Cell]:
        prompts = prompts_for(subject.encoder)
        before = subject.hidden_states(digest, prompts)
        tokens = [min(len(prompt), divergence.LAST_TOKENS) for prompt in prompts]
        sums = [0.0] * len(prompts)
        if before is not None:
            sums = divergence.prompt_divergence(subject.model, prompts, before, token_budget=subject.token_budget)
        return [
            Cell(
                measure=measure,
                kind="description",
                version=divergence.VERSION,
                prompt_version=PROMPT_VERSION,
                data_sha256=digest,
                value=sum(sums) / sum(tokens),
                n=len(prompts),
                unit="prompts",
                sums=tuple(sums),
                weights=tuple(tokens),
                detail={"tokens": sum(tokens)},
            )
        ]

    return Job((measure,), divergence.VERSION, digest, score, has_noise=False)


def _intruders(subject: Subject, layers: int) -> Cell:
    if subject.adapter is None:
        raise ValueError("a base has no adapted layers")
    counts = intruders.intruder_dimensions(subject.base, subject.adapter, layers=layers)
    return Cell(
        measure="intruder_dimensions",
        kind="description",
        version=f"{intruders.VERSION}-{layers}",
        prompt_version=PROMPT_VERSION,
        data_sha256=sha256_json(["weights"]),
        value=sum(counts.values()) / max(len(counts), 1),
        n=len(counts),
        unit="layers",
        detail={"by_layer": counts, "top_k": intruders.TOP_K, "epsilon": intruders.EPSILON},
    )
