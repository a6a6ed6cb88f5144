"""The commands of this sandbox: started once for each id, read, fed, signalled and ended."""

import signal
import time
from collections.abc import Callable
from itertools import islice

from sandbox.supervisor.files import RefusedError
from sandbox.supervisor.frames import Header
from sandbox.supervisor.output import Spool, Verdict, Window
from sandbox.supervisor.processes import Processes, has_room, stillness
from sandbox.supervisor.run import SWEEP_PAUSE_SECONDS, Answer, Box, Run, Waiter
from sandbox.supervisor.typed import Protocol

MAX_RUNNING = 64
MAX_LISTED = 1000
MAX_ONCE = 16_384
"""How many writes and signals are remembered, so that none is done twice; some 4 MB of process 1's memory."""
KILL_GRACE_SECONDS = 0.3
"""Between TERM and KILL where a person waits for the end."""
STOP_SECONDS = 10.0
"""Above a run's own grace and sweeps; what is left then cannot be ended from inside."""
ROOM_TASKS = 32
"""How many processes a new command must be able to start; with a shell's profile and a pipeline it starts a dozen."""
MAKE_ROOM_SECONDS = 5.0
"""Nothing else is answered meanwhile. Sleepers are gone in a twentieth of a second; a fork bomb, which uses the same
cores as process 1, may take two."""
NOTICE = "[{} background processes of earlier commands were ended: the sandbox had no room for another]\n"


class ReapingBox(Box, Protocol):
    """What commands need of the supervisor around them."""

    def reap(self) -> None:
        """Take note of every child that has ended."""
        ...


