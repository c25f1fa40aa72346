"""An HTTP client of a gateway in this process."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    from pydllm_gateway.server import Gateway


def client_of(gateway: Gateway, **options: Any) -> httpx.AsyncClient:
    """A client of any gateway; no proxies."""
    return httpx.AsyncClient(base_url=f"http://127.0.0.1:{gateway.port}", timeout=20.0, trust_env=False, **options)
