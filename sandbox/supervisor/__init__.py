"""Process 1 of every sandbox: runs commands, keeps their results, moves files, and ends itself at the deadline.

Standard library only, because it runs inside any image on the runtime that `sandbox/runtime.py` carries in.
It outlives the worker that started it. What it knows lives in its own memory and in memory files without a name:
as process 1 it cannot be signalled from inside, and as a non-dumpable process it cannot be read or traced by the
commands, although they run as the same user.
"""
