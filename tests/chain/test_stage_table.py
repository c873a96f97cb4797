"""A new stage, or another order, is a change of the stage table: every command follows it."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from safetensors.torch import load_file

from chain_making import TWO_LAYERS, make_workspace, options_of, run_command_line
from lorachain.artifacts import MergeInfo, read_stage_info, read_training_info
from lorachain.chain import stages
from lorachain.chain.stages import Stage
from lorachain.config import StageConfig
from lorachain.provenance import adapter_sha256
from refusals import refused

if TYPE_CHECKING:
    from lorachain.chain.tasks.base import LoadTask

# What a contributor would put into chain/tasks/: terms to their definitions.
TASK = """
from dataclasses import dataclass

from lorachain.artifacts import Measure
from lorachain.chain.tasks.base import Measures, TaskInputs, require_fitting, single_row_packs
from lorachain.chain.tasks.token_cache import records_sha256
from lorachain.data.dictionary import load_dictionary
from lorachain.prompts import dictionary_example
from lorachain.token_store import StoredPacks, TokenStore


@dataclass(frozen=True)
class DefinitionTask:
    sources: list
    counts: dict
    store: TokenStore

    def packs_of_epoch(self, epoch: int) -> StoredPacks:
        return single_row_packs(self.store, range(len(self.store)))

    def measure(self, model) -> Measures:
        return {
            "definitions": Measure(
                name="definitions", protocol_version="1", split="trained entries", value=0.5, n=8, unit="answers",
                wilson95=(0.2, 0.8),
            )
        }


def load_definition_task(inputs: TaskInputs) -> DefinitionTask:
    loaded = load_dictionary(inputs.sources, skip_bad_rows=inputs.skip_bad_rows, max_samples=inputs.stage.max_samples)
    terms = [term for term in loaded.entries if term.definition]
    require_fitting(len(loaded.entries), len(terms), inputs, "--dictionary")
    store = inputs.token_cache({"entries": records_sha256(terms)}).rows(
        "definitions", lambda: (inputs.encoder.encode(dictionary_example(t, "term->definition")) for t in terms)
    )
    return DefinitionTask(sources=loaded.sources, counts={"entries": len(terms)}, store=store)
