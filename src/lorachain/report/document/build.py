"""The sections of a report, in order."""

from lorachain.report.document import numbers
from lorachain.report.document.blocks import Document, Text
from lorachain.report.document.collect import ReportData
from lorachain.report.document.sections.curves import curve_section
from lorachain.report.document.sections.exam import exam_section, flip_section
from lorachain.report.document.sections.glance import glance_section
from lorachain.report.document.sections.ledger import ledger_section
from lorachain.report.document.sections.overview import chain_section, change_section
from lorachain.report.document.sections.provenance import (
    environment_section,
    limit_section,
    notice_blocks,
    source_section,
)
from lorachain.report.document.sections.reasoning import reasoning_section
from lorachain.report.document.sections.weights import merge_section
from lorachain.version import __version__


def build_document(data: ReportData) -> Document:
    """The same data give the same document: it has no time of its own."""
    at = numbers.when(data.finished)
    ended = Text(f"last step finished {at}", f"마지막 단계 완료 {at}") if at else ""
    return Document(
        title=Text(f"{data.model}: report of the chain", f"{data.model}: 체인 보고서"),
        subtitle=(
            Text("base ", "베이스 "),
            data.base_id,
            *((" · ", ended) if ended else ()),
            f" · lorachain {__version__}",
        ),
        notice=notice_blocks(),
        sections=(
            glance_section(data),
            chain_section(data),
            change_section(data),
            exam_section(data),
            flip_section(data),
            ledger_section(data),
            curve_section(data),
            reasoning_section(data),
            merge_section(data),
            source_section(data),
            environment_section(data),
            limit_section(),
        ),
    )
