"""The plugin as its users meet it: modules of tests, run by a pytest of their own."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.plugin.conftest import Run
from tests.support.mount import ROOT
from tests.support.mountinfo import mounts_below
from tests.support.waiting import PATIENCE, eventually

pytest_plugins = ["pytester"]

HEAD = """
import errno, mmap, os, time
import pytest
from vfs_volatile import *
PAGE = 4096

def fill(file, count):
    file.write(b"".join(bytes([65 + page]) * PAGE for page in range(count)))

def letters(file):
    found = ""
    for at in range(0, os.fstat(file.fileno()).st_size, PAGE):
        try:
            found += chr(os.pread(file.fileno(), 1, at)[0] or ord("0"))
        except OSError as error:
            assert error.errno == errno.ENODATA
            found += "X"
    return found
"""


def test_a_fresh_mount_for_each_test(run: Run) -> None:
    done = run(
        HEAD
        + """
def test_one(volatile_mount):
    assert os.path.ismount(volatile_mount.path)
    assert os.listdir(volatile_mount.path) == []
    (volatile_mount.path / "kept").write_text("text")

def test_two(volatile_mount, volatile_file):
    assert os.listdir(volatile_mount.path) == ["volatile_file"]
    assert os.path.samestat(
        os.stat(volatile_mount.path / "volatile_file"), os.fstat(volatile_file.fileno())
    )
    assert fvrange(volatile_file, 0, 0, VRANGE_VOLATILE) == 0
"""
    )
    done.assert_outcomes(passed=2)


def test_options_by_marker(run: Run) -> None:
    done = run(
        HEAD
        + """
def stats(mount):
    import json
    return json.loads(os.getxattr(mount.path, "user.vfs_volatile.stats"))

@pytest.mark.volatile_mount(budget="64M", semantics="kim", purge_on_mark=True)
class TestOptions:
    def test_those_of_the_class(self, volatile_mount):
        found = stats(volatile_mount)
        assert (found["budget"], found["mvrange"]) == (64 << 20, "process")
        assert volatile_mount.purge_on_mark

    @pytest.mark.volatile_mount(budget=4096, access="zero", allow_other=True, o="noexec")
    def test_its_own_go_first(self, volatile_mount, volatile_file):
        found = stats(volatile_mount)
        assert (found["budget"], found["mvrange"]) == (4096, "process")
        assert os.statvfs(volatile_mount.path).f_flag & os.ST_NOEXEC
        fill(volatile_file, 1)
        fvrange(volatile_file, 0, 0, VRANGE_VOLATILE)
        assert letters(volatile_file) == "0"
"""
    )
    done.assert_outcomes(passed=2)


@pytest.mark.parametrize(
    ("marker", "words"),
    [
        ("budget='much'", "*--budget*much*"),
        ("no_such=True", "*No such option: --no-such*"),
        ("'64M'", "*takes options by name*"),
    ],
)
def test_a_wrong_option_says_what_is_wrong(run: Run, marker: str, words: str) -> None:
    done = run(
        f"""
import pytest

@pytest.mark.volatile_mount({marker})
def test_it(volatile_mount):
    pass
"""
    )
    done.assert_outcomes(errors=1)
    done.stdout.fnmatch_lines([words])


def test_purge(run: Run) -> None:
    done = run(
        HEAD
        + """
def test_all_and_one(volatile_mount, volatile_file):
    fill(volatile_file, 3)
    other = open(volatile_mount.path / "other", "x+b", buffering=0)
    nameless = open(volatile_mount.path / "nameless", "x+b", buffering=0)
    (volatile_mount.path / "nameless").unlink()
    (volatile_mount.path / "directory").mkdir()
    (volatile_mount.path / "link").symlink_to("volatile_file")
    for file in (other, nameless):
        fill(file, 1)
        fvrange(file, 0, 0, VRANGE_VOLATILE)
    fvrange(volatile_file, PAGE, PAGE, VRANGE_VOLATILE)
    assert volatile_mount.purge(other.name) == PAGE
    assert letters(other) + letters(volatile_file) == "XABC"
    assert volatile_mount.purge() == 2 * PAGE
    assert letters(volatile_file) + letters(nameless) == "AXCX"
    assert volatile_mount.purge() == 0

