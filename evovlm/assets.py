"""Finds the files that travel with the package: in the wheel beside the code, in a checkout at the top level."""

from pathlib import Path

_PACKAGE = Path(__file__).parent
_IN_WHEEL = _PACKAGE / "_assets"


def asset_path(name: str) -> Path:
    """Return where the asset `name` lies (for example "zoo/base" or "configs/demo-evollm.yaml"), existing or not."""
    if _IN_WHEEL.is_dir():
        return _IN_WHEEL / name
    checkout = _PACKAGE.parent
    return checkout / name if name.split("/")[0] == "configs" else checkout / "assets" / name
