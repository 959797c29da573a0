"""The counters of the mount for Prometheus, over HTTP.

The server has threads of its own. They ask the trio thread for all values at once, which so are of
one moment; nothing of the mount is read in another thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import trio
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from vfs_volatile.abi.statistics import MEANINGS, Statistics
from vfs_volatile.core.durations import Durations
from vfs_volatile.daemon.config import Address
from vfs_volatile.daemon.doorman import Doorman
from vfs_volatile.errors import UserError
from vfs_volatile.fs.attributes import ControlAttributes
from vfs_volatile.fs.purges import Purges
from vfs_volatile.units import PAGE_SIZE

_TOLD_BY_A_HISTOGRAM = ("looks_at_processes", "looks_milliseconds")


class MetricsServer:
    """Answers GET with all metrics, from the moment it is made until the process ends."""

    def __init__(self, address: Address) -> None:
        """Raises UserError if ``address`` is not to be had."""
        self._registry = CollectorRegistry()
        ProcessCollector(registry=self._registry)  # memory, time and descriptors of the daemon
        try:
            server = Doorman((address.host, address.port), CONTENT_TYPE_LATEST, self._text_of_all)
        except OSError as error:
            raise UserError(
                f"--metrics {address}: {error.strerror}; give another HOST:PORT"
            ) from None
        self.url = f"http://{address._replace(port=server.port)}/metrics"

    def _text_of_all(self) -> bytes:
        return generate_latest(self._registry)

    def tell(self, xattrs: ControlAttributes, purges: Purges, facts: Mapping[str, str]) -> None:
        """Serve the counters of a mount too; called in its trio thread."""
        self._registry.register(
            _OfMount(lambda: list(_metrics(xattrs.statistics(), purges, facts)))
        )


class _OfMount(Collector):
    """Collects in the trio thread, for whichever thread asks."""

    def __init__(self, collect: Callable[[], list[Metric]]) -> None:
        self._collect = collect
        self._trio = trio.lowlevel.current_trio_token()

    def collect(self) -> Iterator[Metric]:
        try:
            yield from trio.from_thread.run_sync(self._collect, trio_token=self._trio)
        except trio.RunFinishedError:  # the mount has gone, the process is about to
            return


def _metrics(statistics: Statistics, purges: Purges, facts: Mapping[str, str]) -> Iterator[Metric]:
    yield InfoMetricFamily("vfs_volatile", "The mount and its rules.", dict(facts))
    for name, meaning in MEANINGS.items():
        if name not in _TOLD_BY_A_HISTOGRAM:
            family = GaugeMetricFamily if meaning.kind == "gauge" else CounterMetricFamily
            unit = "_bytes" if meaning.unit == "bytes" else ""
            help_text = f"{meaning.text[0].upper()}{meaning.text[1:]}."
            yield family(f"vfs_volatile_{name}{unit}", help_text, getattr(statistics, name))
    freed = CounterMetricFamily(
        "vfs_volatile_purged_for_bytes",
        "Memory that purges have freed, by cause.",
        labels=["cause"],
    )
    for cause, pages in purges.history.freed.items():
        freed.add_metric([cause], pages * PAGE_SIZE)
    yield freed
    yield _histogram("look", "Looking at the mappings of all processes.", purges.looks.durations)
    yield _histogram(
        "purge",
        "From dropping pages until the kernel has dropped its copy.",
        purges.drains.durations,
    )


def _histogram(name: str, text: str, durations: Durations) -> Metric:
    return HistogramMetricFamily(
        f"vfs_volatile_{name}_duration_seconds",
        text,
        buckets=durations.up_to(),
        sum_value=durations.seconds,
    )
