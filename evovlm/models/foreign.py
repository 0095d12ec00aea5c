"""Turns the errors of transformers and tokenizers about a model folder into ours."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from evovlm.errors import BrokenCheckpoint, EvovlmError

_SHOWN = 300


@contextmanager
def foreign_model(folder: Path) -> Iterator[None]:
    """Turn what transformers and tokenizers raise while they read a model folder into BrokenCheckpoint.

    They check few of the values that they read: a wrong one may raise any exception (tokenizers raises plain
    `Exception`, and for some files its Rust code panics). Only calls of these libraries belong inside.
    """
    try:
        yield
    except EvovlmError:
        raise
    except Exception as error:
        raise BrokenCheckpoint(_unreadable(folder, error)) from error
    except BaseException as error:
        # pyo3 offers no class to name, and derives it from BaseException.
        if type(error).__name__ != "PanicException":
            raise
        raise BrokenCheckpoint(_unreadable(folder, error)) from error


def _unreadable(folder: Path, error: BaseException) -> str:
    text = " ".join(str(error).split())
    shown = f"{text[:_SHOWN]}..." if len(text) > _SHOWN else text or "no reason given"
    return (
        f"{folder}: transformers cannot load it: {type(error).__name__}: {shown}\n"
        "    Correct its config or tokenizer files, or fetch the model again."
    )
