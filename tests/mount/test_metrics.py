"""--metrics: what Prometheus reads is what the mount counts, and the dashboard asks for it."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

import vfs_volatile
from tests.support.mount import Mount, MountFactory, run
from tests.support.waiting import PATIENCE
from vfs_volatile.abi.statistics import MEANINGS

DASHBOARD = Path(vfs_volatile.__file__).parent / "share" / "grafana-dashboard.json"
PAGE = 4096


def scrape(mounted: Mount) -> tuple[str, dict[str, Metric]]:
    """The text, and its metrics by name."""
    url = str(mounted.stats()["metrics"])
    with urllib.request.urlopen(url, timeout=PATIENCE) as answer:
        assert answer.headers["Content-Type"].startswith("text/plain")
        text = answer.read().decode()
    return text, {metric.name: metric for metric in text_string_to_metric_families(text)}


def value(metrics: dict[str, Metric], name: str, **labels: str) -> float:
    """The sample of a name."""
    (found,) = [
        sample.value
        for metric in metrics.values()
        for sample in metric.samples
        if sample.name == name and sample.labels == labels
    ]
    return found


def test_the_metrics_are_the_counters_of_the_mount(mount: MountFactory) -> None:
    mounted = mount(budget="1M", size="4M", metrics="127.0.0.1:0")
    for name in ("one", "two"):
        mounted.file(name, 200).mark()
    assert mounted.within_budget()
    _, metrics = scrape(mounted)
    stats = mounted.stats()
    for name in ("size", "budget", "resident", "highest_resident", "volatile", "purged"):
        assert value(metrics, f"vfs_volatile_{name}_bytes") == stats[name], name
    assert value(metrics, "vfs_volatile_purged_ever_bytes_total") == 200 * PAGE
    freed = {"cause": "budget"}
    assert value(metrics, "vfs_volatile_purged_for_bytes_total", **freed) == 200 * PAGE
    assert value(metrics, "vfs_volatile_purge_duration_seconds_count") == 1
    assert value(metrics, "vfs_volatile_purge_duration_seconds_sum") > 0
    looks = stats["looks_at_processes"]
    assert value(metrics, "vfs_volatile_look_duration_seconds_count") == looks


def test_every_counter_is_there_under_a_conventional_name(mount: MountFactory) -> None:
    mounted = mount(metrics=":0")
    text, metrics = scrape(mounted)
    assert str(mounted.stats()["metrics"]).startswith("http://127.0.0.1:"), "not to the world"
    missing = [
        name
        for name, meaning in MEANINGS.items()
        if not any(re.fullmatch(f"vfs_volatile_{name}(_bytes)?", found) for found in metrics)
        and not name.startswith("looks")  # a histogram
    ]
    assert missing == []
    for name, metric in metrics.items():
        assert metric.documentation, name
        assert metric.type in ("gauge", "counter", "histogram"), name
        assert name.startswith(("vfs_volatile_", "process_"))
    labels = {label for metric in metrics.values() for s in metric.samples for label in s.labels}
    rules = {"mvrange", "private", "lifetime", "conflict", "pressure", "mountpoint"}
    assert labels == {"cause", "le", *rules}
    assert not re.search(r"milliseconds|_ms\b", text), "seconds are the unit"


def test_no_name_of_a_file_is_told(mount: MountFactory) -> None:
    mounted = mount(budget="1M", size="4M", metrics=":0")
    mounted.file("secret", 300).mark()
    mounted.file("hidden", 300).mark()
    assert mounted.within_budget()
    text, _ = scrape(mounted)
    assert "secret" not in text
    assert "hidden" not in text


def test_the_dashboard_asks_for_metrics_that_exist(mount: MountFactory) -> None:
    _, metrics = scrape(mount(metrics=":0"))
    samples = {sample.name for metric in metrics.values() for sample in metric.samples}
    dashboard = json.loads(DASHBOARD.read_text())
    asked = {
        name
        for panel in dashboard["panels"]
        for target in panel["targets"]
        for name in re.findall(r"\b(?:vfs_volatile|process)_\w+", target["expr"])
    }
    assert asked
    assert asked <= samples


def test_an_address_that_is_taken_is_said_in_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run("mount", tmp_path, "--metrics", f":{port}")
    assert done.returncode == 1
    said = f"vfs-volatile: --metrics 127.0.0.1:{port}: Address already in use; give another"
    assert done.stderr.startswith(said)
    assert done.stderr.count("\n") == 1


def test_a_missing_library_is_said_in_one_line(tmp_path: Path) -> None:
    without = (
        "import sys; sys.modules['prometheus_client'] = None;"
        " from vfs_volatile.cli import main; sys.exit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", without, "mount", tmp_path, "-f", "--metrics", ":0"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr == (
        "vfs-volatile: --metrics: prometheus_client is missing;"
        " install it with: pip install prometheus-client\n"
    )
