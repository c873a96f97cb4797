"""What a user can get wrong, as exception types.

Every message says what is wrong, the value, what is allowed, and the next step (the style of uv's STYLE.md).
The command line prints the message of a `LorachainError` without a traceback and exits with code 2.
"""


class LorachainError(Exception):
    """Something that the user can mend. The message is complete as it stands."""


class ConfigError(LorachainError):
    """A setting is unknown, out of range, or contradicts another."""


class DataError(LorachainError):
    """A source cannot be read as what it is said to be; names the file, and the line where there is one."""


class ModelError(LorachainError):
    """A model's name, folder, licence gate or weights are not what the chain needs."""


class AdapterError(LorachainError):
    """A LoRA does not fit the model it is put on, or cannot be merged rightly."""


class NonFiniteError(LorachainError):
    """A loss, gradient, weight or logit is NaN or infinite."""


class WorkspaceError(LorachainError):
    """The workspace lacks a parent stage, is locked by another run, or the disk is full."""


class DeviceError(LorachainError):
    """The device that was asked for is not there."""
