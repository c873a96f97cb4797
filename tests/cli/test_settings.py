"""Settings: defaults < --config file < --set < named options; typed and strict, and refused where without effect."""

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chain_making import SMALL, options_of, run_command_line, unmeasured
from lorachain.artifacts import InitInfo, MergeInfo, read_stage_info, read_training_info
from lorachain.chain.context import load_config
from lorachain.config_reading import parse_setting
from lorachain.errors import ConfigError
from refusals import refused


def settings(*pairs: str) -> list[str]:
    return [argument for pair in pairs for argument in ("--set", pair)]


def resolved(root: Path, *arguments: object, command: str = "run") -> dict[str, Any]:
    """The configuration that a command would use."""
    code, out, err = run_command_line(*command.split(), "--dry-run", *options_of(root), *arguments)
    assert code == 0, err
    configuration: dict[str, Any] = json.loads(out)["configuration"]
    return configuration


def value_of(configuration: dict[str, Any], key: str) -> Any:
    value: Any = configuration
    for part in key.split("."):
        value = value[part]
    return value


# ---- --set -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        {
            "lora.rank=32": 32,
            "lora.use_rslora=true": True,
            "lora.dropout=0.25": 0.25,
            'lora.target_modules=["q_proj", "v_proj"]': ["q_proj", "v_proj"],
            "training.scheduler=linear": "linear",
            "training.gradient_checkpointing=auto": "auto",
            "stages.02.learning_rate=1e-4": 1e-4,
            "stages.02.epochs=7": 7,
            'sources.embedded.exam=["sample", "sample"]': ["sample", "sample"],
            "dtype=bfloat16": "bfloat16",
            "seed=5": 5,
            "validation.max_questions=3": 3,
        },
        {'training.scheduler="linear"': "linear", "lora.dropout=0": 0, "training.gradient_checkpointing=false": False},
        {" training.scheduler = linear ": "linear"},
    ],
)
def test_any_setting_can_be_set(root: Path, given: dict[str, object]) -> None:
    """And nothing else is different."""
    configuration, before = resolved(root, *settings(*given)), resolved(root)
    for setting, value in given.items():
        key = setting.partition("=")[0].strip()
        assert value_of(configuration, key) == value
        assert type(value_of(configuration, key)) is type(value) or isinstance(value, int)
        holder = value_of(configuration, key.rpartition(".")[0]) if "." in key else configuration
        holder[key.rpartition(".")[2]] = value_of(before, key)
    assert configuration == before


def test_set_is_repeatable_and_the_last_wins(root: Path) -> None:
    configuration = resolved(root, *settings("lora.rank=3", "seed=4", "stages.00.epochs=5", "lora.rank=6"))
    assert (configuration["lora"]["rank"], configuration["seed"], configuration["stages"]["00"]["epochs"]) == (6, 4, 5)


@pytest.mark.parametrize("text", ["lora.rank", "", "=3", "lora..rank=3", ".rank=3", "lora.=3"])
def test_what_is_not_key_and_value_is_refused(root: Path, text: str) -> None:
    says = (f"--set {text!r} is not KEY=VALUE", "such as lora.rank=32")
    refused(root, "run", *options_of(root), "--set", text, says=says)


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("lora.ranks=3", ("unknown setting 'lora.ranks' (value 3)",)),
        ("loran.rank=3", ("loran",)),
        ("stages.07.epochs=3", ("07",)),
        ("stages.00.epoch=3", ("unknown setting 'stages.00.epoch'",)),
        ("lora.rank=abc", ("'lora.rank' is 'abc'",)),
        ("lora.rank=2.5", ("'lora.rank' is 2.5",)),
        ("lora.rank=4.0", ("'lora.rank' is 4.0",)),
        ("lora.rank=true", ("'lora.rank' is True",)),
        ('lora.rank="8"', ("'lora.rank' is '8'",)),
        ("lora.rank=0", ("'lora.rank' is 0", "greater than or equal to 1")),
        ("lora.use_rslora=1", ("'lora.use_rslora' is 1",)),
        ("lora.target_modules=q_proj", ("'lora.target_modules' is 'q_proj'",)),
        ("lora.dropout=nan", ("'lora.dropout' is nan",)),
        ("stages.02.learning_rate=inf", ("'stages.02.learning_rate' is inf",)),
        ("training.scheduler=cubic", ("'training.scheduler' is 'cubic'", "'cosine'")),
        ("lora=3", ("'lora' is 3",)),
        ("lora.rank.deep=3", ("'lora.rank' is {'deep': 3}",)),
        ("stages=3", ("'stages' is 3",)),
        ("stages.00=3", ("'stages.00' is 3",)),
        ("validation.recall_entries=5", ("is now called 'validation.exact_match_entries'",)),
    ],
)
def test_a_setting_that_is_not_allowed_is_refused(root: Path, setting: str, says: tuple[str, ...]) -> None:
    refused(root, "run", *options_of(root), "--set", setting, says=says)


