"""A file that a command was asked to write, and that is never overwritten."""

from pathlib import Path

from evovlm.errors import ConfigError, OutputExists


def refuse_existing(path: Path) -> None:
    """Raise OutputExists when the file is there already."""
    if path.exists():
        raise OutputExists(f"{path} exists already and is not overwritten.\n    Name another file.")


def write_new_file(path: Path, text: str) -> None:
    """Write the text; raises OutputExists when the file is there already, ConfigError when it cannot be written."""
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise OutputExists(f"{path} exists already and is not overwritten.\n    Name another file.") from error
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written ({error.strerror}).") from error
