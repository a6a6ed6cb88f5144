"""From a tool call to the shell command behind it: POSIX sh, awk and grep, whatever the image is."""

import shlex
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from harness_adapters.toolset.definitions import DEFAULT_TIMEOUT_SECONDS, DEFAULT_WAIT_SECONDS, EXECUTE
from harness_adapters.toolset.globs import as_regex, split_root

WORKSPACE = "/workspace"
MAX_GLOB_RESULTS = 1000
"""Beyond it a model does better with a narrower pattern; the rest is counted."""


class SandboxCommand(BaseModel):
    """What to run in the sandbox for a tool call."""

    model_config = ConfigDict(frozen=True)

    command: str
    stdin: str | None = None
    cwd: str = WORKSPACE
    timeout_seconds: float = DEFAULT_TIMEOUT_SECONDS
    yield_after_seconds: float | None = None
    keep_stdin_open: bool = False


class Continuation(BaseModel):
    """What to do with a command that was started before."""

    model_config = ConfigDict(frozen=True)

    exec_id: str
    stdin: str = ""
    close_stdin: bool = False
    signal: Literal["HUP", "INT", "QUIT", "USR1", "USR2", "TERM", "KILL", "STOP", "CONT"] | None = None
    cursor: str = ""
    wait_seconds: float = DEFAULT_WAIT_SECONDS

    @property
    def only_reads(self) -> bool:
        """Whether it leaves the command alone."""
        return not (self.stdin or self.close_stdin or self.signal)


def continuation(name: str, value: Mapping[str, Any]) -> Continuation | None:
    """Return what a call that `check` has nothing against does with an earlier command; None if it starts one."""
    if name != EXECUTE or "exec_id" not in value:
        return None
    return Continuation.model_validate(value)


def exec_id(name: str, value: Mapping[str, Any], call_id: str) -> str | None:
    """Return the id under which the sandbox knows the command of a call; None for a tool that has none."""
    if name not in _COMMANDS:
        return None
    earlier = value.get("exec_id") if name == EXECUTE else None
    return earlier if isinstance(earlier, str) else call_id


def command(name: str, value: Mapping[str, Any]) -> SandboxCommand:
    """Return the command for a call that `check` has nothing against; raises KeyError for a tool that has none."""
    return _COMMANDS[name](value)


def _execute(value: Mapping[str, Any]) -> SandboxCommand:
    return SandboxCommand(
        command=value["command"],
        stdin=value.get("stdin"),
        cwd=value.get("cwd") or WORKSPACE,
        timeout_seconds=value.get("timeout_seconds") or DEFAULT_TIMEOUT_SECONDS,
        yield_after_seconds=value.get("yield_after_seconds"),
        keep_stdin_open="yield_after_seconds" in value and not value.get("close_stdin"),
    )


def _bash(value: Mapping[str, Any]) -> SandboxCommand:
    if "command" not in value:
        return SandboxCommand(command="echo 'Every command starts in a fresh shell: there is nothing to restart.'")
    seconds = (value.get("timeout_ms") or 0) / 1000
    return SandboxCommand(command=value["command"], timeout_seconds=seconds or DEFAULT_TIMEOUT_SECONDS)


def _read(value: Mapping[str, Any]) -> SandboxCommand:
    script = 'cat < "$f"'
    if "view_range" in value:
        first, last = value["view_range"]
        script = f"sed -n '{first},{last if last > 0 else '$'}p' < \"$f\""
    return SandboxCommand(command=_on_file(value["file_path"], _MUST_BE_A_FILE, script, tool="read"))


def _write(value: Mapping[str, Any]) -> SandboxCommand:
    size = len(value["content"].encode())
    folder = shlex.quote(str(PurePosixPath(value["file_path"]).parent))
    script = [
        f'mkdir -p -- {folder} && cat > "$f" || exit 1',
        f"printf 'wrote %s bytes to %s\\n' {size} \"$f\"",
    ]
    return SandboxCommand(command=_on_file(value["file_path"], *script, tool="write"), stdin=value["content"])


def _edit(value: Mapping[str, Any]) -> SandboxCommand:
    old, new = value["old_string"], value["new_string"]
    numbers = f"old_size={len(old.encode())} new_size={len(new.encode())} all={int(bool(value.get('replace_all')))}"
    script = _EDIT.replace("@NUMBERS@", numbers).replace("@PROGRAM@", shlex.quote(_REPLACE))
    return SandboxCommand(command=_on_file(value["file_path"], _MUST_BE_A_FILE, script, tool="edit"), stdin=old + new)


