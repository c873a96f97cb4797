"""The stop condition, for engines that cannot apply it while they generate."""

from collections.abc import Callable
from dataclasses import replace

from lorachain.inference.engines.base import Completion


def cut_at_stop(completion: Completion, stop: Callable[[str], bool]) -> Completion:
    """The completion up to where its text is complete: the shortest beginning for which `stop` is true.

    Its token count stays that of what was generated.
    """
    for end in range(1, len(completion.text) + 1):
        if stop(completion.text[:end]):
            return replace(completion, text=completion.text[:end], finish="stop")
    return completion
