"""The ablation: its arms, equal tokens, resuming, and what it writes."""

import contextlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chain_making import TWO_LAYERS, make_workspace, options_of, run_command_line
from lorachain.artifacts import Ablation
from lorachain.chain import ablation
from lorachain.chain.ablation_arms import NaturalRun, all_arms, arm_config, find_arms
from lorachain.chain.context import load_config
from lorachain.chain.stages import chain_stages, find_stage, stage_table
from lorachain.config_reading import parse_setting
from lorachain.errors import ConfigError
from refusals import refused

BUDGET = 2400
pytestmark = pytest.mark.timeout(900)  # each arm is a chain
SIZES = {"00": 2, "01": 4, "02": 2}
NATURAL = {"00": NaturalRun(6000, 10), "01": NaturalRun(3000, 20), "02": NaturalRun(1000, 10)}
ARMS = ("chain", "one-lora", "joint", "only-02", "without-00", "merge-only")
TRAINED = ("chain", "joint", "only-02", "merge-only")
"""The arms that most tests look at."""
MEASURES = {"exam, letters", "exam, options", "perplexity", "exact match", "exact match, new forms"}


def command(root: Path, *options: object) -> tuple[int, str, str]:
    """Small batches: a stage ends with a whole step."""
    batches = (part for stage, size in SIZES.items() for part in ("--set", f"stages.{stage}.batch_size={size}"))
    return run_command_line("ablate", *options_of(root), "--budget", BUDGET, *batches, *options)


def result_of(root: Path) -> Ablation:
    return Ablation.read(root / "ablation" / "tiny" / "ablation.json")


@pytest.fixture(scope="module")
def ablated(tmp_path_factory: pytest.TempPathFactory, save_tiny_in: Callable[..., Path]) -> tuple[Path, str, str]:
    """A workspace in which the arms of TRAINED were trained: (root, stdout, stderr)."""
    parent = tmp_path_factory.mktemp("ablation")
    root = make_workspace(parent / "workspace", save_tiny_in(parent, **TWO_LAYERS))
    code, out, err = command(root, "--seeds", "0", "--arms", ",".join(TRAINED))
    assert code == 0, err
    return root, out, err


# ---- arms ------------------------------------------------------------------------------------------------------------


def test_the_arms_are_variants_of_the_chain() -> None:
    parents = {arm.name: [(stage.name, stage.parent) for stage in arm.runs] for arm in all_arms()}
    chain = [("init", None), ("00", "init"), ("01", "00"), ("merge", "01"), ("02", "merge")]
    assert parents == {
        "chain": chain,
        "one-lora": [*chain[:3], ("02", "01")],
        "joint": [("init", None), ("02", "init")],
        "only-02": [("init", None), ("02", "init")],
        "without-00": [("init", None), ("01", "init"), *chain[3:]],
        "merge-only": chain[:4],
    }


@pytest.mark.parametrize("name", ARMS)
def test_every_arm_is_given_the_same_supervised_tokens(name: str) -> None:
    (arm,) = find_arms(name)
    config = arm_config(arm, load_config(), budget=BUDGET, natural=NATURAL, seed=7)
    given = {stage.name: config.stages[stage.name].supervised_tokens for stage in arm.trained}
    assert sum(tokens or 0 for tokens in given.values()) == pytest.approx(BUDGET, abs=2)
    assert config.seed == 7
    assert config.stages[arm.trained[-1].name].keep == "last"
    assert not config.ledger.measure
    assert not config.gates
    replay = config.stages["02"].replay
    if name == "joint":
        assert replay is not None
        assert replay.shares == {"plain_text": 0.6, "dictionary": 0.3}
        assert replay.repeat
        assert config.stages["02"].batch_size == 2  # of 8: a quarter of the chain's steps are those of 02
    else:
        replayed = {
            stage.name: settings.replay.shares
            for stage in arm.trained
            if (settings := config.stages[stage.name]).replay
        }
        assert (
            replayed
            == {
                "chain": {"01": {"plain_text": 0.1}, "02": {"dictionary": 0.1}},
                "one-lora": {"01": {"plain_text": 0.1}, "02": {"dictionary": 0.1}},
                "only-02": {},
                "without-00": {"02": {"dictionary": 0.1}},
                "merge-only": {"01": {"plain_text": 0.1}},
            }[name]
        )
        shares = {stage: (tokens or 0) / BUDGET for stage, tokens in given.items()}
        tokens_of = {stage: NATURAL[stage].supervised_tokens for stage in given}
        total = sum(tokens_of.values())
        assert shares == {stage: pytest.approx(tokens / total, abs=1e-3) for stage, tokens in tokens_of.items()}


