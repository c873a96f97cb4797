"""Replay: what is mixed into a stage's batches, how much of it, and that nothing else changes."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from chain_making import options_of, run_command_line, unmeasured
from lorachain.artifacts import read_training_info
from lorachain.artifacts.stages import TrainingInfo
from lorachain.chain import train_stage as train_stage_module
from lorachain.chain.context import load_config, without_earlier_data
from lorachain.chain.replay import Pool, Replay, load_replay
from lorachain.chain.stages import find_stage, from_base, replayable
from lorachain.config_reading import parse_setting
from lorachain.data.exam import load_exam
from lorachain.errors import ConfigError
from lorachain.tokens import TokenRow
from refusals import refused
from stage_making import make_context

TIMES = ("finished", "seconds", "tokens_per_second", "peak_memory_bytes", "at")
SHARES = {"plain_text": 0.1, "dictionary": 0.2, "instruct": 0.1}


def replay_options(stage: str, **shares: float) -> list[str]:
    return [part for kind, share in shares.items() for part in ("--set", f"stages.{stage}.replay.{kind}={share}")]


def train_again(root: Path, *options: str) -> str:
    """Trains stage 02 of a finished chain again; returns the messages."""
    code, _, err = run_command_line("train", "02", *options_of(root), "--yes", *options)
    assert code == 0, err
    return err


def load_again(root: Path, *options: str) -> None:
    """Loads stage 02 of a finished chain as if to train it again, and stops before anything is written."""

    def stop(*arguments: object) -> None:
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train_stage_module, "open_record", stop)
        code, _, err = run_command_line("train", "02", *options_of(root), "--yes", *options)
    assert code == 130, err


def trained(root: Path) -> TrainingInfo:
    return read_training_info(root / "model" / "02_trained" / "tiny")


def without_times(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_times(item) for key, item in value.items() if key not in TIMES}
    return [without_times(item) for item in value] if isinstance(value, list) else value


@pytest.fixture
def finished_copy(finished_copy: Path) -> Path:
    """A copy of the finished chain, in which nothing more is measured for the ledger."""
    return unmeasured(finished_copy)


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[Replay]:
    """Every replay that a stage loads."""
    replays: list[Replay] = []

    def spy(*arguments: Any, **options: Any) -> Replay | None:
        replay = load_replay(*arguments, **options)
        if replay is not None:
            replays.append(replay)
        return replay

    monkeypatch.setattr(train_stage_module, "load_replay", spy)
    return replays


def rows_of(replay: Replay, epoch: int) -> list[TokenRow]:
    packs = replay.packs_of_epoch(epoch)
    return [row for i in range(len(packs)) for row in packs[i]]


def test_share_zero_gives_the_bytes_of_a_chain_without_replay(finished_copy: Path) -> None:
    folder = finished_copy / "model" / "02_trained" / "tiny"
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    shutil.rmtree(folder)
    shutil.rmtree(finished_copy / "model" / "02_training")
    train_again(finished_copy, *replay_options("02", plain_text=0.0, dictionary=0.0, instruct=0.0))
    after = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert after.keys() == before.keys()
    for name, content in before.items():
        if name in ("training_info.json", "kormedmcqa_validation_results.json"):
            assert without_times(json.loads(after[name])) == without_times(json.loads(content)), name
        else:
            assert after[name] == content, name
    assert trained(finished_copy).replay == ()


def test_what_was_replayed_is_recorded_and_the_stage_is_fresh(finished_copy: Path, loaded: list[Replay]) -> None:
    without = trained(finished_copy)
    options = replay_options("02", **SHARES)
    messages = train_again(finished_copy, *options)
    info = trained(finished_copy)
    assert info.adapter_sha256 != without.adapter_sha256
    assert info.training.optimizer_steps == without.training.optimizer_steps
    assert info.depends_on.settings.stage["replay"] == {"exam": 0.0, "known": 0.0, "repeat": False, **SHARES}
    replayed = {part.kind: part for part in info.replay}
    assert replayed.keys() == SHARES.keys()
    for kind, part in replayed.items():
        share = SHARES[kind]
        assert part.share_wanted == share
        assert part.share == pytest.approx(share, rel=0.5), kind
        assert part.supervised_tokens <= part.tokens
        assert part.sources
    supervised = sum(part.supervised_tokens for part in info.replay)
    assert info.training.supervised_tokens == without.training.supervised_tokens + supervised
    assert info.training.tokens == without.training.tokens + sum(part.tokens for part in info.replay)
    (replay,) = loaded
    assert sum(row.supervised for epoch in range(2) for row in rows_of(replay, epoch)) == supervised
    assert "is finished" in train_again(finished_copy, *options)
    assert "stages.02" not in messages


def test_the_replay_of_an_epoch_is_a_function_of_its_number(finished_copy: Path, loaded: list[Replay]) -> None:
    """So that a resumed stage continues with what the uninterrupted one would see."""
    for _ in range(2):
        load_again(finished_copy, *replay_options("02", **SHARES))
    first, second = loaded
    assert [rows_of(first, epoch) for epoch in (0, 1, 2)] == [rows_of(second, epoch) for epoch in (2, 1, 0)][::-1]
    assert rows_of(first, 0) != rows_of(first, 1)
    for pool in first.pools:
        assert len(set(pool.numbers(0))) == pool.per_epoch  # none twice
        if 2 * pool.per_epoch <= len(pool.order):
            assert not set(pool.numbers(0)) & set(pool.numbers(1))  # the next ones, before any is used again


def test_held_out_documents_and_questions_are_not_replayed(finished_copy: Path, loaded: list[Replay]) -> None:
    """Held out as stage 00 was trained, whatever the settings are now."""
    question = load_exam(["sample"], "dev").questions[0]
    source = finished_copy / "instruct.jsonl"
    rows = [{"prompt": f"{question.question} 답은?", "completion": "모른다"}, {"prompt": "안녕?", "completion": "안녕"}]
    source.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    load_again(
        finished_copy,
        *replay_options("02", plain_text=0.5, instruct=0.1),
        *("--set", f'sources.embedded.instruct=["{source}"]', "--set", "validation.heldout_documents=1"),
    )
    plain, instruct = loaded[0].pools
    assert instruct.task.counts["instructions"] == 1
    assert instruct.task.counts["instructions_with_exam_questions_left_out"] == 1
    assert plain.task.counts["heldout_documents"] == 2  # of the finished chain's settings
    task: Any = plain.task
    held_out = {tuple(row.ids[:20]) for row in task.held_out}
    packs = plain.task.packs_of_epoch(0)
    assert not held_out & {tuple(row.ids[:20]) for number in range(len(packs)) for row in packs[number]}


def test_a_short_pool_is_reported(finished_copy: Path) -> None:
    source = finished_copy / "instruct.jsonl"
    source.write_text(json.dumps({"prompt": "안녕?", "completion": "안녕"}) + "\n", encoding="utf-8")
    setting = f'sources.embedded.instruct=["{source}"]'
    messages = train_again(finished_copy, *replay_options("02", instruct=0.5), "--set", setting)
    assert "replay of instruct:" in messages
    assert "the pool has 1; all of them are replayed once per epoch" in messages
    assert "the pool of 1 examples is used up to 2 times in 2 epochs" in messages
    (part,) = trained(finished_copy).replay
    assert (part.examples_per_epoch, part.pool, part.most_uses) == (1, 1, 2)
    assert part.share < 0.5 * part.share_wanted


def test_a_changed_replay_makes_the_stage_stale(finished_copy: Path) -> None:
    source = finished_copy / "instruct.jsonl"
    source.write_text(json.dumps({"prompt": "안녕?", "completion": "안녕"}) + "\n", encoding="utf-8")
    options = (*replay_options("02", instruct=0.1), "--set", f'sources.embedded.instruct=["{source}"]')
    train_again(finished_copy, *options)
    command = ("train", "02", *options_of(finished_copy))
    refused(finished_copy, *command, says=("stage.replay",))
    source.write_text(json.dumps({"prompt": "잘 가", "completion": "안녕"}) + "\n", encoding="utf-8")
    refused(finished_copy, *command, *options, says=("instruct.jsonl changed",))


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("stages.00.replay.dictionary=0.1", "no stage before 00 trains it; stage 00 can replay: instruct, known"),
        ("stages.01.replay.exam=0.1", "stage 01 can replay: plain_text, instruct, known"),
        ("stages.02.replay.exam=0.1", "stage 02 can replay: plain_text, dictionary, instruct, known"),
        ("stages.02.replay.text=0.1", "unknown setting 'stages.02.replay.text'"),
        ("stages.02.replay.plain_text=1.0", "stages.02.replay.plain_text"),
        ("stages.02.replay.plain_text=-0.1", "stages.02.replay.plain_text"),
        ("stages.02.replay={plain_text = 0.5, dictionary = 0.5}", "the shares sum to 1"),
    ],
)
def test_what_cannot_be_replayed_is_refused(setting: str, says: str) -> None:
    with pytest.raises(ConfigError) as error:
        load_config(overrides=[parse_setting(setting)])
    assert says in str(error.value)


def test_every_stage_can_replay_instructions() -> None:
    for stage in ("00", "01", "02"):
        config = load_config(overrides=[parse_setting(f"stages.{stage}.replay.instruct=0.1")])
        replay = config.stages[stage].replay
        assert replay is not None
        assert replay.instruct == 0.1


def test_a_pool_takes_its_packs_in_turns() -> None:
    pool = Pool("dictionary", 0.1, 3, None, per_epoch=3, order=[4, 2, 0, 1, 3])  # type: ignore[arg-type]
    taken = [pool.numbers(epoch) for epoch in range(3)]
    assert taken == [[(0, 4), (0, 2), (0, 0)], [(0, 1), (0, 3), (1, 4)], [(1, 2), (1, 0), (1, 1)]]
    assert [pool.most_uses(epochs) for epochs in (1, 2, 3, 4)] == [1, 2, 2, 3]
    assert list(pool.shortages(1)) == []
    assert list(pool.shortages(2)) == ["replay of dictionary: the pool of 5 examples is used up to 2 times in 2 epochs"]


def test_a_small_pool_is_repeated_within_an_epoch_only_on_demand(finished_copy: Path) -> None:
    source = finished_copy / "instruct.jsonl"
    source.write_text(json.dumps({"prompt": "안녕?", "completion": "안녕"}) + "\n", encoding="utf-8")
    setting = ("--set", f'sources.embedded.instruct=["{source}"]', "--set", "stages.02.replay.repeat=true")
    train_again(finished_copy, *replay_options("02", instruct=0.5), *setting)
    (part,) = trained(finished_copy).replay
    assert part.pool == 1
    assert part.examples_per_epoch > 10
    assert part.most_uses == 2 * part.examples_per_epoch
    assert part.share == pytest.approx(0.5, rel=0.2)


@pytest.mark.parametrize("shares", [{}, {"dictionary": 0.3}])
def test_a_stage_can_be_given_supervised_tokens_instead_of_epochs(
    finished_copy: Path, shares: dict[str, float]
) -> None:
    """It ends within an epoch, which is validated and kept as its last."""
    before = trained(finished_copy).training
    wanted = round(1.3 * before.supervised_tokens)
    train_again(finished_copy, *replay_options("02", **shares), "--set", f"stages.02.supervised_tokens={wanted}")
    info = trained(finished_copy)
    assert info.training.supervised_tokens == pytest.approx(wanted, rel=0.1)
    assert info.training.optimizer_steps % (before.optimizer_steps // 2)
    history = json.loads((finished_copy / "model/02_trained/tiny/kormedmcqa_validation_results.json").read_text())
    last = history["results"][-1]
    assert last["step"] == info.training.optimizer_steps
    assert last["epoch"] == -(-last["step"] // (before.optimizer_steps // 2))
    for part in info.replay:
        assert part.share == pytest.approx(part.share_wanted, rel=0.5)


def test_a_dry_run_looks_at_the_instructions(root: Path) -> None:
    command = ("run", "--dry-run", *options_of(root))
    _, plain, _ = run_command_line(*command)
    code, out, err = run_command_line(*command, *replay_options("02", instruct=0.1))
    assert code == 0, err
    assert "instructions" not in plain
    assert [source["records"] for source in json.loads(out)["sources"] if source["reading"] == "instructions"] == [48]
    missing = ("--set", 'sources.embedded.instruct=["nothing.jsonl"]')
    refused(root, *command, *replay_options("02", instruct=0.1), *missing, says=("nothing.jsonl",))


def test_stages_know_what_they_can_replay() -> None:
    names = {name: {kind: stage.name for kind, stage in replayable(find_stage(name)).items()} for name in ("00", "02")}
    assert names == {"00": {}, "02": {"plain_text": "00", "dictionary": "01"}}


def test_known_entries_are_replayed_from_their_own_source(finished_copy: Path, loaded: list[Replay]) -> None:
    refused(
        finished_copy,
        *("train", "01", *options_of(finished_copy), "--yes", *replay_options("01", known=0.2)),
        says=("no dictionary of known entries is named: write one with `lorachain known`", "sources.embedded.known"),
    )
    source = finished_copy / "known.jsonl"
    names = [("감기", "cold"), ("골절", "fracture"), ("당뇨병", "diabetes"), ("천식", "asthma"), ("화상", "burn")]
    lines = (json.dumps({"term": term, "english": english}) + "\n" for term, english in names)
    source.write_text("".join(lines), encoding="utf-8")
    setting = ("--set", f'sources.embedded.known=["{source}"]', "--set", "stages.01.replay.repeat=true")
    options = ("train", "01", *options_of(finished_copy), "--yes", *replay_options("01", known=0.2), *setting)
    code, _, err = run_command_line(*options)
    assert code == 0, err
    (part,) = read_training_info(finished_copy / "model" / "01_trained" / "tiny").replay
    assert (part.kind, part.pool, part.sources[0].short_name) == ("known", 10, "known")
    assert part.share == pytest.approx(0.2, rel=0.5)
    assert len({row.form for epoch in range(8) for row in rows_of(loaded[0], epoch)}) > 2  # as stage 01 trains them
    assert "is finished" in run_command_line(*options)[2]


def test_what_is_replayed_by_default() -> None:
    replayed = {name: settings.replay.shares for name, settings in load_config().stages.items() if settings.replay}
    assert replayed == {"01": {"plain_text": 0.1}, "02": {"dictionary": 0.1}}


@pytest.mark.parametrize("instruct", [0.0, 0.2])
def test_a_stage_from_the_base_replays_no_earlier_stage(tmp_path: Path, instruct: float) -> None:
    context = make_context(tmp_path, f"stages.02.replay.instruct={instruct}")
    without = without_earlier_data(context, [from_base(find_stage("02"))]).config.stages
    assert (without["02"].replay and without["02"].replay.shares) == ({"instruct": 0.2} if instruct else None)
    assert without["01"] == context.config.stages["01"]
    assert context.config.stages["02"].replay is not None
