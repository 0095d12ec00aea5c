"""Texts as they are typed on a command line, where `\\n` is the end of a line."""


def from_typed(text: str) -> str:
    """Return a typed text with line ends where it has `\\n`."""
    return text.replace("\\n", "\n")


def as_typed(text: str) -> str:
    """Return a text as it is typed: in one line."""
    return text.replace("\n", "\\n")
