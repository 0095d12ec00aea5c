"""What holds for all tests."""

import atexit
import gc
import os
from collections.abc import Iterator

import pytest
from hypothesis import settings

# A busy machine is not a fault of the code.
settings.register_profile("evovlm", deadline=None)
settings.load_profile("evovlm")

# The command has its own, too. With Python's thresholds (700, 10, 10), a seventh of the time of the tests goes into
# looking for garbage among the objects of torch and transformers.
gc.set_threshold(50_000, 20, 20)


def pytest_collection_finish() -> None:
    """Take the imported modules and the collected tests, which stay, out of every later search for garbage."""
    gc.freeze()
    # At the end they are garbage like all others: some libraries report what is left as leaks.
    atexit.register(gc.unfreeze)


@pytest.fixture(autouse=True, scope="session")
def _written_without_waiting_for_the_disk() -> Iterator[None]:
    """Leave files to the system's cache: only a loss of power shows whether they have reached the disk."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda _: None)
        yield


@pytest.fixture(autouse=True, scope="session")
def _steps_are_short() -> Iterator[None]:
    """Let no step of a command be printed: which ones take over a second depends on the machine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("evovlm.cli.progress.STEP_S", 3600.0)
        yield


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the figures out of pages, for tests that look at something else: they take most of a page's time."""
    monkeypatch.setattr("evovlm.report.page.inline_svg", lambda _, *, prefix: f'<svg id="{prefix}"></svg>')