@pytest.mark.parametrize("toml", ["[lora]\nrank = true", '[lora]\nrank = "8"', "[stages.00]\nepochs = 1.0"])
def test_a_file_is_as_strict(root: Path, toml: str) -> None:
    (root / "user.toml").write_text(toml)
    command = ("run", "--model", "tiny", "--workspace", root, "--config", root / "user.toml")
    refused(root, *command, says=("should be a valid integer", "user.toml"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=1", {"a": 1}),
        ("a.b.c=x y", {"a": {"b": {"c": "x y"}}}),
        ("a=b=c", {"a": "b=c"}),
        ("a=", {"a": ""}),
        ("a=[1, 2]", {"a": [1, 2]}),
        ("a=owner/name:config", {"a": "owner/name:config"}),
    ],
)
def test_parse_setting(text: str, expected: dict[str, Any]) -> None:
    assert parse_setting(text) == expected


def test_parse_setting_refuses_more_than_one_value() -> None:
    """A value cannot add settings of its own."""
    with pytest.raises(ConfigError, match="lora"):
        load_config(overrides=[parse_setting("lora.rank=3\nseed = 9")])


# ---- precedence ------------------------------------------------------------------------------------------------------


def test_a_named_option_wins_over_set_and_set_over_the_file(root: Path) -> None:
    assert resolved(root)["lora"]["rank"] == 4  # the file; the default is 16
    assert load_config().lora.rank == 16
    assert resolved(root, *settings("lora.rank=6"))["lora"]["rank"] == 6
    assert resolved(root, "--rank", 8)["lora"]["rank"] == 8
    assert resolved(root, "--rank", 8, *settings("lora.rank=6"))["lora"]["rank"] == 8
    assert resolved(root, *settings("lora.rank=6"), "--rank", 8)["lora"]["rank"] == 8


def test_the_same_for_a_setting_of_a_stage(root: Path) -> None:
    def epochs(*arguments: object) -> list[int]:
        stages = resolved(root, *arguments)["stages"]
        return [stages[name]["epochs"] for name in ("00", "01", "02")]

    assert epochs() == [1, 2, 2]
    assert epochs(*settings("stages.01.epochs=5")) == [1, 5, 2]
    assert epochs(*settings("stages.01.epochs=5"), "--epochs", "7,8,9") == [7, 8, 9]


def test_named_options_of_a_stage_apply_to_it_alone(root: Path) -> None:
    stages = resolved(root, "--max-samples", 3, "--batch-size", 7, command="train 00")["stages"]
    assert (stages["00"]["max_samples"], stages["00"]["batch_size"]) == (3, 7)
    assert (stages["01"]["max_samples"], stages["01"]["batch_size"]) == (20, 16)


@pytest.mark.parametrize(
    ("text", "training"),
    [
        ("15", {"save_every_minutes": 15.0}),
        ("0.5", {"save_every_minutes": 0.5}),
        ("200steps", {"save_every_steps": 200}),
    ],
)
def test_save_every(root: Path, text: str, training: dict[str, object]) -> None:
    assert training.items() <= resolved(root, "--save-every", text)["training"].items()


@pytest.mark.parametrize("text", ["often", "steps", "1.5steps", "nan", "-1", "infinity"])
def test_save_every_that_is_not_allowed(root: Path, text: str) -> None:
    refused(root, "run", "--save-every", text, *options_of(root), says=("save",))


