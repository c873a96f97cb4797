"""The same funnel with a writer behind a server, and faults between: nothing is lost, nothing is counted twice."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from reasoning_making import SETTINGS, ScriptedEngine, verifier
from test_write import answer, asked_again, publish, questions

from engine_making import FAULTS, Handler, faulty_proxy, serving
from lorachain.errors import EngineError
from lorachain.inference.engines.base import EngineIdentity
from lorachain.inference.engines.http_json import parse_address
from lorachain.inference.engines.openai_server import OpenAiEngine
from lorachain.inference.engines.retries import Retries
from lorachain.reasoning.journal import ReasoningJournal
from lorachain.reasoning.sample import Sample
from lorachain.reasoning.write import write_reasoning
from lorachain.reasoning.writer import Writer
from lorachain.records import ExamQuestion

COUNT = 12


@contextmanager
def scripted_server(shown: dict[str, ExamQuestion]) -> Iterator[str]:
    """Answers chat messages as the scripted writer does: sampled by `answer`, greedily by `asked_again`."""

    class Scripted(Handler):
        def do_POST(self) -> None:  # noqa: N802
            request = json.loads(self.read_body())
            question = shown[request["messages"][-1]["content"]]
            text = answer(question) if request["temperature"] else asked_again(question)
            choice = {"index": 0, "finish_reason": "stop", "message": {"content": text}}
            self.answer(200, {"choices": [choice], "usage": {"completion_tokens": len(text)}})

    with serving(Scripted) as url:
        yield url


def write(path: Path, scripted: ScriptedEngine, url: str | None, *, attempts: int = 20) -> list[Sample]:
    """Writes with the scripted writer, in this process for None, otherwise behind the server at `url`."""
    engine = scripted
    if url is not None:
        engine = OpenAiEngine(  # type: ignore[assignment]
            parse_address(url), "scripted", EngineIdentity("openai", "1", "scripted", None), "chat", 4, 1.0,
            Retries(attempts=attempts, first_wait=0.01, longest_wait=0.05), None,
        )  # fmt: skip
    writer = Writer(engine, scripted.request, SETTINGS)
    checks = replace(verifier(scripted), writer=writer)
    journal = ReasoningJournal(path, {"identity": "one"})
    finished = journal.read()
    assert finished is not None
    return write_reasoning(
        questions(COUNT), writer, checks, finished, store=journal.append, on_progress=lambda drawn, passed: None
    )


class InProcess(ScriptedEngine):
    def complete(self, requests, sampling, *, stop, on_completion):  # type: ignore[no-untyped-def]
        self.answer = answer if sampling.temperature else asked_again
        super().complete(requests, sampling, stop=stop, on_completion=on_completion)


def test_a_server_with_faults_gives_the_samples_of_the_writer_itself(tmp_path: Path) -> None:
    expected = write(tmp_path / "alone", InProcess(answer), None)
    scripted = ScriptedEngine(answer)
    faults = {number * 3: fault for number, fault in enumerate(FAULTS)}
    with scripted_server(scripted.shown) as upstream, faulty_proxy(upstream, faults) as (url, done):
        samples = write(tmp_path / "served", scripted, url)
    assert samples == expected
    assert {fault: done[fault] for fault in FAULTS} == dict.fromkeys(FAULTS, 1)
    reports = [publish(tmp_path / name, questions(COUNT), found) for name, found in (("a", samples), ("b", expected))]
    assert reports[0] == reports[1]
    assert reports[0].total.drawn == COUNT * SETTINGS.samples
    assert reports[0].total.kept > 0


def test_a_server_that_stays_away_stops_the_run_and_the_next_one_continues(tmp_path: Path) -> None:
    expected = write(tmp_path / "alone", InProcess(answer), None)
    scripted = ScriptedEngine(answer)
    with scripted_server(scripted.shown) as upstream:
        with (
            faulty_proxy(upstream, dict.fromkeys(range(60, 10_000), "503")) as (url, done),
            pytest.raises(EngineError, match="503"),
        ):
            write(tmp_path / "served", scripted, url, attempts=2)
        before = (tmp_path / "served").read_bytes()
        assert done["none"] == 60
        assert write(tmp_path / "served", scripted, upstream) == expected
    assert (tmp_path / "served").read_bytes().startswith(before)
