"""The layers of the design (sections 1 and 3), checked by parsing the source; nothing is imported."""

import ast
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "src" / "lorachain"
FILES = sorted(PACKAGE.rglob("*.py"))
SCRIPTS = [
    "script/init_lora_on_raw.py",
    "script/train/train/train_00_plain_text.py",
    "script/train/train/train_01_medical_dict.py",
    "script/train/train/train_02_kor_med_test.py",
]

# Layers, lowest first; packages of one layer may not import each other unless SAME_LAYER says so.
LAYERS = [
    {"version", "errors", "records", "redaction", "memory", "collection", "kernels", "library_output"},
    {"atomic", "append_file", "workspace", "provenance", "data_settings", "config", "artifacts", "registry"}
    | {"config_reading", "processes"}
    | {"licences", "user_key", "embedded_model", "prompts", "dictionary_forms", "chat_template"}
    | {"content_letters", "letter_uses", "option_references", "tokens", "token_store"},
    {"data", "weights"},
    {"training", "inference"},
    {"evaluation"},
    {"reasoning"},
    {"chain"},
    {"ask", "fit"},
    {"doctor"},
    {"report"},
    {"app"},
    {"export"},
    {"api", "api_models"},
    {"__init__"},
    {"cli"},
    {"__main__"},
]
LAYER_OF = {package: layer for layer, packages in enumerate(LAYERS) for package in packages}
SAME_LAYER = {
    "atomic": set(),
    "append_file": {"atomic"},
    "workspace": set(),
    "data_settings": set(),
    "config": {"data_settings"},
    "config_reading": {"config"},
    "provenance": {"atomic"},
    "artifacts": {"workspace", "provenance", "atomic", "append_file", "data_settings"},
    "user_key": {"atomic", "append_file", "workspace", "provenance"},
    "embedded_model": {"atomic", "append_file", "workspace", "provenance", "artifacts", "user_key"},
    "registry": {"atomic", "append_file", "workspace", "provenance", "config", "embedded_model", "prompts"},
    "content_letters": set(),
    "letter_uses": {"content_letters"},
    "option_references": {"content_letters", "letter_uses"},
    "prompts": {"letter_uses", "option_references"},
    "dictionary_forms": {"prompts"},
    "chat_template": {"prompts"},
    "tokens": {"prompts", "chat_template"},
    "token_store": {"tokens"},
}
MODEL_PACKAGES = {
    "weights",
    "training",
    "inference",
    "evaluation",
    "tokens",
    "token_store",
    "torch",
    "transformers",
    "peft",
}
# Every file that reads JSON, with what it reads: files of ours are read by the artifacts alone.
READS_JSON = {
    "provenance.py": "defines load_json",
    "artifacts/schema.py": "every file of ours",
    "artifacts/runs.py": "trainer_state.json of a checkpoint, which transformers writes",
    "chain/lock.py": "the lock file, as the artifact LockHolder",
    "chat_template.py": "chat_template.json of a model",
    "data/exam_schema.py": "options of users, where they are nested JSON",
    "data/gates/names.py": "config.json of a model",
    "data/gates/journal.py": "lines of an interrupted pass over data, as records",
    "data/tables.py": "data of users",
    "evaluation/extraction.py": "answers of models",
    "inference/engines/openai_wire.py": "answers of a server",
    "evaluation/lm_eval_results.py": "results of lm-evaluation-harness",
    "evaluation/journal.py": "lines of an evaluation in progress, as records",
    "export/gguf.py": "config.json of a model",
    "export/sentencepiece_model.py": "tokenizer.json of a model",
    "reasoning/journal.py": "lines of a writing run, as records",
    "registry.py": "model_paths.json, which users write, and the index of a model",
    "weights/load.py": "the tokenizer's files of a model",
    "weights/lora.py": "adapter_config.json, which PEFT writes",
    "weights/lora_config.py": "adapter_config.json",
    "weights/model_config.py": "config.json of a model",
    "weights/safetensors_io.py": "headers and the index of a model",
}


def package_of(path: Path) -> str:
    """The first part of the path; the package's own `__init__` is the public API."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports_of(path: Path) -> Iterator[str]:
    """Every module that a file imports, also within functions; `from package import name` counts `package.name`."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def packages_imported(path: Path) -> set[str]:
    packages = {name.split(".")[1] for name in imports_of(path) if name.startswith("lorachain.")}
    return packages & LAYER_OF.keys()


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_every_file_belongs_to_a_layer() -> None:
    assert {package_of(path) for path in FILES} == LAYER_OF.keys()


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_imports_flow_one_way(path: Path) -> None:
    package = package_of(path)
    for other in packages_imported(path) - {package}:
        allowed = LAYER_OF[other] < LAYER_OF[package] or other in SAME_LAYER.get(package, set())
        assert allowed, f"{name_of(path)} ({package}) imports {other}, which is in the same or a higher layer"