"""


def _definitions() -> "LoadTask":
    from definition_task import load_definition_task  # type: ignore[import-not-found]

    load: LoadTask = load_definition_task
    return load


DEFINITIONS = Stage(
    name="03",
    title="definitions",
    kind="training",
    parent="02",
    output="03_trained",
    command="train 03",
    task=_definitions,
    source="dictionary",
    settings=StageConfig(epochs=2, learning_rate=1e-3, batch_size=4, max_length=512, max_samples=8),
)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Iterator[pytest.MonkeyPatch]:
    """The chain with stage 03 for the tests of this module: one more entry in the table, and one module."""
    folder = tmp_path_factory.mktemp("modules")
    (folder / "definition_task.py").write_text(TASK, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        patch.setattr(stages, "STAGES", (*stages.STAGES, DEFINITIONS))
        yield patch


@pytest.fixture(scope="module")
def extended(
    table: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory, save_tiny_in: Callable[..., Path]
) -> Path:
    """The workspace of a chain of four training stages that `run` has finished."""
    parent = tmp_path_factory.mktemp("extended")
    root = make_workspace(parent / "workspace", save_tiny_in(parent, **TWO_LAYERS), measured=False)
    code, out, err = run_command_line("run", *options_of(root), "--epochs", "1,1,1,1")
    assert code == 0, err
    assert "definitions" in out
    assert "stage 03, definitions: tiny on cpu, 8 entries" in err
    assert "the chain is complete" in err
    return root


def test_the_new_stage_has_its_files(extended: Path) -> None:
    folder = extended / "model" / "03_trained" / "tiny"
    for name in ("adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "training_info.json"):
        assert (folder / name).is_file()
    history = json.loads((folder / "kormedmcqa_validation_results.json").read_text())["results"]
    assert [(score["stage"], score["epoch"]) for score in history] == [
        (stage, epoch) for stage in ("00", "01", "02", "03") for epoch in (0, 1)
    ]
    assert (extended / "model" / "03_training" / "train_03_debug.log").stat().st_size > 0
    info = read_training_info(folder)
    assert (info.stage, info.configuration["stage"]["epochs"]) == ("03", 1)
    assert info.measures.after["definitions"].n == 8


def test_it_continues_the_adapter_of_02_on_the_merged_base(extended: Path) -> None:
    model = extended / "model"
    folder, parent = model / "03_trained" / "tiny", model / "02_trained" / "tiny"
    info, parent_info = read_training_info(folder), read_training_info(parent)
    assert info.depends_on.parent.folder == "02_trained/tiny"
    assert info.depends_on.parent.adapter_sha256 == adapter_sha256(parent)
    merge_info = read_stage_info(model / "01_another_lora_added" / "tiny")
    assert isinstance(merge_info, MergeInfo)
    assert info.base_sha256 == parent_info.base_sha256 == merge_info.base_sha256
    configs = [json.loads((path / "adapter_config.json").read_text()) for path in (folder, parent)]
    assert Path(configs[0]["base_model_name_or_path"]).samefile(model / "01_another_lora_added" / "tiny" / "base")
    assert configs[0]["base_model_name_or_path"] == configs[1]["base_model_name_or_path"]
    trained, start = (load_file(path / "adapter_model.safetensors") for path in (folder, parent))
    assert trained.keys() == start.keys()
    moved = sum(float((trained[name] - start[name]).norm()) for name in trained)
    size = sum(float(start[name].norm()) for name in start)
    assert 0 < moved < 0.5 * size  # it was not drawn again


@pytest.mark.parametrize("command", ["status", "history", "verify"])
def test_commands_that_show_the_chain_know_it(extended: Path, command: str) -> None:
    code, out, err = run_command_line(command, "--model", "tiny", "--workspace", extended)
    assert code == 0, err
    assert (out + err).count("03: definitions") == 1
    if command == "status":
        assert out.count("fresh") == 6
    if command == "history":
        assert "trained entries: definitions 50.0 % [20.0, 80.0] n=8 before" in out
    if command == "verify":
        assert err.count(" verified\n") == 6


def test_a_dry_run_plans_it(extended: Path) -> None:
    code, out, err = run_command_line("run", "--dry-run", *options_of(extended), "--epochs", "1,1,1,1")
    assert code == 0, err
    planned = json.loads(out)
    assert [stage["stage"] for stage in planned["plan"]][-1] == "03: definitions"
    assert {stage["state"] for stage in planned["plan"]} == {"fresh", "off"}
    assert planned["plan"][-1]["reads"] == ["sample", "sample"]
    assert planned["plan"][-1]["writes"] == str(extended / "model" / "03_trained" / "tiny")
    assert planned["configuration"]["stages"]["03"]["batch_size"] == 4


def test_eval_and_export_know_it(extended: Path, tmp_path: Path) -> None:
    common = ("--model", "tiny", "--workspace", extended, "--device", "cpu")
    code, _, err = run_command_line("eval", "03", *common, "--limit", 3, "--out", tmp_path / "03.json")
    assert code == 0, err
    result = json.loads((tmp_path / "03.json").read_text())
    assert result["model"]["name"] == "tiny:03"
    assert result["model"]["adapter_sha256"] == adapter_sha256(extended / "model" / "03_trained" / "tiny")
    code, _, err = run_command_line("export", "--format", "adapter", *common, "--out", tmp_path / "one")
    assert code == 0, err
    report = json.loads((tmp_path / "one" / "compose_report.json").read_text())
    trained = [adapter_sha256(extended / "model" / name / "tiny") for name in ("01_trained", "03_trained")]
    assert report["adapter_sha256"] == trained
    assert "- Stage 03:" in (tmp_path / "one" / "README.md").read_text(encoding="utf-8")


@pytest.mark.usefixtures("table")
def test_its_command_and_its_settings(extended: Path, tmp_path: Path) -> None:
    root = shutil.copytree(extended, tmp_path / "copy")
    for name in ("03_trained", "03_training"):
        shutil.rmtree(root / "model" / name)
    _, out, _ = run_command_line("status", "--model", "tiny", "--workspace", root)
    assert (out.count("missing"), out.count("fresh")) == (1, 5)
    assert "lorachain train 03 --model tiny" in " ".join(out.split())
    setting = ("--set", "stages.03.epochs=2")
    says = ("stages.03.epochs has no effect on `lorachain train 02`", "it belongs to stage 03")
    refused(root, "train", "02", *options_of(root), *setting, says=says)
    code, _, err = run_command_line("train", "03", *options_of(root), *setting)
    assert code == 0, err
    assert read_training_info(root / "model" / "03_trained" / "tiny").depends_on.settings.stage["epochs"] == 2


@pytest.mark.usefixtures("table")
def test_epochs_are_one_number_per_training_stage(extended: Path) -> None:
    says = ("--epochs is '1,1,1'", "for each of the stages 00, 01, 02, 03")
    refused(extended, "run", "--epochs", "1,1,1", *options_of(extended), says=says)


def test_without_the_entry_there_is_no_such_stage(root: Path) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stages, "STAGES", tuple(stage for stage in stages.STAGES if stage.name != "03"))
        refused(root, "train", "03", *options_of(root), says=("unknown stage '03'", "allowed: 00, 01, 02"))


def test_a_chain_in_another_order(
    tmp_path: Path, save_tiny: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the dictionary: the merge follows stage 00, and belongs to its command."""
    init, plain_text, _, merge, _, exam = stages.STAGES[:6]
    merge = replace(merge, parent="00", command="train 00", title="00 merged + new LoRA", output="00_merged")
    monkeypatch.setattr(stages, "STAGES", (init, plain_text, merge, exam))
    root = make_workspace(tmp_path / "workspace", save_tiny("text", **TWO_LAYERS), measured=False)
    before, _, after = (root / "chain.toml").read_text().partition("[stages.01]")
    (root / "chain.toml").write_text(f"{before}[stages.02]{after.partition('[stages.02]')[2]}")
    assert run_command_line("init", *options_of(root))[0] == 0
    code, _, err = run_command_line("train", "00", *options_of(root))
    assert code == 0, err
    assert (root / "model" / "00_merged" / "tiny" / "base" / "merge_report.json").is_file()
    code, _, err = run_command_line("train", "02", *options_of(root))
    assert code == 0, err
    assert read_training_info(root / "model" / "02_trained" / "tiny").depends_on.parent.folder == "00_merged/tiny"
    code, out, err = run_command_line("status", "--model", "tiny", "--workspace", root)
    assert out.count("fresh") == 4, out
    code, _, err = run_command_line("verify", "--model", "tiny", "--workspace", root)
    assert err.count(" verified\n") == 4
