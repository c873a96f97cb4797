"""A workspace for the page: the files of a finished chain, and tiny weights that can be asked."""

import shutil
from pathlib import Path

import torch

from conftest import make_text_model, make_tokenizer
from lora_making import save_adapter_for
from lorachain.app.session import Session
from lorachain.cli.options import Common, build_context
from report_making import MODEL, make_report_workspace


def make_app_workspace(root: Path) -> Path:
    """`make_report_workspace`, with a base that can be loaded, and adapters of 00 and 02."""
    make_report_workspace(root)
    weights = root / "weights"
    make_text_model(0, torch.float32).save_pretrained(weights)
    make_tokenizer().save_pretrained(weights)
    for number, stage in enumerate(("00", "02")):
        folder = root / "model" / f"{stage}_trained" / MODEL
        save_adapter_for(weights, folder, "text", seed=number, scale_b=0.5)
    shutil.rmtree(root / "model" / "01_trained")
    return root


def session_of(root: Path, **options: object) -> Session:
    context = build_context(Common(MODEL, root, device="cpu"), "app")
    return Session(context, **options)  # type: ignore[arg-type]
