"""The ways in: process 1 itself, the bridge to it through an engine, and how the runtime comes into a pod."""

import json
import os
import selectors
import signal
import socket
import sys
import time

from sandbox.supervisor.carrying import carry_in
from sandbox.supervisor.confinement import forbid_calls
from sandbox.supervisor.frames import CHUNK_BYTES, Header
from sandbox.supervisor.processes import PR_SET_DUMPABLE, become_last_choice, prctl
from sandbox.supervisor.server import GREETING_SECONDS, Supervisor

OUTPUTS = "/mnt/session/outputs"
"""Where an agent leaves files for whoever asked; the wire format's path."""

BACKLOG = 128
ABSTRACT_SOCKET = "\0bulkhead"


def connect() -> None:
    """Carry frames between standard streams and process 1's socket, until either side ends."""
    prctl(PR_SET_DUMPABLE, 0)
    sock = socket.socket(socket.AF_UNIX)
    until = time.monotonic() + GREETING_SECONDS
    while sock.connect_ex(ABSTRACT_SOCKET) != 0:
        if time.monotonic() > until:
            sys.exit("process 1 does not listen")
        time.sleep(0.005)
    pairs = {0: sock.fileno(), sock.fileno(): 1}
    selector = selectors.DefaultSelector()
    for source in pairs:
        selector.register(source, selectors.EVENT_READ)
    while True:
        for key, _ in selector.select():
            data = os.read(key.fd, CHUNK_BYTES)
            if not data:
                return
            while data:
                data = data[os.write(pairs[key.fd], data) :]


def serve(options: Header) -> None:
    """Be process 1."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    if options.get("sealed"):
        become_last_choice()
    prctl(PR_SET_DUMPABLE, 0)
    filtered = forbid_calls(networked="canary" in options)
    listener = socket.socket(socket.AF_UNIX, fileno=options.get("listen_fd"))
    if "listen_fd" in options:
        listener.set_inheritable(False)
    else:
        listener.bind(ABSTRACT_SOCKET)
    os.makedirs(OUTPUTS, exist_ok=True)
    supervisor = Supervisor(listener, options, filtered=filtered)
    listener.listen(BACKLOG)
    for name in ("oom_fd", "anchor_fd"):
        if name in options:
            os.set_inheritable(options[name], False)
    if "ready_fd" in options:
        os.write(options["ready_fd"], b"1")
        os.close(options["ready_fd"])
    supervisor.serve()


def main() -> None:
    """Do what the first argument says."""
    if sys.argv[1] == "connect":
        connect()
    elif sys.argv[1] == "carry":
        carry_in(sys.argv[2], sys.argv[3])
    else:
        serve(json.loads(sys.argv[2]))
