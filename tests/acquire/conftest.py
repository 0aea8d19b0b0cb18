"""A Hub server on loopback that holds a small Just Zoom In, to which huggingface_hub of this process is redirected."""

import pytest

from tests.acquire.jz_city import City
from tests.hub.hub_server import HubServer

REPOSITORY = ("dataset", "pcvlab/justzoomin")


@pytest.fixture
def online(monkeypatch):
    """Enable downloads in huggingface_hub, with small pieces and without pauses."""
    import huggingface_hub.constants
    from huggingface_hub.utils import _http

    from gengeo_hf.common import transfer

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.constants, "DOWNLOAD_CHUNK_SIZE", 1 << 12)  # bytes lost by a break
    for module in (transfer.time, _http.time):
        monkeypatch.setattr(module, "sleep", lambda seconds: None)
    _http.close_session()
    yield
    _http.close_session()


@pytest.fixture(scope="session")
def city():
    return City()


@pytest.fixture
def hub(online, monkeypatch, city):
    import huggingface_hub.constants

    from gengeo_hf.acquire import justzoomin

    server = HubServer()
    server.repositories[REPOSITORY] = {"files": {}, "commits": ["0" * 40]}
    commit = server.commit(REPOSITORY, city.files())
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.address)
    template = server.address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(justzoomin, "REVISION", commit)
    yield server
    server.close()
