"""A hub for one test: huggingface_hub uses it, with a separate cache and login."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

import pytest
from huggingface_hub import constants

from evovlm.recipes import hub as hub_models
from evovlm.recipes import hub_client
from tests.hub_server import HubServer


class OpenHub(Protocol):
    """Opens a hub; `xet` is the address of its Xet storage."""

    def __call__(self, models: Mapping[str, Path], xet: str | None = None) -> HubServer: ...


@pytest.fixture
def open_hub(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenHub]:
    """Return a function that serves folders as models on a hub, and makes it the hub of this test."""
    opened: list[HubServer] = []
    home = tmp_path_factory.mktemp("hf-home")

    def serve(models: Mapping[str, Path], xet: str | None = None) -> HubServer:
        # Listings are kept by address, and the system gives a closed server's port to the next.
        hub_models._look_up.cache_clear()
        hub_models._unreachable_reason.cache_clear()
        hub_client.forget_hosts()
        hub = HubServer(models, xet=xet)
        opened.append(hub.__enter__())
        # huggingface_hub read the environment when it was imported; what it read is what it uses.
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        template = "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", hub.url + template)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", xet is None)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
        return hub

    yield serve
    for hub in opened:
        hub.stop()
