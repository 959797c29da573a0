"""Where the daemon's words go: stderr while somebody sees it, else the system's log (syslog(3)).

They are written by a thread of their own: a full pipe, or a log daemon that stands still, must not
stop the mount.
"""

from __future__ import annotations

import json
import logging
import os
import queue
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from logging.handlers import QueueHandler, QueueListener, SysLogHandler

from vfs_volatile.daemon.config import LogFormat
from vfs_volatile.fs.threads import start_needed

_SYSLOG = "/dev/log"
"""The socket of journald, or of any syslogd."""

_TEXT = "%(levelname)s %(name)s: %(message)s"


class _Json(logging.Formatter):
    """One object on one line for each record; its time is UTC (RFC 3339)."""

    def format(self, record: logging.LogRecord) -> str:
        made = datetime.fromtimestamp(record.created, UTC)
        fields = {
            "time": made.isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            fields["exception"] = self.formatException(record.exc_info)
        return json.dumps(fields)


class _AsItIs(QueueHandler):
    """Hands a record on whole; nothing is formatted on the thread that logs."""

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        return record


class _Syslog(SysLogHandler):
    """The system's log; what is said goes nowhere while there is none (many containers)."""

    def __init__(self) -> None:
        super().__init__(_SYSLOG, SysLogHandler.LOG_DAEMON)
        self.ident = f"vfs-volatile[{os.getpid()}]: "

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802  (logging's name)
        """It is tried again at the next record."""


@contextmanager
def written(log_format: LogFormat, *, to_syslog: bool) -> Iterator[None]:
    """Write what is logged, until the end.

    Raises UserError if there can be no thread. People at a terminal are told only what is wrong; a
    log also when it was mounted and unmounted.
    """
    handler = _Syslog() if to_syslog else logging.StreamHandler()
    handler.setFormatter(_Json() if log_format == "json" else logging.Formatter(_TEXT))
    records: queue.SimpleQueue[logging.LogRecord] = queue.SimpleQueue()
    writer = QueueListener(records, handler)
    to_writer = _AsItIs(records)
    start_needed(writer.start)
    everything = logging.getLogger()
    everything.setLevel(logging.INFO if to_syslog or log_format == "json" else logging.WARNING)
    everything.addHandler(to_writer)
    try:
        yield
    finally:
        everything.removeHandler(to_writer)
        writer.stop()
