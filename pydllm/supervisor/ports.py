"""Checks of addresses before anything is started: a port in use costs no loading of weights."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydllm.addresses import PortError, bracketed, check_address

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["PortError", "authority", "check_ports"]


def check_ports(host: str, ports: Mapping[str, int]) -> None:
    """PortError when two options (by name) want the same port, or one that cannot be had. 0 is any free port."""
    owners: dict[int, str] = {}
    for option, port in ports.items():
        if port and port in owners:
            raise PortError(f"{option}: expected a port of its own, got {port}, which is {owners[port]}")
        owners[port] = option
    for option, port in ports.items():
        check_address(host, port, field=option)


def authority(host: str, port: int) -> str:
    """host:port of a URL."""
    return f"{bracketed(host)}:{port}"
