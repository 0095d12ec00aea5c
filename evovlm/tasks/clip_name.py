"""How an open_clip model is named, as far as it matters where the name stands; models/clip.py loads them."""

from pathlib import Path


def clip_name_from(folder: Path, name: str) -> str:
    """Return the name of an open_clip model with the path in it, if there is one from `folder` on, absolute."""
    if (folder / name).is_dir():
        return str((folder / name).resolve())
    architecture, colon, weights = name.partition(":")
    if colon and (folder / weights).is_file():
        return f"{architecture}:{(folder / weights).resolve()}"
    return name
