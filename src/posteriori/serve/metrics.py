"""What a server counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from .posterior import Drawn

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """A registry of its own: several servers in one process do not mix."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "posteriori_requests",
            "Requests by path and status.",
            ["path", "status"],
            registry=self.registry,
        )
        self.seconds = Histogram(
            "posteriori_request_seconds",
            "From a request's arrival to its answer.",
            ["path"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self._per_pass = Histogram(
            "posteriori_requests_per_pass",
            "Requests whose draws one pass over the model made.",
            buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
            registry=self.registry,
        )
        self._draws = Counter("posteriori_draws", "Draws handed out.", registry=self.registry)
        self._lm_tokens = Counter(
            "posteriori_lm_tokens",
            "Tokens run through language models.",
            registry=self.registry,
        )
        self._evidence_calls = Counter(
            "posteriori_evidence_calls", "Calls of evidence.", registry=self.registry
        )
        self._findings = Counter(
            "posteriori_findings",
            "Findings in answers.",
            ["level", "name"],
            registry=self.registry,
        )
        self._gauges = {
            "held": Gauge(
                "posteriori_requests_held",
                "Requests that wait or are drawn for.",
                registry=self.registry,
            ),
            "working": Gauge(
                "posteriori_requests_drawn_for",
                "Requests that are drawn for.",
                registry=self.registry,
            ),
        }

    def follow(self, held: Callable[[], int], working: Callable[[], int]) -> None:
        """The gauges ask these when they are read."""
        self._gauges["held"].set_function(held)
        self._gauges["working"].set_function(working)

    def on_pass(self, requests: int) -> None:
        self._per_pass.observe(requests)

    def on_drawn(self, drawn: Drawn) -> None:
        self._draws.inc(len(drawn.chosen))
        self._lm_tokens.inc(drawn.pool.cost.lm_tokens)
        self._evidence_calls.inc(drawn.pool.cost.evidence_calls)
        for finding in drawn.findings:
            self._findings.labels(finding.level, finding.name).inc()

    def text(self) -> bytes:
        return generate_latest(self.registry)