def test_what_the_kernel_alone_holds(volatile_mount, volatile_file):
    os.truncate(volatile_file.fileno(), PAGE)
    with mmap.mmap(volatile_file.fileno(), 0) as mapped:
        mapped[0] = 1
        fvrange(volatile_file, 0, 0, VRANGE_VOLATILE)
        volatile_mount.purge()
    assert letters(volatile_file) == "X"
"""
    )
    done.assert_outcomes(passed=2)


def test_pressure(run: Run) -> None:
    done = run(
        HEAD
        + """
@pytest.mark.volatile_mount(budget="1M")
def test_in_the_order_of_the_rules(volatile_mount, volatile_file):
    fill(volatile_file, 6)
    fvrange(volatile_file, 4 * PAGE, PAGE, VRANGE_VOLATILE)
    fvrange(volatile_file, 0, 2 * PAGE, VRANGE_VOLATILE)
    fvrange(volatile_file, 2 * PAGE, PAGE, VRANGE_VOLATILE)
    assert volatile_mount.pressure(PAGE) == PAGE
    assert letters(volatile_file) == "ABCDXF"
    assert volatile_mount.pressure("4K") == 2 * PAGE, "a full range goes as a whole"
    assert letters(volatile_file) == "XXCDXF"
    assert volatile_mount.pressure() == PAGE
    assert letters(volatile_file) == "XXXDXF"
    assert volatile_mount.pressure() == 0

def test_what_somebody_holds(volatile_mount, volatile_file):
    fill(volatile_file, 2)
    fvrange(volatile_file, 0, PAGE, VRANGE_VOLATILE)
    fvrange(volatile_file, PAGE, PAGE, VRANGE_VOLATILE)
    with mmap.mmap(volatile_file.fileno(), PAGE, flags=mmap.MAP_PRIVATE):
        assert volatile_mount.pressure() == PAGE
        assert letters(volatile_file) == "AX"
"""
    )
    done.assert_outcomes(passed=2)


def test_purge_on_mark(run: Run) -> None:
    done = run(
        HEAD
        + """
def test_on_and_off(volatile_mount, volatile_file):
    fill(volatile_file, 2)
    volatile_mount.purge_on_mark = True
    assert fvrange(volatile_file, 0, PAGE, VRANGE_VOLATILE) == PAGE
    volatile_mount.purge_on_mark = False
    assert fvrange(volatile_file, PAGE, PAGE, VRANGE_VOLATILE) == 0
    assert letters(volatile_file) == "XB"
"""
    )
    done.assert_outcomes(passed=1)


def test_slow_faults(run: Run) -> None:
    done = run(
        HEAD
        + """
def seconds_to_read(file):
    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    began = time.monotonic()
    assert letters(file) == "A"
    return time.monotonic() - began

def test_slow(volatile_mount, volatile_file):
    fill(volatile_file, 1)
    with volatile_mount.slow_faults(0.3):
        assert seconds_to_read(volatile_file) >= 0.3
    while seconds_to_read(volatile_file) >= 0.3:  # the machine may be slow, but not each time
        pass

def test_also_for_a_test_that_fails(volatile_mount, volatile_file):
    with pytest.raises(ZeroDivisionError), volatile_mount.slow_faults(5):
        1 / 0
    fill(volatile_file, 1)
    while seconds_to_read(volatile_file) >= 5:
        pass

def test_too_slow(volatile_mount):
    with pytest.raises(OSError), volatile_mount.slow_faults(6):
        pass
"""
    )
    done.assert_outcomes(passed=3)


def test_kill(run: Run) -> None:
    done = run(
        HEAD
        + """
def test_it_is_gone(volatile_mount, volatile_file):
    with volatile_mount.slow_faults(1):
        volatile_mount.kill()
    with pytest.raises(OSError) as raised:
        fvrange(volatile_file, 0, 0, VRANGE_VOLATILE)
    assert raised.value.errno == errno.ENOTCONN
    with pytest.raises(OSError):
        volatile_file.write(b"x")

