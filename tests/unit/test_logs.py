"""Logs: one record, as JSON for machines and as a line for people."""

import json
import subprocess
import sys

from controlplane import logs

RECORD = {
    "time": "2026-03-14T15:09:26.535Z",
    "level": "info",
    "part": "brain",
    "event": "turn_started",
    "session_id": "sesn_1",
    "attempt": 2,
}


def test_a_readable_line_leads_with_time_part_and_event():
    assert logs.readable(RECORD, colours=False) == "15:09:26 brain      turn_started session_id=sesn_1 attempt=2"


def test_what_is_worse_than_a_notice_says_so_and_a_trace_follows():
    shown = logs.readable({**RECORD, "level": "error", "exception": "Traceback …"}, colours=False)
    assert "ERROR turn_started" in shown
    assert shown.endswith("\nTraceback …")


def test_colours_only_when_asked_for():
    assert "\x1b[" in logs.readable(RECORD, colours=True)
    assert "\x1b[" not in logs.readable(RECORD, colours=False)


def test_a_line_that_is_no_record_is_passed_on_with_its_part():
    assert json.loads(logs.json_line("Segmentation fault", part="brain")) == {
        "part": "brain",
        "level": "info",
        "event": "Segmentation fault",
    }
    assert json.loads(logs.json_line("[1, 2]", part="brain"))["event"] == "[1, 2]"
    assert "Segmentation fault" in logs.readable_line("Segmentation fault", part="brain", colours=False)


def test_a_process_logs_json_where_nobody_reads_along_and_libraries_join_in():
    program = """
import logging, structlog
from controlplane import logs
logs.configure("api")
structlog.contextvars.bind_contextvars(request_id="req_1")
structlog.get_logger("ours").info("request", status=200)
logging.getLogger("theirs").warning("careful: %s", "x")
logging.getLogger("httpx").info("GET https://example/?token=secret")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    ours, theirs = [json.loads(line) for line in done.stderr.splitlines()]
    assert (ours["event"], ours["status"], ours["request_id"], ours["part"]) == ("request", 200, "req_1", "api")
    assert (theirs["event"], theirs["level"], theirs["part"]) == ("careful: x", "warning", "api")
