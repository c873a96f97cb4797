"""Errors that a user can fix, as exception types.

Every message says what is wrong, the value, what is allowed, and the next step.
The command line prints the message of a `LorachainError` without a traceback and exits with code 2.
"""


class LorachainError(Exception):
    """Something the user can fix. The message is complete by itself."""


class ConfigError(LorachainError):
    """A setting is unknown, out of range, or contradicts another."""


class DataError(LorachainError):
    """A source cannot be read as what it is meant to be; names the file, and the line where there is one."""


class ModelError(LorachainError):
    """A model's name, folder, licence gate or weights are not what the chain needs."""


class AdapterError(LorachainError):
    """A LoRA does not fit its model, or cannot be merged correctly."""


class NonFiniteError(LorachainError):
    """A loss, gradient, weight or logit is NaN or infinite."""


class WorkspaceError(LorachainError):
    """A file of the workspace is missing or damaged, the workspace is locked by another run, or the disk is full."""


class DeviceError(LorachainError):
    """The requested device is not available, or has too little memory."""


class GateError(LorachainError):
    """A step lost more than a gate of the chain file tolerates and is not published. Exit code 3."""


class EngineError(LorachainError):
    """A text engine cannot be started, or its server refused a request, retries included."""


class HubError(LorachainError):
    """The hub refuses what is pushed to it, or cannot be reached."""
