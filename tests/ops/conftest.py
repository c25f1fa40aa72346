"""The devices that this build can compute on."""

from __future__ import annotations

import pytest
from devices import op_devices
from on_device import OnDevice


@pytest.fixture(scope="session", params=op_devices())
def device(request: pytest.FixtureRequest) -> OnDevice:
    return OnDevice(request.param)


@pytest.fixture(scope="session")
def cpu() -> OnDevice:
    """The oracle of what has to be the same choice everywhere."""
    return OnDevice("cpu")