def test_a_file_that_the_test_has_closed(volatile_file):
    volatile_file.close()
"""
    )
    done.assert_outcomes(passed=2)


# ---- what goes wrong ----


def test_a_test_that_fails_leaves_nothing(run: Run) -> None:
    done = run(
        HEAD
        + """
def test_it(volatile_mount, volatile_file):
    fill(volatile_file, 1)
    global mapped
    mapped = mmap.mmap(volatile_file.fileno(), 0)
    os.chdir(volatile_mount.path)
    assert mapped[0] == 0
"""
    )
    done.assert_outcomes(failed=1)


def test_a_test_that_hangs_in_its_mount_is_freed(run: Run) -> None:
    done = run(
        HEAD
        + """
import json, signal

@pytest.mark.volatile_mount(deadline=12)
def test_hangs(volatile_mount, volatile_file):
    stats = json.loads(os.getxattr(volatile_mount.path, "user.vfs_volatile.stats"))
    os.kill(stats["pid"], signal.SIGSTOP)
    fill(volatile_file, 1)

def test_next(volatile_mount, volatile_file):
    fill(volatile_file, 1)
"""
    )
    done.assert_outcomes(failed=1, errors=1, passed=1)
    done.stdout.fnmatch_lines(["*the mount was freed 12 s after it was made, its deadline*"])


@pytest.mark.parametrize("stopped", [False, True], ids=["", "daemon stopped"])
def test_pytest_itself_is_killed(stopped: bool, pytester: pytest.Pytester, work: Path) -> None:
    module = pytester.makepyfile(
        f"""
import json, os, signal, time

def test_it(volatile_mount):
    stats = json.loads(os.getxattr(volatile_mount.path, "user.vfs_volatile.stats"))
    if {stopped}:
        os.kill(stats["pid"], signal.SIGSTOP)
    os.kill(os.getpid(), signal.SIGKILL)
"""
    )
    arguments = ["-p", "vfs_volatile.pytest_plugin", "--basetemp", work / "tmp", module]
    with start(arguments) as process:
        assert process.wait(PATIENCE) == -signal.SIGKILL
    assert eventually(lambda: mounts_below(work) == {})


def test_two_sessions_at_a_time(pytester: pytest.Pytester, work: Path) -> None:
    module = pytester.makepyfile(
        HEAD
        + """
@pytest.mark.parametrize("number", range(4))
def test_it(volatile_mount, volatile_file, number):
    fill(volatile_file, 2)
    fvrange(volatile_file, 0, 0, VRANGE_VOLATILE)
    assert volatile_mount.purge() == 2 * PAGE
"""
    )
    plugin = ["-p", "vfs_volatile.pytest_plugin"]
    sessions = [start([*plugin, "--basetemp", work / str(n), module]) for n in range(2)]
    for session in sessions:
        with session:
            assert session.wait(PATIENCE) == 0
    assert mounts_below(work) == {}


def start(arguments: list[object]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "pytest", "-q", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        stdout=subprocess.DEVNULL,
    )


# ---- the plugin among others ----


def test_the_package_names_the_plugin() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (module,) = project["entry-points"]["pytest11"].values()
    assert hasattr(importlib.import_module(module), "volatile_mount")


def test_it_costs_nothing_until_it_is_used() -> None:
    code = "import sys, json; import vfs_volatile.pytest_plugin; print(json.dumps([*sys.modules]))"
    done = subprocess.run(
        [sys.executable, "-c", f"import pytest; {code}"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    modules = set(json.loads(done.stdout))
    assert "vfs_volatile.pytest_plugin" in modules
    assert not modules & {"trio", "pyfuse3", "typer", "vfs_volatile.testing", "vfs_volatile.trial"}


def test_the_marker_and_the_fixtures_are_listed(run: Run) -> None:
    run("", "--markers").stdout.fnmatch_lines(["@pytest.mark.volatile_mount(*"])
    run("", "--fixtures").stdout.fnmatch_lines(["volatile_mount*", "volatile_file*"])