class Commands:
    """Every command by its id: those that run, and what became of those that did."""

    def __init__(self, box: ReapingBox, *, spool_bytes: int, tasks: int):
        self._box = box
        self._live: dict[str, Run] = {}
        self._spool = Spool(spool_bytes)
        self._once: set[tuple[str, str, str]] = set()
        self._stopped = False
        self._tasks_limit = tasks - min(ROOM_TASKS, tasks // 4)
        self.orders: dict[str, Callable[[Header, bytes, Answer], None]] = {
            "exec": self._execute,
            "state": self._state,
            "output": self._read,
            "stdin": self._write,
            "signal": self._signal,
            "execs": self._list,
            "kill": self._kill,
            "stop": self._stop,
        }

    def _settle(self, run: Run, verdict: Verdict, windows: list[Window]) -> None:
        self._spool.put(run.exec_id, verdict, windows)
        self._live.pop(run.exec_id, None)

    def _execute(self, order: Header, stdin: bytes, answer: Answer) -> None:
        exec_id: str = order["exec_id"]
        if result := self._spool.get(exec_id):
            Waiter(answer).tell(*result)
            return
        if exec_id not in self._live:
            self._start(exec_id, order, stdin)
        run, seconds = self._live[exec_id], order["yield_after_seconds"]
        run.wait(Waiter(answer), None if seconds is None else run.started + seconds - time.monotonic())

    def _start(self, exec_id: str, order: Header, stdin: bytes) -> None:
        if self._stopped:
            raise RefusedError("sandbox_stopped", "the sandbox has been stopped and runs no more commands")
        if self._spool.full:
            raise RefusedError("sandbox_full", "the sandbox remembers as many commands as it can; use a new one")
        if len(self._box.runs) >= MAX_RUNNING:
            raise RefusedError(
                "bad_request", f"{MAX_RUNNING} commands are running here; end one or wait for one to end"
            )
        ended = self._make_room()
        try:
            run = Run(self._box, order, stdin, self._settle, notice=NOTICE.format(ended) if ended else "")
        except OSError as error:
            raise RefusedError("bad_request", f"the sandbox cannot start a command: {error.strerror}") from error
        self._box.runs[run.runner] = self._live[exec_id] = run
        self._box.later(order["timeout_seconds"], lambda: self._expire(exec_id))

    def _read(self, order: Header, _: bytes, answer: Answer) -> None:
        waiter = Waiter(answer, tuple(order["cursor"]), order["max_output_bytes"], eager=True)
        if result := self._spool.get(order["exec_id"]):
            waiter.tell(*result)
        else:
            self._running(order["exec_id"]).wait(waiter, order["wait_seconds"])

    def _running(self, exec_id: str) -> Run:
        if exec_id in self._live:
            return self._live[exec_id]
        if self._spool.get(exec_id):
            raise RefusedError("exec_not_running", f"the command {exec_id!r} has ended")
        raise RefusedError(
            "exec_not_found",
            f"no command {exec_id!r} has run in this sandbox; one of an earlier sandbox has ended with it",
        )

    def _write(self, order: Header, data: bytes, answer: Answer) -> None:
        act = "stdin", order["exec_id"], order["write_id"]
        if self._is_new(act):
            stdin = self._running(order["exec_id"]).stdin
            if stdin is None:
                raise RefusedError("stdin_closed", "the command was started without an open standard input")
            stdin.write(data, close=order["close"])
            self._once.add(act)
        answer({}, b"")

    def _signal(self, order: Header, _: bytes, answer: Answer) -> None:
        act = "signal", order["exec_id"], order["signal_id"]
        if self._is_new(act):
            run = self._running(order["exec_id"])
            if order["name"] == "KILL":
                run.end("killed", grace=0)
            else:
                run.signal(signal.Signals[f"SIG{order['name']}"])
            self._once.add(act)
        answer({}, b"")

    def _is_new(self, act: tuple[str, str, str]) -> bool:
        if act in self._once:
            return False
        if len(self._once) >= MAX_ONCE:
            raise RefusedError("sandbox_full", "the sandbox remembers as many writes and signals as it can")
        return True

    def _list(self, _order: Header, _: bytes, answer: Answer) -> None:
        running = [
            {"exec_id": run.exec_id, **run.verdict_now()._asdict(), "output_bytes": run.printed}
            for run in reversed(self._live.values())
        ]
        ended = islice(self._spool.verdicts(), MAX_LISTED - len(running))
        rest = [{"exec_id": exec_id, **verdict._asdict(), "output_bytes": size} for exec_id, verdict, size in ended]
        answer({"execs": running + rest}, b"")

    def _stop(self, _order: Header, _: bytes, answer: Answer) -> None:
        self._stopped = True
        for run in list(self._box.runs.values()):
            run.end("killed")
        until = time.monotonic() + STOP_SECONDS

        def look() -> None:
            if self._box.runs and time.monotonic() < until:
                self._box.later(SWEEP_PAUSE_SECONDS, look)
            else:
                processes = Processes()
                answer({"survivors": sum(len(processes.below(run)) for run in self._box.runs)}, b"")

        look()

    def _make_room(self) -> int:
        """End what finished commands have left running, the most numerous first, while a new one would have no room.

        Returns how many processes that were.
        """
        ended, until = 0, time.monotonic() + MAKE_ROOM_SECONDS
        while not has_room(self._tasks_limit) and time.monotonic() < until:
            with stillness():
                processes = Processes()
            left = {run: len(processes.below(run.runner)) for run in self._box.runs.values() if run.finished}
            if not left:
                break
            ended += max(left, key=left.__getitem__).end_leftovers(until)
            self._box.reap()
        return ended

    def _state(self, order: Header, _: bytes, answer: Answer) -> None:
        exec_id: str = order["exec_id"]
        if result := self._spool.get(exec_id):
            Waiter(answer).tell(*result)
        else:
            answer({"status": "running" if exec_id in self._live else "never_started"}, b"")

    def _kill(self, order: Header, _: bytes, answer: Answer) -> None:
        found = [run for run in self._box.runs.values() if run.exec_id == order["exec_id"]]
        for run in found:
            run.enders.append(answer)
            run.end("killed", grace=KILL_GRACE_SECONDS)
        if not found:
            answer({}, b"")

    def _expire(self, exec_id: str) -> None:
        if run := self._live.get(exec_id):
            run.end("timeout")
