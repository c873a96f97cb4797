"""`run_doctor`, `fit_model` and `ask_models` from Python: what the commands do, typed."""

from collections.abc import Callable
from pathlib import Path

import pytest

import lorachain
from chain_making import make_workspace
from lorachain.chain.context import ChainContext
from lorachain.data.exam import load_exam


@pytest.fixture(scope="module")
def chain(tmp_path_factory: pytest.TempPathFactory, save_tiny_in: Callable[..., Path]) -> ChainContext:
    parent = tmp_path_factory.mktemp("chain")
    root = make_workspace(parent / "workspace", save_tiny_in(parent))
    return lorachain.open_chain("tiny", root, config=lorachain.load_config(root / "chain.toml"))


def test_fit_of_the_chain_and_of_a_directory(chain: ChainContext, tmp_path: Path) -> None:
    report = lorachain.fit_model(chain, gpu="24GB")
    assert (report.model, report.capacity) == ("tiny", 24 * 10**9)
    assert report.recommended is not None
    folder = tmp_path / "other"
    folder.mkdir()
    config = Path(chain.entry.local_path or "") / "config.json"
    (folder / "config.json").write_text(config.read_text())
    assert lorachain.fit_model(chain, str(folder)).parameters == report.parameters
    with pytest.raises(lorachain.LorachainError, match="--gpu is 'much'"):
        lorachain.fit_model(chain, gpu="much")


def test_doctor(chain: ChainContext, tmp_path: Path) -> None:
    report = lorachain.run_doctor(chain, kinds=["dictionary"])
    assert not report.failed
    assert {check.name for check in report.checks} >= {"tensors", "values", "data of 01"}
    assert {example.stage for example in report.examples} == {"01"}
    (tmp_path / "empty").mkdir()
    assert lorachain.run_doctor(chain, str(tmp_path / "empty")).failed
    with pytest.raises(lorachain.LorachainError, match="--serving is 'nonsense'"):
        lorachain.run_doctor(chain, serving="nonsense")


def test_ask_text_and_question(chain: ChainContext) -> None:
    seen: list[tuple[str, str, str]] = []
    (answered,) = lorachain.ask_models(
        chain, "고혈압", form="dictionary", max_new_tokens=3, on_text=lambda *shown: seen.append(shown)
    )
    assert [answer.label for answer in answered.answers] == ["뜻:", "영어:"]
    assert seen[-1] == (answered.name, "영어:", answered.answers[-1].text)
    question = load_exam(["sample"], "dev").questions[0].id
    (scored,) = lorachain.ask_models(chain, question=question, models=["base"], max_new_tokens=2)
    assert scored.score is not None
    assert len(scored.score.letter_logprobs) == 5


def test_what_cannot_be_asked(chain: ChainContext) -> None:
    with pytest.raises(lorachain.LorachainError, match="give `text`, or `question`"):
        lorachain.ask_models(chain)
    with pytest.raises(lorachain.LorachainError, match="give `text`, or `question`"):
        lorachain.ask_models(chain, "고혈압", question="q")
    with pytest.raises(lorachain.LorachainError, match="`explain` belongs to `question`"):
        lorachain.ask_models(chain, "고혈압", explain=True)
    with pytest.raises(lorachain.LorachainError, match="`form` has no effect"):
        lorachain.ask_models(chain, question="q", form="exam")
    with pytest.raises(lorachain.LorachainError, match="allowed: dictionary, exam, chat, plain"):
        lorachain.ask_models(chain, "고혈압", form="poem")  # type: ignore[arg-type]
