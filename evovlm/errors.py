"""Every error that a user can fix, in one tree.

    EvovlmError
    ├── ConfigError            a YAML file is wrong (all its problems at once)
    ├── ModelError
    │   ├── ModelNotFound      no such folder or hub id, or the hub cannot be reached
    │   ├── BrokenCheckpoint   a model folder lacks a part: weights, tokenizer, config
    │   ├── PickledWeights     weights as pickles, which are never read
    │   ├── UnknownArchitecture
    │   └── IncompatibleModels shapes, vocabularies or methods do not fit together
    ├── TaskError              a task's data is missing or malformed, or a report split was asked for in a search
    ├── OutputError            a result cannot be written: full disk, no permission, another process
    │   └── OutputExists       a folder or file would be overwritten
    ├── NotEnoughRoom          a disk is too small for what is to be fetched or written
    ├── CodeNotAllowed         code that a file names would run, and --allow-code was not given
    ├── JudgeStopped           a judge cannot be asked: its budget is used up, or its endpoint does not answer
    ├── PluginError            a row that another installed package adds to a table cannot be used
    └── RunError
        ├── RunMismatch        the config is not the run's, or the journal was changed
        └── AllCandidatesFailed

A message says where, what was found, what was needed, and what to do. The command line prints it and exits with 2.
"""

import sys

from evovlm.masking import mask_chain, masked

FOREIGN_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    ImportError,
    LookupError,
    NameError,
    OSError,
    RuntimeError,
    SyntaxError,
    TypeError,
    ValueError,
)
"""What code of another package, or a script that a user allowed, raises when it is wrong."""


class EvovlmError(Exception):
    """An error that the user can fix. Its message has no secrets, whatever it quotes, nor has the one of its cause."""

    def __init__(self, message: str = "") -> None:
        super().__init__(masked(message))
        # The error that is being handled becomes the cause; a traceback shows both.
        mask_chain(sys.exception())


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message that is not blank, the error's type where it has no message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


class ConfigError(EvovlmError):
    """A YAML file is wrong."""


class ModelError(EvovlmError):
    """A model cannot be used as asked."""


class ModelNotFound(ModelError):
    """No model is found for a reference."""


class BrokenCheckpoint(ModelError):
    """A model folder is incomplete or damaged."""


class PickledWeights(ModelError):
    """A checkpoint holds only pickled weights."""


class UnknownArchitecture(ModelError):
    """No row of the family table describes this model."""


class IncompatibleModels(ModelError):
    """The models cannot be merged as the recipe says."""


class TaskError(EvovlmError):
    """A task or its data cannot be used as asked."""


class NoChatTemplate(TaskError):
    """A model is to be asked through its chat template, and does not have one."""


class OutputError(EvovlmError):
    """A result cannot be written."""


class OutputExists(OutputError):
    """The target exists and is not overwritten."""


class NotEnoughRoom(EvovlmError):
    """A disk cannot hold what is to be fetched or written."""


class CodeNotAllowed(EvovlmError):
    """Code that a file names would run, and the user has not allowed it."""


class JudgeStopped(EvovlmError):
    """A judge's budget is used up, or its endpoint does not answer; unlike other errors, it ends a search."""


class PluginError(EvovlmError):
    """A row that another installed package adds to a table cannot be used."""


class RunError(EvovlmError):
    """A run cannot continue."""


class RunMismatch(RunError):
    """A run folder belongs to another config."""


class AllCandidatesFailed(RunError):
    """No candidate of a generation could be evaluated."""
