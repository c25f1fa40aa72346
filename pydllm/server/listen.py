"""Addresses: whether others reach one, and unix sockets that a dead server left."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
import stat

from pydllm.addresses import PortError, bracketed, check_address

__all__ = ["PortError", "bracketed", "check_address", "clear_socket", "is_loopback", "remove_socket"]


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach the address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def clear_socket(path: str) -> None:
    """Removes a socket that nobody listens on; PortError for one in use and for any other file."""
    try:
        mode = os.lstat(path).st_mode
    except OSError:
        return
    if not stat.S_ISSOCK(mode):
        raise PortError("socket: the path is taken by something that is no socket")
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except OSError:
            remove_socket(path)
        else:
            raise PortError("socket: the path is in use")


def remove_socket(path: str) -> None:
    """Removes the file when it is there."""
    with contextlib.suppress(OSError):
        os.unlink(path)
