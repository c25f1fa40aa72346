"""Why an address cannot be listened on. For the engine process and for the supervisor before it starts anything."""

from __future__ import annotations

import errno
import os
import socket


class PortError(Exception):
    """The address cannot be listened on; one line."""


def bracketed(host: str) -> str:
    """The host as a URL writes it."""
    return f"[{host}]" if ":" in host else host


def check_address(host: str, port: int, *, field: str = "grpc_port") -> socket.AddressFamily:
    """The address's family; PortError saying why it cannot be used (gRPC itself only says that it cannot).

    `field` names the port in errors.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError:
        raise PortError(f"host: {host} is no address of this machine") from None
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
            probe.listen(1)
        except OSError as error:
            raise PortError(_bind_reason(error, host, port, field)) from None
    return family


def _bind_reason(error: OSError, host: str, port: int, field: str) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"{field}: {bracketed(host)}:{port} is in use"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"host: {host} is no address of this machine"
    return f"{field}: cannot listen on {bracketed(host)}:{port}: {os.strerror(error.errno or 0)}"
