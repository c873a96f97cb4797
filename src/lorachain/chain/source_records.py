"""What was read, as the files of the chain record it."""

from collections.abc import Sequence

from lorachain.artifacts.stages import SourceRecord
from lorachain.data.sources import SourceInfo
from lorachain.provenance import sha256_json


def sources_hash(sources: Sequence[SourceInfo]) -> str:
    """Of what was read, in order; the name of a source on the command line does not matter."""
    return sha256_json([source.sha256 for source in sources])


def source_records(sources: Sequence[SourceInfo]) -> tuple[SourceRecord, ...]:
    """The sources as `training_info.json` holds them."""
    return tuple(SourceRecord(**source.as_dict()) for source in sources)