# ---- alpha -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("alpha_in_file", "arguments", "expected"),
    [
        (None, (), (4, 8)),
        (None, ("--rank", "6"), (6, 12)),
        (None, ("--set", "lora.rank=6"), (6, 12)),
        (None, ("--rank", "6", "--set", "lora.alpha=5"), (6, 5)),
        (8, ("--rank", "16"), (16, 8)),
        (7, ("--set", "lora.rank=16"), (16, 7)),
        (7, ("--set", "lora.alpha=9"), (4, 9)),
    ],
)
def test_alpha_is_what_the_user_wrote_or_twice_the_rank(
    root: Path, alpha_in_file: int | None, arguments: tuple[str, ...], expected: tuple[int, int]
) -> None:
    line = f"alpha = {alpha_in_file}" if alpha_in_file else ""
    (root / "chain.toml").write_text(SMALL.replace("alpha = 8", line))
    code, _, err = run_command_line("init", *options_of(root), *arguments)
    assert code == 0, err
    folder = root / "model" / "raw_lora_added" / "tiny"
    config = json.loads((folder / "adapter_config.json").read_text())
    info = read_stage_info(folder)
    assert isinstance(info, InitInfo)
    assert (config["r"], config["lora_alpha"]) == expected
    assert (info.depends_on.lora.rank, info.depends_on.lora.alpha) == expected


def test_an_alpha_of_twice_the_rank_is_the_same_written_or_not(root: Path) -> None:
    assert run_command_line("init", *options_of(root))[0] == 0
    (root / "chain.toml").write_text(SMALL.replace("alpha = 8", ""))
    code, _, err = run_command_line("init", *options_of(root))
    assert code == 0
    assert "is finished" in err


# ---- without effect --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "arguments", "says"),
    [
        ("train 00", ("--rank", "32"), ("lora.rank", "a new LoRA, which `init` and `train 01` create")),
        ("train 02", ("--set", "lora.rank=8"), ("lora.rank", "a new LoRA, which `init` and `train 01` create")),
        ("train 00", ("--dictionary", "x"), ("sources.embedded.dictionary", "no stage of this command")),
        ("train 02", ("--plain-text", "x"), ("sources.embedded.plain_text", "no stage of this command")),
        ("train 00", ("--set", "stages.01.epochs=2"), ("stages.01.epochs", "it belongs to stage 01")),
        ("init", ("--set", "stages.00.epochs=2"), ("stages.00.epochs", "it belongs to stage 00")),
        ("init", ("--set", "training.scheduler=linear"), ("training.scheduler", "it only affects training")),
        ("init", ("--set", "device=cpu"), ("device", "it only affects training")),
        ("init", ("--set", "validation.max_questions=3"), ("validation.max_questions", "it only affects training")),
        ("run", ("--set", 'sources.hub.exam=["sample"]'), ("sources.hub.exam", "reads the source set 'embedded'")),
        ("run", ("--set", "name=mine"), ("name", "it is only a label")),
    ],
)
def test_a_setting_without_effect_is_refused(
    root: Path, command: str, arguments: tuple[str, ...], says: tuple[str, ...]
) -> None:
    key, reason = says
    says = (f"{key} has no effect on `lorachain {command}`", reason)
    refused(root, *command.split(), *options_of(root), *arguments, says=says)


@pytest.mark.parametrize(
    ("command", "arguments"),
    [
        ("init", ("--rank", "3", "--seed", "1")),
        ("train 01", ("--rank", "3", "--dictionary", "sample", "--exam", "sample", "--epochs", "1", "--seed", "1")),
        ("train 02", ("--exam", "sample", "--set", "quantization=none", "--set", "stages.02.epochs=1")),
        ("run", ("--rank", "3", "--plain-text", "sample", "--dictionary", "sample", "--exam", "sample")),
    ],
)
def test_a_setting_with_effect_is_accepted(root: Path, command: str, arguments: tuple[str, ...]) -> None:
    resolved(root, *arguments, command=command)


def test_a_file_may_have_settings_of_other_commands(root: Path) -> None:
    """It is one file for the whole chain."""
    assert resolved(root, command="train 00")["stages"]["02"]["max_samples"] == 16


# ---- what was used ---------------------------------------------------------------------------------------------------


