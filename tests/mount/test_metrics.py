"""--metrics: what Prometheus reads is what the mount counts, and the dashboard asks for it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import select
import socket
import subprocess
import sys
import urllib.request
from http.client import HTTPException
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

import vfs_volatile
from tests.parity.sides import as_user
from tests.support.holdings import holdings
from tests.support.mount import Mount, MountFactory, run
from tests.support.waiting import PATIENCE, eventually
from vfs_volatile.abi.statistics import MEANINGS
from vfs_volatile.daemon.doorman import CONNECTIONS

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


def test_a_stranger_learns_no_name(mount: MountFactory) -> None:
    """Anybody on the machine may ask. Not of files, directories, attributes, or who uses them."""
    if os.getuid() != 0:
        pytest.skip("plays another user: run it as root")
    mounted = mount(budget="1M", size="4M", metrics=":0", semantics="kim")
    (mounted.path / "hidden").mkdir()
    file = mounted.file("hidden/secret", 300)
    os.setxattr(file.fd, "user.confided", b"value")
    os.symlink("target", mounted.path / "link")
    holder = mounted.actor(file)
    file.mark()
    assert mounted.within_budget()
    url = str(mounted.stats()["metrics"])
    "host".encode("idna")  # loaded now: the interpreter may lie in a directory of root's
    host, port = url.removeprefix("http://").removesuffix("/metrics").split(":")

    def ask(_: Path) -> list[str]:
        answers = []
        for path in ("/metrics", "/", "/stats", "/files", "/../hidden", "/metrics?name[]=secret"):
            with socket.create_connection((host, int(port)), timeout=PATIENCE) as asked:
                asked.sendall(f"GET {path} HTTP/1.0\r\n\r\n".encode())
                answers.append(asked.makefile().read())
        return answers

    answers = as_user(ask, Path("/"))
    assert any("vfs_volatile_purged" in answer for answer in answers)
    for name in ("hidden", "secret", "confided", "link", "target", f'"{holder.process.pid}"'):
        assert not any(name in answer for answer in answers), name


GARBAGE = (
    b"",
    b"GET",
    b"GET /metrics HTTP/1.1\r\n",
    b"\0" * 100_000,
    b"\xff\r\n\r\n",
    b"x" * 70_000,
)


def hold(address: tuple[str, int], sent: bytes) -> socket.socket:
    """A client that asks, or does not, and reads nothing."""
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1)
    client.setblocking(False)
    client.connect_ex(address)
    with contextlib.suppress(OSError):
        select.select([], [client], [], 0.1)
        client.send(sent)
    return client


def is_answered(mounted: Mount) -> bool:
    with contextlib.suppress(OSError, HTTPException):
        scrape(mounted)
        return True
    return False


def test_clients_that_stay_do_not_wedge_it(mount: MountFactory) -> None:
    """Slow ones, silent ones, those who send garbage, and many of them."""
    mounted = mount(metrics=":0")
    scrape(mounted)
    before = holdings(mounted)
    url = urlsplit(str(mounted.stats()["metrics"]))
    address = (str(url.hostname), int(url.port or 0))
    with contextlib.ExitStack() as clients:
        for number in range(60):
            client = hold(address, (*GARBAGE, b"GET / HTTP/1.0\r\n\r\n")[number % 7])
            clients.callback(client.close)
        file = mounted.file("file", 4)
        assert (file.mark(), file.purge(), file.unmark()) == (0, 4 * PAGE, 4 * PAGE)
        held = holdings(mounted)
        assert held["fd"] <= before["fd"] + CONNECTIONS + 8, "not one for each of 60"
        assert held["thread"] <= before["thread"] + CONNECTIONS + 8
        assert eventually(lambda: is_answered(mounted)), "they are sent away, and others come in"
    file.close()
    assert eventually(lambda: holdings(mounted)["fd"] <= before["fd"])
    assert mounted.stderr == ""


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
