"""When a request to a server is sent again."""

import random
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

RETRIED_STATUSES = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
"""Those that another attempt can end differently."""


@dataclass(frozen=True, slots=True)
class Retries:
    """Exponential backoff with full jitter, so that clients that failed together do not come back together (Brooker
    2015, "Exponential backoff and jitter")."""

    attempts: int = 8
    first_wait: float = 1.0
    longest_wait: float = 60.0

    def wait(self, attempt: int, asked: float | None) -> float:
        """Seconds before the attempt after `attempt` (0 is the first), at least those that the server asks for, which
        count up to ten times the longest wait."""
        drawn = random.uniform(0, min(self.longest_wait, self.first_wait * 2**attempt))
        return drawn if asked is None else drawn + min(asked, 10 * self.longest_wait)


def retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """The header Retry-After, which is a number of seconds or a date (RFC 9110, 10.2.3); None without one."""
    value = headers.get("retry-after", "").strip()
    if not value:
        return None
    if value.isdecimal() and len(value) < 10:
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError, OverflowError):
        return None