def importers(*modules: str) -> set[str]:
    return {
        package_of(path)
        for path in FILES
        for found in imports_of(path)
        if any(found == module or found.startswith(f"{module}.") for module in modules)
    }


def imported_modules(path: Path, modules: set[str]) -> set[str]:
    """The modules of the package that a file imports; `from module import name` counts the module."""
    found = set()
    for name in imports_of(path):
        if name.startswith("lorachain"):
            found.add(name if name in modules else name.rpartition(".")[0])
    return found & modules


def test_no_import_cycle_between_modules() -> None:
    names = {path: ".".join(("lorachain", *path.relative_to(PACKAGE).with_suffix("").parts)) for path in FILES}
    names = {path: name.removesuffix(".__init__") for path, name in names.items()}
    graph = {names[path]: imported_modules(path, set(names.values())) - {names[path]} for path in FILES}
    while leaves := [module for module, needed in graph.items() if not needed & graph.keys()]:
        for module in leaves:
            del graph[module]
    assert not graph, f"modules in or above a cycle: {sorted(graph)}"


def reads_json(path: Path) -> bool:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Name | ast.FunctionDef):
            name = node.id if isinstance(node, ast.Name) else node.name
            if name in ("load_json", "read_json"):
                return True
        elif isinstance(node, ast.Attribute):
            of_json = isinstance(node.value, ast.Name) and node.value.id == "json"
            if node.attr == "model_validate_json" or (node.attr in ("load", "loads") and of_json):
                return True
    return False


def test_json_of_ours_is_read_by_artifacts_only() -> None:
    reading = {path.relative_to(PACKAGE).as_posix() for path in FILES if reads_json(path)}
    assert reading == READS_JSON.keys(), "read our files through lorachain.artifacts; list every other reader"


def test_only_weights_imports_peft() -> None:
    assert importers("peft") == {"weights"}


def test_only_app_imports_gradio() -> None:
    assert importers("gradio", "starlette") == {"app"}


def test_only_training_imports_a_trainer() -> None:
    names = ("Trainer", "TrainingArguments", "TrainerCallback")
    assert importers(*(f"transformers.{name}" for name in names), "transformers.trainer") == {"training"}


def test_only_training_and_what_trains_know_training() -> None:
    assert importers("lorachain.training") <= {"training", "chain", "fit", "cli"}


def test_artifacts_and_report_import_no_torch() -> None:
    for package in ("artifacts", "report"):
        for path in (PACKAGE / package).rglob("*.py"):
            assert not {name.split(".")[0] for name in imports_of(path)} & {"torch", "transformers", "peft"}


def test_training_and_evaluation_do_not_import_each_other() -> None:
    assert not {"training"} & (importers("lorachain.evaluation") | importers("lorachain.inference"))
    assert not {"evaluation", "inference"} & importers("lorachain.training")


def test_report_imports_no_model_package() -> None:
    for path in (PACKAGE / "report").rglob("*.py"):
        assert not {part for name in imports_of(path) for part in name.split(".")[:2]} & MODEL_PACKAGES, name_of(path)


@pytest.mark.parametrize("category", [DeprecationWarning, PendingDeprecationWarning, FutureWarning])
def test_deprecated_calls_of_our_own_fail_the_tests(category: type[Warning]) -> None:
    """By the filters of pyproject.toml; those of libraries among themselves are no errors."""
    with pytest.raises(category):
        warnings.warn_explicit("old", category, "file.py", 1, module="lorachain.weights.lora")
    with warnings.catch_warnings(record=True):
        warnings.warn_explicit("old", category, "file.py", 1, module="transformers.modeling_utils")


def test_nothing_is_unpickled() -> None:
    """Nothing is loaded through pickle from a file that a stranger could have made (design, section 2)."""
    assert importers("pickle", "torch.load", "dill", "joblib", "shelve") == set()
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        assert "torch.load(" not in text, name_of(path)
        assert "trust_remote_code=True" not in text, name_of(path)


@pytest.mark.parametrize("path", sorted((*FILES, *(ROOT / "tests").rglob("*.py"))), ids=name_of)
def test_files_are_at_most_500_lines_and_have_one_job(path: Path) -> None:
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 500
    assert path.name not in ("utils.py", "util.py", "helpers.py", "common.py", "misc.py")


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_is_a_docstring_and_one_call(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 40
    tree = ast.parse(text)
    assert ast.get_docstring(tree)
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
    assert len(calls) == 1
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.For)]


def test_no_module_beside_the_scripts_hides_a_package() -> None:
    """Python puts a script's directory first on sys.path: a `train.py` or `data/` there would be imported instead."""
    assert {path.relative_to(ROOT).as_posix() for path in (ROOT / "script").rglob("*.py")} == set(SCRIPTS)
    beside = {path.stem for name in SCRIPTS for path in (ROOT / name).parent.iterdir()}
    assert "data" not in beside
    assert {path.stem for path in (ROOT / "script/train/train").iterdir()} & {"train", "data", "lorachain"} == set()
