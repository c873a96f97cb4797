"""Whether the trackers of `[tracking]` can be used. Imports no torch."""

from importlib.util import find_spec

from lorachain.config import ChainConfig
from lorachain.errors import ConfigError


def require_trackers(config: ChainConfig) -> None:
    """Refuses a tracker whose package is missing, before anything starts.

    Raises:
        ConfigError: names the package and how to install it.
    """
    for name in config.tracking.to:
        if find_spec(name) is None:
            raise ConfigError(
                f"tracking.to names {name!r}, which is not installed; install it with `pip install {name}`, or leave "
                "it out: losses.csv has the same metrics"
            )
