"""Chained LoRA for Korean medicine on Gemma 3, every stage verified. The public API is imported lazily."""

from importlib import import_module
from typing import TYPE_CHECKING

from lorachain.version import __version__ as __version__

if TYPE_CHECKING:
    from lorachain.api import compare as compare
    from lorachain.api import compose as compose
    from lorachain.api import dial as dial
    from lorachain.api import evaluate as evaluate
    from lorachain.api import export_chain as export_chain
    from lorachain.api import init as init
    from lorachain.api import load_config as load_config
    from lorachain.api import measure_ledger as measure_ledger
    from lorachain.api import merge_adapter as merge_adapter
    from lorachain.api import open_chain as open_chain
    from lorachain.api import run_chain as run_chain
    from lorachain.api import train_stage as train_stage
    from lorachain.api import verify as verify
    from lorachain.api import verify_merged as verify_merged
    from lorachain.api_models import ask_models as ask_models
    from lorachain.api_models import fit_model as fit_model
    from lorachain.api_models import run_doctor as run_doctor
    from lorachain.artifacts import ComposeReport as ComposeReport
    from lorachain.artifacts import DoctorReport as DoctorReport
    from lorachain.artifacts import EvalResult as EvalResult
    from lorachain.artifacts import FitReport as FitReport
    from lorachain.artifacts import Ledger as Ledger
    from lorachain.artifacts import MergeReport as MergeReport
    from lorachain.artifacts import TrainingInfo as TrainingInfo
    from lorachain.artifacts import ValidationHistory as ValidationHistory
    from lorachain.artifacts import read_stage_info as read_stage_info
    from lorachain.errors import GateError as GateError
    from lorachain.errors import LorachainError as LorachainError

_PUBLIC = {
    "lorachain.api": (
        *("compare", "compose", "dial", "evaluate", "export_chain", "init", "load_config", "measure_ledger"),
        *("merge_adapter", "open_chain", "run_chain", "train_stage", "verify", "verify_merged"),
    ),
    "lorachain.api_models": ("ask_models", "fit_model", "run_doctor"),
    "lorachain.artifacts": (
        *("ComposeReport", "DoctorReport", "EvalResult", "FitReport", "Ledger", "MergeReport", "TrainingInfo"),
        *("ValidationHistory", "read_stage_info"),
    ),
    "lorachain.errors": ("GateError", "LorachainError"),
}
_MODULE_OF = {name: module for module, names in _PUBLIC.items() for name in names}
__all__ = ["__version__", *_MODULE_OF]


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
