"""Accepted samples of written reasoning per minute: `write-reasoning` and the plain way, in alternating rounds.

    python benchmarks/reasoning.py --adapter DIR --base DIR --exam DIR --dictionary FILE [--questions 6]

The writer is an adapter that was trained on reasoning, so that some samples are accepted. Both contenders draw
`--samples` samples for each of a round's questions and make the same checks. `plain` calls `transformers.generate` with
batches of 8 and transformers' own attention, every prompt by itself, the options in the order of the question; its
further orders of the shuffle check are asked in the same way. The support of an answer is scored by the same code for
both, which favors `plain`. Sampling is not the same draw for draw, so accepted samples differ by chance: samples drawn
and checked per minute are reported besides. Loading is excluded. Figures from a machine that does other work at the
same time mean little; CPU time suffers less.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

BATCH = 8


@dataclass
class PlainEngine:
    """The obvious loop: batches of 8 in the order of the requests, padded on the left."""

    model: Any
    encoder: Any
    identity: Any

    def complete(
        self,
        requests: Sequence[Any],
        sampling: Any,
        *,
        stop: Callable[[str], bool],
        on_completion: Callable[[int, Any], None],
    ) -> None:
        """See `TextEngine`; a batch ends with its last end token, and a text is cut where it is complete."""
        import torch

        prompts = [self.encoder.rendered_ids(request.text) for request in requests]
        for start in range(0, len(prompts), BATCH):
            batch = prompts[start : start + BATCH]
            width = max(map(len, batch))
            ids = torch.full((len(batch), width), self.encoder.pad_id)
            mask = torch.zeros_like(ids)
            for row, prompt in enumerate(batch):
                ids[row, width - len(prompt) :] = torch.tensor(prompt)
                mask[row, width - len(prompt) :] = 1
            torch.manual_seed(requests[start].seed)
            draw = {"do_sample": True, "temperature": sampling.temperature} if sampling.temperature else {}
            with torch.inference_mode():
                output = self.model.generate(
                    input_ids=ids, attention_mask=mask, max_new_tokens=sampling.max_new_tokens, top_k=0, top_p=1.0,
                    pad_token_id=self.encoder.pad_id, **({"do_sample": False} | draw),
                )  # fmt: skip
            for row, generated in enumerate(output[:, width:].tolist()):
                on_completion(start + row, self._completion(generated, stop))

    def _completion(self, generated: list[int], stop: Callable[[str], bool]) -> Any:
        from lorachain.inference.engines.base import Completion

        ended = self.encoder.end_id in generated
        ids = generated[: generated.index(self.encoder.end_id)] if ended else generated
        text = self.encoder.tokenizer.decode(ids)
        return Completion(text, len(ids) + ended, "stop" if ended or stop(text) else "length")


@dataclass(frozen=True)
class Setting:
    """A writer in memory, and what it writes for."""

    model: Any
    encoder: Any
    questions: list[Any]
    verifier_for: Callable[[Any], tuple[Any, Any]]
    """An engine to (writer, verifier)."""
    attention: str


def load(arguments: argparse.Namespace) -> Setting:
    import torch

    from lorachain.chain.scored_model import ScoredModel
    from lorachain.data.dictionary import load_dictionary
    from lorachain.data.exam import load_exam, spread
    from lorachain.data.gates.held_out import open_text_screen
    from lorachain.data_settings import ContaminationConfig
    from lorachain.reasoning.requests import writing_request
    from lorachain.reasoning.support import ModelScorer
    from lorachain.reasoning.term_check import TermCheck
    from lorachain.reasoning.verifier import Verifier
    from lorachain.reasoning.writer import Writer, WritingSettings
    from lorachain.weights.load import plain_model

    scored = ScoredModel("writer", Path(arguments.base), Path(arguments.adapter))
    model, encoder = scored.load(torch.device("cpu"), torch.bfloat16)
    train = [q for q in load_exam([arguments.exam], "train").questions if not q.reasoning]
    dev = load_exam([arguments.exam], "dev").questions
    terms = TermCheck(load_dictionary([arguments.dictionary]).entries)
    screen = open_text_screen(dev, ContaminationConfig())
    settings = WritingSettings(
        samples=arguments.samples, temperature=0.8, max_new_tokens=arguments.new_tokens, per_question=2,
        easy_share=1.0, rationalize=False, seed=arguments.seed,
    )  # fmt: skip

    def verifier_for(engine: Any) -> tuple[Any, Any]:
        def request(question: Any, seed: int, hinted: bool) -> Any:
            return writing_request(question, "", encoder.turns, seed=seed, hinted=hinted)

        writer = Writer(engine, request, settings)
        scorer = ModelScorer(model, encoder, "options", lambda question: "", 8192)
        return writer, Verifier(writer, "options", scorer, screen, terms, min_hangul=0.7, orders=2)

    questions = spread(train, arguments.questions * arguments.rounds)
    return Setting(model, encoder, questions, verifier_for, plain_model(model).config._attn_implementation)


def ours(setting: Setting) -> list[Any]:
    """As `lorachain write-reasoning` writes."""
    from lorachain.inference.engines.base import EngineIdentity
    from lorachain.inference.engines.local import LocalEngine
    from lorachain.reasoning.journal import ReasoningJournal
    from lorachain.reasoning.write import write_reasoning

    writer, verifier = setting.verifier_for(
        LocalEngine(setting.model, setting.encoder, EngineIdentity("local", "", "writer", None))
    )
    with tempfile.TemporaryDirectory() as folder:
        journal = ReasoningJournal(Path(folder) / "journal.jsonl", {})
        return write_reasoning(
            setting.questions, writer, verifier, [], store=journal.append, on_progress=lambda drawn, passed: None
        )


def plain(setting: Setting) -> list[Any]:
    """Drawn and asked again with `transformers.generate`, in one order; then the same checks and the same selection."""
    from lorachain.inference.engines.base import EngineIdentity
    from lorachain.reasoning.sample import Written, question_key
    from lorachain.reasoning.selection import select
    from lorachain.weights.load import plain_model

    writer, verifier = setting.verifier_for(
        PlainEngine(setting.model, setting.encoder, EngineIdentity("plain", "", "writer", None))
    )
    settings = writer.settings
    model: Any = plain_model(setting.model)
    drawn = [(question, number) for question in setting.questions for number in range(settings.samples)]
    model.set_attn_implementation("sdpa")
    requests = [writer.request(question, number, False) for question, number in drawn]
    written = [
        Written(question_key(question), number, (0, 1, 2, 3, 4), False, done.text, done.tokens, done.finish)
        for (question, number), done in zip(drawn, writer.complete(requests, settings.temperature), strict=True)
    ]
    own_scorer = verifier.score_options

    def score(questions: Any, reasoning: Any) -> Any:
        model.set_attn_implementation(setting.attention)
        return own_scorer(questions, reasoning)

    verifier = replace(verifier, score_options=score)
    samples: list[Any] = verifier.check({question_key(q): q for q in setting.questions}, written)
    model.set_attn_implementation(setting.attention)
    select(samples, per_question=settings.per_question, easy_share=settings.easy_share, seed=settings.seed)
    return samples


def main() -> None:
    import torch

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("adapter", "base", "exam", "dictionary"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--questions", type=int, default=6, help="in each round, others in every round")
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--new-tokens", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    setting = load(arguments)
    contenders = {"lorachain": ours, "plain": plain}
    totals = {name: {"seconds": 0.0, "cpu_seconds": 0.0, "drawn": 0, "right": 0, "accepted": 0} for name in contenders}
    for number in range(arguments.rounds):
        of_round = replace(setting, questions=setting.questions[number :: arguments.rounds])
        for name, write in contenders.items():
            start, cpu = time.monotonic(), time.process_time()
            samples = write(of_round)
            figures = {
                "seconds": time.monotonic() - start,
                "cpu_seconds": time.process_time() - cpu,
                "drawn": len(samples),
                "right": sum(not {"parsed", "right"} & set(sample.failed) for sample in samples),
                "accepted": sum(not sample.failed for sample in samples),
            }
            print(json.dumps({"round": number, "contender": name, **figures}), flush=True)
            for key, value in figures.items():
                totals[name][key] += value
    for clock in ("seconds", "cpu_seconds"):
        for what in ("accepted", "drawn"):
            rates = {name: 60 * total[what] / total[clock] for name, total in totals.items()}
            ratio = f"{rates['lorachain'] / rates['plain']:.2f} : 1" if rates["plain"] else "no ratio: plain has none"
            both = ", ".join(f"{name} {rate:.2f}" for name, rate in rates.items())
            print(f"{what} per minute by {clock.replace('_', ' ')}: {both}; {ratio}")


if __name__ == "__main__":
    main()