def test_training_info_records_the_lora_that_was_trained(started: Path) -> None:
    """Stage 00 continues the LoRA of init, whatever the file says by then of a new one."""
    (started / "chain.toml").write_text(SMALL.replace("rank = 4\nalpha = 8", "rank = 32\nuse_rslora = true"))
    common = (
        *options_of(unmeasured(started)),
        "--set",
        "training.micro_batch_tokens=512",
        "--seed",
        3,
        "--device",
        "cpu",
    )
    code, _, err = run_command_line("train", "00", *common, "--max-samples", 12)
    assert code == 0, err
    folder = started / "model" / "00_trained" / "tiny"
    adapter = json.loads((folder / "adapter_config.json").read_text())
    configuration = read_training_info(folder).configuration
    assert configuration["lora"] == {
        "rank": 4,
        "alpha": 8,
        "dropout": 0.0,
        "use_rslora": False,
        "target_modules": adapter["target_modules"],
    }
    assert (adapter["r"], adapter["lora_alpha"], adapter["use_rslora"]) == (4, 8, False)
    assert configuration["training"]["micro_batch_tokens"] == 512
    assert configuration["stage"] == {
        "epochs": 1, "learning_rate": 2e-4, "batch_size": 4, "max_length": 128, "max_samples": 12,
    }  # fmt: skip
    assert configuration["sources"] == {"plain_text": ["sample"], "exam": ["sample"]}
    assert (configuration["seed"], configuration["dtype"], configuration["quantization"]) == (3, "float32", "none")
    assert configuration["device"] == "cpu"


def test_the_merge_records_the_lora_that_it_added(finished_copy: Path) -> None:
    code, _, err = run_command_line("train", "01", *options_of(unmeasured(finished_copy)), "--rank", 3, "--yes")
    assert code == 0, err
    assert "01: medical dictionary is finished" in err  # its LoRA is that of init: only the merge depends on the rank
    folder = finished_copy / "model" / "01_another_lora_added" / "tiny"
    info = read_stage_info(folder)
    assert isinstance(info, MergeInfo)
    assert (info.depends_on.lora.rank, info.depends_on.lora.alpha) == (3, 8)  # the alpha of the file is kept
    assert json.loads((folder / "adapter_config.json").read_text())["r"] == 3


# ---- proposed commands -----------------------------------------------------------------------------------------------


def proposed(err: str) -> list[str]:
    """The arguments of the command that the last line proposes."""
    return shlex.split(err.splitlines()[-1].partition("lorachain ")[2])


def test_a_proposed_command_repeats_only_options_that_it_accepts(started: Path) -> None:
    common = (
        *options_of(unmeasured(started)),
        "--device",
        "cpu",
        "--exam",
        "sample",
        "--save-every",
        "9",
        "--skip-bad-rows",
    )
    given = (*common, "--epochs", 1, "--plain-text", "sample", "--max-samples", 12, "--batch-size", 8)
    code, _, err = run_command_line("train", "00", *given, *settings("stages.00.max_length=64", "dtype=float32"))
    assert code == 0, err
    following = proposed(err)
    assert following[:2] == ["train", "01"]
    for dropped in ("--epochs", "--plain-text", "--max-samples", "--batch-size", "stages.00.max_length=64"):
        assert dropped not in following
    kept = ("--config", "--device", "--exam", "--save-every", "--skip-bad-rows", "dtype=float32")
    for option in kept:
        assert option in following
    code, _, err = run_command_line(*following, "--dry-run")
    assert code == 0, err


def test_the_command_of_a_missing_parent_can_be_run(root: Path) -> None:
    given = ("--epochs", 1, "--plain-text", "sample", "--device", "cpu", "--max-samples", 12, "--seed", 2)
    code, _, err = run_command_line("train", "00", *options_of(root), *given)
    assert code == 2
    command = proposed(err)
    assert command[0] == "init"
    assert command[-2:] == ["--seed", "2"]
    code, _, err = run_command_line(*command)
    assert code == 0, err


def test_an_interrupted_ablation_is_resumed_as_one(
    started: Path, monkeypatch: pytest.MonkeyPatch, lorachain: Callable[..., tuple[int, str, str]]
) -> None:
    def interrupt(*arguments: object, **named: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("lorachain.chain.pipeline.train_stage", interrupt)
    given = ("train", "02", "--from-base", *options_of(started), "--epochs", "1")
    code, _, err = lorachain(*given)
    assert code == 130
    assert set(proposed(err)) == set(given)
