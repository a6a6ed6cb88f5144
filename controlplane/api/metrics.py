"""What /metrics shows."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

_LATENCY_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

STATUSES = ("rescheduling", "running", "idle", "terminated")


class Metrics:
    """The measures of one app, in a registry of its own."""

    def __init__(self):
        self._registry = CollectorRegistry()
        self._requests = Counter(
            "bulkhead_http_requests_total",
            "Requests answered.",
            ("method", "route", "status"),
            registry=self._registry,
        )
        self._latency = Histogram(
            "bulkhead_http_request_seconds",
            "Time until the answer's first byte.",
            ("method", "route"),
            buckets=_LATENCY_BUCKETS,
            registry=self._registry,
        )
        self._streams = Gauge("bulkhead_streams_open", "Event streams being followed.", registry=self._registry)
        self._sessions = Gauge(
            "bulkhead_sessions", "Sessions that are not archived.", ("status",), registry=self._registry
        )

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count an answer."""
        self._requests.labels(method, route, str(status)).inc()
        self._latency.labels(method, route).observe(seconds)

    def exposition(self, *, streams: int, sessions: dict[str, int] | None) -> bytes:
        """Return everything as text; ``sessions`` None means that they could not be counted."""
        self._streams.set(streams)
        self._sessions.clear()
        for status in STATUSES if sessions is not None else ():
            self._sessions.labels(status).set((sessions or {}).get(status, 0))
        return generate_latest(self._registry)
