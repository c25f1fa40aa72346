"""What the gateway counts. Labels come from fixed sets (route templates, methods, statuses), never from a client."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest

if TYPE_CHECKING:
    from starlette.requests import Request

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series beside every counter; nothing reads it

_PREFIX = "pydllm_gateway_http_"


class Metrics:
    """One registry per application."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            _PREFIX + "requests", "Finished requests.", ("route", "method", "status"), registry=self.registry
        )
        self.in_flight = Gauge(_PREFIX + "requests_in_flight", "Requests being answered.", registry=self.registry)
        self.duration = Histogram(
            _PREFIX + "request_duration_seconds",
            "From the request's headers to the end of its answer.",
            ("route",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.first_chunk = Histogram(
            _PREFIX + "time_to_first_chunk_seconds",
            "From the request's headers to the first chunk of a streamed answer.",
            ("route",),
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.disconnects = Counter(
            _PREFIX + "client_disconnects", "Clients that left before their answer.", ("route",), registry=self.registry
        )

    def page(self) -> str:
        """Prometheus text exposition format."""
        return generate_latest(self.registry).decode()


def metrics_of(request: Request) -> Metrics:
    """This application's metrics."""
    return cast("Metrics", request.app.state.metrics)
