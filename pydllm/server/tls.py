"""Certificates of the public port, proved by a handshake in memory before anything listens."""

from __future__ import annotations

import contextlib
import ssl
from pathlib import Path
from typing import TYPE_CHECKING

import grpc

from pydllm.server.config import ConfigError

if TYPE_CHECKING:
    from pydllm.server.config import ServerConfig

_NOT_IN_FORCE = {
    9: "is not valid yet",  # X509_V_ERR_CERT_NOT_YET_VALID
    10: "has expired",  # X509_V_ERR_CERT_HAS_EXPIRED
}


def credentials(config: ServerConfig) -> grpc.ServerCredentials | None:
    """What the public port listens with; None without TLS.

    Raises ConfigError for a file that is missing, unreadable or no PEM, a key that does not belong to the certificate
    or is encrypted, and a certificate that is not in force. There is no way back to plain text.
    """
    if config.tls_cert is None or config.tls_key is None:
        _refuse_halves(config)
        return None
    certificate, key = _read("tls_cert", config.tls_cert), _read("tls_key", config.tls_key)
    authorities = None if config.tls_client_ca is None else _read("tls_client_ca", config.tls_client_ca)
    _check(config.tls_cert, config.tls_key, config.tls_client_ca)
    return grpc.ssl_server_credentials(
        [(key, certificate)], root_certificates=authorities, require_client_auth=authorities is not None
    )


def _refuse_halves(config: ServerConfig) -> None:
    if config.tls_cert is not None:
        raise ConfigError("tls_key: expected with tls_cert, got none")
    if config.tls_key is not None:
        raise ConfigError("tls_cert: expected with tls_key, got none")
    if config.tls_client_ca is not None:
        raise ConfigError("tls_client_ca: expected tls_cert and tls_key with it, got none")


def _read(field: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(f"{field}: {path} cannot be read ({error.strerror})") from None


def _check(certificate: str, key: str, authorities: str | None) -> None:
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        server.load_cert_chain(certificate, key, password=_no_password)
    except ssl.SSLError as error:
        raise ConfigError(_pair_reason(certificate, key, error)) from None
    if authorities is not None:
        try:
            server.load_verify_locations(authorities)
        except ssl.SSLError:
            raise ConfigError(f"tls_client_ca: {authorities} holds no PEM certificate") from None
    _check_dates(certificate, server)


def _no_password() -> str:
    raise ConfigError("tls_key: expected a key without a password, got an encrypted one")


def _pair_reason(certificate: str, key: str, error: ssl.SSLError) -> str:
    if error.reason == "KEY_VALUES_MISMATCH":
        return f"tls_key: {key} does not belong to the certificate {certificate}"
    return f"tls_cert, tls_key: expected a PEM certificate and its PEM key in {certificate} and {key}"


def _check_dates(certificate: str, server: ssl.SSLContext) -> None:
    """A handshake with a client that trusts exactly this certificate."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
    client.load_verify_locations(certificate)
    try:
        _shake_hands(server, client)
    except ssl.SSLCertVerificationError as error:
        if error.verify_code in _NOT_IN_FORCE:
            raise ConfigError(f"tls_cert: {certificate} {_NOT_IN_FORCE[error.verify_code]}") from None


def _shake_hands(server: ssl.SSLContext, client: ssl.SSLContext) -> None:
    """Lets the client see the server's certificate; raises what it thinks of it."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    theirs = client.wrap_bio(to_client, to_server)
    ours = server.wrap_bio(to_server, to_client, server_side=True)
    for side in (theirs, ours, theirs):
        with contextlib.suppress(ssl.SSLWantReadError):
            side.do_handshake()