def test_configured_replay_is_kept_where_its_data_are() -> None:
    settings = ("stages.02.replay={plain_text = 0.1, dictionary = 0.2, instruct = 0.05}",)
    config = load_config(overrides=[parse_setting(setting) for setting in settings])
    shares = {}
    for arm in find_arms("chain,without-00,only-02"):
        replay = arm_config(arm, config, budget=BUDGET, natural=NATURAL, seed=0).stages["02"].replay
        shares[arm.name] = replay.shares if replay is not None else {}
    assert shares == {
        "chain": {"plain_text": 0.1, "dictionary": 0.2, "instruct": 0.05},
        "without-00": {"dictionary": 0.2, "instruct": 0.05},
        "only-02": {"instruct": 0.05},
    }


def test_a_table_is_the_chain_within_its_block_only() -> None:
    before = chain_stages()
    (arm,) = find_arms("one-lora")
    with contextlib.suppress(ZeroDivisionError), stage_table(arm.table):
        assert find_stage("02").parent == "01"
        raise ZeroDivisionError
    assert chain_stages() == before


# ---- the command -----------------------------------------------------------------------------------------------------


def test_every_arm_is_trained_and_scored_at_equal_tokens(ablated: tuple[Path, str, str]) -> None:
    result = result_of(ablated[0])
    assert (result.model, result.seeds, result.budget, result.split) == ("tiny", (0,), BUDGET, "dev")
    assert [arm.arm for arm in result.arms] == ["base", *TRAINED]
    for arm in result.arms[1:]:
        for tokens in arm.supervised_tokens:
            assert tokens == pytest.approx(BUDGET, rel=0.2), arm.arm
    for arm in result.arms:
        cells = {cell.measure: cell for cell in arm.cells}
        assert cells.keys() == MEASURES
        for cell in cells.values():
            assert len(cell.by_seed) == 1
            assert cell.n > 1
            assert cell.interval95 is not None
            assert cell.interval95[0] <= cell.value <= cell.interval95[1]
            assert (cell.against_chain is None) == (arm.arm == "chain")
            if cell.against_chain is not None:
                assert cell.against_chain.p <= cell.against_chain.p_holm
                assert len(cell.against_chain.by_seed) == (0 if cell.measure == "perplexity" else 1)


def test_the_mixture_has_the_shares_of_the_chain(ablated: tuple[Path, str, str]) -> None:
    folder = ablated[0] / "ablation" / "tiny"
    stages = {name: json.loads((folder / name / "seed-0/score.json").read_text())["stages"] for name in TRAINED}
    assert [stage["stage"] for stage in stages["chain"]] == ["00", "01", "02"]
    assert [stage["stage"] for stage in stages["joint"]] == ["02"]
    total = sum(stage["supervised_tokens"] for stage in stages["chain"])
    for stage, kind in zip(stages["chain"][:2], ("plain_text", "dictionary"), strict=True):
        share = stages["joint"][0]["replayed"][kind]
        assert share == pytest.approx(stage["supervised_tokens"] / total, abs=0.2)


def test_the_table_shows_values_intervals_and_tests(ablated: tuple[Path, str, str]) -> None:
    _, out, err = ablated
    for name in ("base", *TRAINED):
        assert out.count(name) >= len(MEASURES)
    assert "n = 10 questions" in out
    assert "not significantly different (p = " in out
    assert "ablation.json" in err


def test_weights_are_removed_after_scoring_and_nothing_is_written_elsewhere(ablated: tuple[Path, str, str]) -> None:
    root = ablated[0]
    assert not list((root / "ablation").rglob("*.safetensors"))
    assert {path.name for path in root.iterdir()} == {"model", "chain.toml", "ablation"}
    assert {path.name for path in (root / "model").iterdir()} == {"raw"}