def _glob(value: Mapping[str, Any]) -> SandboxCommand:
    root, pattern = value.get("path") or ".", value["pattern"]
    if pattern.startswith("/"):
        root, pattern = split_root(pattern)
    prefix = "" if root == "." else root.rstrip("/") + "/"
    assignments = f"r={shlex.quote(root)} p={shlex.quote(prefix)} e={shlex.quote(as_regex(pattern))}"
    return SandboxCommand(command=f"{assignments} most={MAX_GLOB_RESULTS}\n{_GLOB}")


def _grep(value: Mapping[str, Any]) -> SandboxCommand:
    assignments = f"e={shlex.quote(value['pattern'])} r={shlex.quote(_safe(value.get('path') or '.'))}"
    return SandboxCommand(command=f"{assignments}\n{_GREP}")


def _on_file(path: str, *script: str, tool: str) -> str:
    head = f"f={shlex.quote(_safe(path))}\nfail() {{ printf '{tool}: %s\\n' \"$1\" >&2; exit 1; }}"
    return "\n".join([head, *script])


def _safe(path: str) -> str:
    return f"./{path}" if path.startswith("-") else path


_MUST_BE_A_FILE = """\
[ -d "$f" ] && fail "$f is a folder"
[ -e "$f" ] || fail "$f does not exist"
[ -r "$f" ] || fail "$f may not be read\""""

# The file comes with a character after its end, so that awk cannot lose a last newline; records end at \001, so that
# few are joined. All sizes are in bytes, hence the C locale.
_REPLACE = r"""
BEGIN { RS = FS = "\001" }
{ whole = NR > 1 ? whole RS $0 : $0 }
END {
  old = substr(whole, 1, old_size); new = substr(whole, old_size + 1, new_size)
  rest = substr(whole, old_size + new_size + 1); rest = substr(rest, 1, length(rest) - 1)
  ORS = ""; step = 4096; size = length(rest)
  for (here = 1; here <= size;) {
    window = substr(rest, here, step + old_size - 1)
    if (at = index(window, old)) { count++; print substr(window, 1, at - 1) new; here += at - 1 + old_size }
    else { print substr(window, 1, step); here += step }
  }
  print count + 0 > "/dev/stderr"
}
"""

_EDIT = """\
[ "$(tr -d '\\000' < "$f" | wc -c)" -eq "$(wc -c < "$f")" ] || fail "$f is not a text file: it holds NUL bytes"
[ -L "$f" ] && f=$(readlink -f -- "$f")
@NUMBERS@
t="$f.edit.$$"
trap 'rm -f -- "$t" "$t.count"' EXIT
cp -p -- "$f" "$t" || fail "the folder of $f cannot be written"
{ cat; cat < "$f"; printf x; } |
  LC_ALL=C awk -v old_size=$old_size -v new_size=$new_size @PROGRAM@ > "$t" 2> "$t.count"
n=$(cat "$t.count")
case $n in
  0) fail "old_string does not occur in $f; read the file and copy the text exactly" ;;
  1) ;;
  *[!0-9]* | '') fail "$f could not be edited: $n" ;;
  *) [ "$all" = 1 ] || fail "old_string occurs $n times in $f; give more of its surroundings, or set replace_all" ;;
esac
mv -f -- "$t" "$f" || fail "$f cannot be replaced"
printf 'replaced %s occurrence(s) in %s\\n' "$n" "$f\""""

_GLOB = """\
cd -- "$r" 2>/dev/null || { printf 'glob: %s is not a folder that can be read\\n' "$r" >&2; exit 1; }
find . \\( -type f -o -type l \\) -exec stat -c '%Y %n' {} + 2>/dev/null | LC_ALL=C sort -k1,1rn -k2 |
  e=$e p=$p most=$most LC_ALL=C awk '
    { path = substr($0, index($0, " ") + 3) }
    path ~ ENVIRON["e"] { if (++n <= ENVIRON["most"]) print ENVIRON["p"] path }
    END {
      if (n > ENVIRON["most"]) print "(and " n - ENVIRON["most"] " more)"
      if (!n) print "(no file fits)"
    }'"""

_GREP = """\
binary=-I
grep -I x /dev/null >/dev/null 2>&1
[ $? -gt 1 ] && binary=
[ -e "$r" ] || { printf 'grep: %s does not exist\\n' "$r" >&2; exit 1; }
grep -rHn $binary -E -e "$e" -- "$r"
code=$?
[ $code -eq 1 ] && { echo '(no match)'; exit 0; }
exit $code"""

_COMMANDS: Mapping[str, Callable[[Mapping[str, Any]], SandboxCommand]] = {
    EXECUTE: _execute,
    "bash": _bash,
    "read": _read,
    "write": _write,
    "edit": _edit,
    "glob": _glob,
    "grep": _grep,
}