def test_a_second_start_trains_nothing_and_writes_the_same(
    ablated: tuple[Path, str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = shutil.copytree(ablated[0], tmp_path / "copy")
    before = (root / "ablation/tiny/ablation.json").read_bytes()
    monkeypatch.setattr(ablation, "run_stages", None)
    monkeypatch.setattr(ablation, "_score", None)
    code, out, err = command(root, "--seeds", "0", "--arms", ",".join(TRAINED))
    assert code == 0, err
    assert err.count("scored before, skipped") == len(TRAINED)
    assert (root / "ablation/tiny/ablation.json").read_bytes() == before
    assert out == ablated[1]


def test_an_interrupted_ablation_ends_as_an_uninterrupted_one(
    ablated: tuple[Path, str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after training and before scoring the second model; two seeds, of which the first is that of `ablated`."""
    root = shutil.copytree(ablated[0], tmp_path / "copy")
    shutil.rmtree(root / "ablation")
    scored: list[str] = []
    original = ablation._score

    def score(context: Any, runtime: Any, stage: str, data: Any) -> Any:
        scored.append(stage)
        if len(scored) == 3:
            raise KeyboardInterrupt
        return original(context, runtime, stage, data)

    monkeypatch.setattr(ablation, "_score", score)
    options = ("--seeds", "0,3", "--arms", "only-02")
    assert command(root, *options)[0] == 130
    code, _, err = command(root, *options)
    assert code == 0, err
    assert err.count("scored before, skipped") == 1
    assert err.count("is finished") == 2  # init and 02 of the second seed
    resumed, whole = result_of(root), result_of(ablated[0])
    assert resumed.seeds == (0, 3)
    for arm in resumed.arms[1:]:
        assert arm.supervised_tokens[1] == pytest.approx(BUDGET, rel=0.2)
        assert all(cell.against_chain is None for cell in arm.cells)
        (same,) = (other for other in whole.arms if other.arm == arm.arm)
        assert [cell.by_seed[0] for cell in arm.cells] == [cell.by_seed[0] for cell in same.cells]
        assert arm.supervised_tokens[0] == same.supervised_tokens[0]


def test_another_setting_is_scored_again(ablated: tuple[Path, str, str], tmp_path: Path) -> None:
    root = shutil.copytree(ablated[0], tmp_path / "copy")
    score = root / "ablation/tiny/only-02/seed-0/score.json"
    before = json.loads(score.read_text())["fingerprint"]
    options = ("--seeds", "0", "--arms", "only-02", "--keep-models")
    code, _, err = command(root, *options, "--set", "stages.02.learning_rate=5e-3")
    assert code == 0, err
    assert "scored before" not in err
    assert list(score.parent.rglob("adapter_model.safetensors"))
    assert json.loads(score.read_text())["fingerprint"] != before  # so the first setting is scored again too


def test_the_other_arms_are_trained_too(ablated: tuple[Path, str, str], tmp_path: Path) -> None:
    root = shutil.copytree(ablated[0], tmp_path / "copy")
    code, _, err = command(root, "--seeds", "0", "--arms", "one-lora,without-00")
    assert code == 0, err
    expected = {"one-lora": ["00", "01", "02"], "without-00": ["01", "02"]}
    arms = result_of(root).arms[1:]
    assert [arm.arm for arm in arms] == list(expected)
    for arm in arms:
        assert arm.supervised_tokens[0] == pytest.approx(BUDGET, rel=0.2)
        score = json.loads((root / "ablation/tiny" / arm.arm / "seed-0/score.json").read_text())
        assert [stage["stage"] for stage in score["stages"]] == expected[arm.arm]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--seeds", "0,x"), "--seeds is '0,x'"),
        (("--seeds", "1,1"), "--seeds is '1,1'"),
        (("--seeds", ""), "--seeds is ''"),
        (("--seeds", "-1"), "--seeds is '-1'"),
        (("--arms", "chain,none"), "--arms: unknown arm 'none'; allowed: chain, one-lora"),
        (("--set", "stages.02.epoch=1"), "unknown setting 'stages.02.epoch'"),
        (("--exam", "nothing"), "nothing"),
    ],
)
def test_what_cannot_be_compared_is_refused(root: Path, options: tuple[str, ...], says: str) -> None:
    refused(root, "ablate", *options_of(root), *options, says=(says,))


def test_links_below_the_ablation_are_refused(root: Path, tmp_path: Path) -> None:
    (root / "ablation" / "tiny").mkdir(parents=True)
    (root / "ablation" / "tiny" / "chain").symlink_to(tmp_path)
    refused(root, "ablate", *options_of(root), says=("is a symbolic link",))


def test_another_chain_has_no_arms() -> None:
    with (
        stage_table(tuple(stage for stage in chain_stages() if stage.name != "00")),
        pytest.raises(ConfigError, match="unknown stage '00'"),
    ):
        all_arms()
