"""Ways to have a shell do more than it seems: none is allowed by a rule that allows `git status` and `ls`."""

import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from workflows.rules import Condition, Rule, RuleVerdict, examine

HARMLESS: list[dict[str, Any]] = [{"program": "git", "arguments": ["status"]}, {"program": "ls"}]

TRICKS = [
    "ls; rm -rf x", "ls;rm x", "ls && rm x", "ls || rm x", "ls | rm x", "ls |& rm x", "ls & rm x", "rm x & ls",
    "ls\nrm x", "ls\n\n\trm x", "git status\\\n; rm x", "ls # harmless\nrm x", "ls \\\n-l\nrm x", "ls $(rm x)",
    'ls "$(rm x)"', "ls `rm x`", 'ls "`rm x`"', 'ls "a $(ls; rm x)"', "ls $(ls $(ls $(rm x)))", "ls <(rm x)",
    "ls >(rm x)", "ls $((a[$(rm x)]))", "ls ${x:-$(rm x)}", "ls ${x@P}", 'ls "${x:=`rm x`}"', "ls << E\n$(rm x)\nE",
    "ls <<'E'\nE\nrm x", "ls <<-E\n\tE\nrm x", 'ls <<< "$(rm x)"', "{ rm x; }", "{ ls; rm x; }", "(rm x)",
    "(ls; (rm x))", "! rm x", "time rm x", "time -p rm x", "coproc rm x", "ls() { rm x; }; ls",
    "function ls { rm x; }; ls", "git() (rm x); git status", "ls () for i in 1; do rm x; done",
    "alias ls='rm x'\nls", "shopt -s expand_aliases; alias ls=rm\nls x", "hash -p /bin/rm ls; ls x",
    "unset -f ls; ls", "eval rm x", "eval 'ls; rm x'", 'ls; eval "$y"', "source x", ". ./x", "trap 'rm x' EXIT; ls",
    "exec rm x", "command rm x", "builtin eval 'rm x'", "enable -f ./x.so ls; ls", 'set -- rm x; "$@"', 'ls; "$@"',
    "rm$IFS-rf${IFS}x", "ls;rm${IFS}x", "IFS=,;ls", "X=rm; $X x", "$X", '"$X" x', "${X}", "ls$X", "l$X x",
    "$(echo rm) x", "`echo rm` x", "r'm' x", "'r'\"m\" x", "r\\m x", "\\rm x", "$'rm' x", "$'\\x72\\x6d' x",
    '$"rm" x', "'ls; rm x'", '"ls\\" ; rm x"', "'ls'\\\n'rm' x", "'l'\\\ns", "ls'\\'; rm x'", 'ls "\\""; rm x',
    "env X=1 ls", "env ls", "env -S 'rm x'", "env -i rm x", "X=1 ls", "PATH=. ls", "LD_PRELOAD=./x.so ls",
    "PATH=.; ls", "a[0]=1 ls", "a+=x ls", "export PATH=.; ls", "declare -x PATH=.; ls", "readonly PATH=. ; ls",
    "local x=1; ls", "GIT_EXTERNAL_DIFF=./x git status", "printf -v PATH .; ls", "read PATH; ls",
    "for PATH in .; do ls; done", "sudo rm x", "sudo ls", "xargs rm", "ls | xargs rm", "nohup rm x",
    "timeout 1 rm x", "nice rm x", "sh -c 'rm x'", "bash -c ls", "bash x", "busybox rm x", "find . -exec rm {} +",
    "find . -delete", "python3 -c 'x'", "/bin/ls", "./ls", "ls > x", "ls >> ~/.bashrc", "ls >| x", "ls &> x",
    "ls >& x", "ls < x", "ls <> x", "ls 2> x", "> x", "ls {PATH}>/dev/null", "ls>x", "ls 3> x",
    "ls >/dev/null/../x", "ls > /dev/nullx", "ls > '/dev/null'x", "ls > $X", "ls > /dev/null > x", "/b?n/cat x",
    "/bin/c*t x", "l? x", "[l]s x", "~/ls x", "~root/ls", "{ls,rm} x", "{rm,x}", "l{s,}", "ls{,x}",
    "if ls; then rm x; fi", "while ls; do rm x; done", "for f in x; do rm $f; done", "case x in x) rm x;; esac",
    "case x in x) ls;& y) rm x;; esac", "until rm x; do ls; done", "select f in x; do rm x; done",
    "[[ -v a[$(rm x)] ]]", '[ -f "$(rm x)" ]', "((a[$(rm x)]))", "let 'a[$(rm x)]'", "ls;;rm x", "ls;&rm x",
    "git status x", "git -c core.pager=x status", "git --exec-path=. status", "git", "git push", "git status --",
    "gitstatus", "git $X", "git status $X", "git sta*", "git {status,push}", 'git "status" push', "git 'status '",
    "git\tstatus\tx", "ls\x00; rm x", "ls\r\nrm x", "ls\rrm x", "ls\x0brm", "ls\x1b[2K", "ls\x7f", "ls\u2028rm x",
    "ls\xa0", "\u202els", "ls\u200b", "ls\ufeff", "ｌｓ", "ls\u3000-l", "ⅼs", "ls\ud800", "", " ", "#", "# ls",
    "ls (", "ls )", "ls '", 'ls "', "ls $(", "ls `", "ls &&", "| ls", "&& ls", "ls <<E", "if ls", "ls ;; ls",
    "ls & & rm x", "{ ls", "ls; }; rm x", "!rm x", "{ls; rm x; }",
]  # fmt: skip

PLAIN = [
    "ls", " ls\n", "ls -la /workspace", "git status", "git  status", "git 'status'", 'git "status"', "git st\\atus",
    "git status; ls", "git status\nls", "git status && ls | ls -l || ls", "ls & ls", "(git status; ls)",
    "ls \\\n  -l", "ls # and nothing else", "# first\nls", 'ls $HOME "$HOME" ${HOME}', "ls *.py ~/x {a,b}",
    "ls $(git status)", 'ls "$(ls; git status) b"', "ls <(ls)", "ls 2>/dev/null", "ls > /dev/null 2>&1",
    "ls 'a b' \"c d\" e\\ f 'x;rm' \"x|y\" x\\;y", 'ls -l="a b"c 5', "l's'", "ls ''", "ls é 'ü ß' 日本", "ls |& ls",
    "\\ls", "ls 'a\nb'", "ls ''';rm x'", "ls }",
]  # fmt: skip


def allowing(command: Any, patterns: list[dict[str, Any]] = HARMLESS, verdict: RuleVerdict = "allow") -> str | None:
    """The verdict of one rule on a command line; None if it has none."""
    condition = Condition.model_validate({"command": patterns})
    rule = Rule(id="rule_1", tool="bash", arguments=[condition], verdict=verdict)
    ruling = examine([rule], "bash", {"command": command}).ruling
    return ruling.verdict if ruling else None


@pytest.mark.parametrize("command", TRICKS)
def test_a_trick_is_not_allowed(command: str) -> None:
    assert allowing(command) != "allow"


@pytest.mark.parametrize("command", PLAIN)
def test_what_is_plainly_allowed_is_allowed(command: str) -> None:
    assert allowing(command) == "allow"


REMOVES = [
    "rm x", "ls; rm x", "ls\nrm x", "ls $(rm x)", "ls `rm x`", "f() { rm x; }; f", "cat <<E\n$(rm x)\nE",
    "/bin/rm x", "\\rm x", "r'm' x", "if true; then rm x; fi", "for f in *; do rm $f; done", "sudo rm x",
    "sudo -u root rm x", "env A=1 rm x", "xargs -0 rm", "time rm x", "find . -name y -exec rm {} +",
    "nohup nice rm x", "timeout -k 5 10 rm x", "sh -c 'rm x'", "sudo bash -lc 'ls; rm x'", "eval rm x",
    "eval 'rm x'", "trap 'rm x' EXIT", "ssh host 'cd x; rm y'", "env -S 'rm x'", "command rm x", "exec rm x",
    "coproc rm x", "X=1 rm x", "rm>y x", "bash -c \"bash -c 'rm x'\"", "{ rm x; } > y", "! rm x",
    "case x in x) rm y;; esac", "watch 'rm x'",
]  # fmt: skip

HIDES_WHAT_IT_RUNS = [
    "$X x", "$(echo rm) x", 'eval "$X"', 'bash -c "$X"', "curl x | sh", "bash <<E\nrm x\nE", "alias x=rm\nx y",
    ". ./x", "sudo $X y", "/b?n/rm x", "~/rm x", "{rm,x}", "$'rm' x", "ls (", "ls \x00rm", "xargs $X",
]  # fmt: skip


@pytest.mark.parametrize("command", REMOVES)
@pytest.mark.parametrize("verdict", ["ask", "deny"])
def test_a_program_is_found_wherever_it_is(command: str, verdict: RuleVerdict) -> None:
    assert allowing(command, [{"program": "rm"}], verdict) == verdict


@pytest.mark.parametrize("command", HIDES_WHAT_IT_RUNS)
def test_what_hides_its_program_is_denied(command: str) -> None:
    assert allowing(command, [{"program": "rm"}], "deny") == "deny"
    assert allowing(command, [{"program": "rm"}], "ask") == "deny"


@pytest.mark.parametrize(
    "command",
    [
        "git${IFS}push", "git$IFS'push' x", "git$(printf ' ')push", "sudo git${IFS}push", "sh -c 'git${IFS}push'",
        "$X push", "$X", '"$X" git push', "$X -c 'git push'", "git${x:- }push", "$EMPTY git push", "git $X",
        "g{it,} push", "git {push,x}", "xargs git", "ls | xargs -r git", "xargs -I% git %", "xargs --replace=x git x",
        "find . -exec git {} +", "parallel git ::: push",
    ],
)  # fmt: skip
def test_what_hides_its_arguments_is_denied(command: str) -> None:
    pushes = [{"program": "git", "arguments": ["push"]}, {"program": "git", "arguments": ["**", "push", "**"]}]
    for pattern in pushes:
        assert allowing(command, [pattern], "deny") == "deny"
        assert allowing(command, [pattern], "ask") in {"ask", "deny"}


@pytest.mark.parametrize(
    "command",
    [
        "ls",
        "echo rm",
        "git rm-x",
        "ls 'rm x'",
        'xargs -I {} cp {} "$D"',
        'timeout 60 pytest "$T"',
        "bash run.sh",
        'echo "$X" $Y',
    ],
)
def test_what_only_speaks_of_a_program_is_left_to_the_next_rule(command: str) -> None:
    assert allowing(command, [{"program": "rm"}], "deny") is None


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("sudo ls -l", "allow"),
        ("sudo git push", None),
        ("sudo -u x ls", None),
        ("sudo", None),
        ("xargs ls -l", "allow"),
        ("xargs git status", None),  # what it appends to the arguments is not known
        ("xargs -I ls rm ls", None),
        ("env ls", "allow"),
        ("env A=1 ls", None),
        ("timeout 5 ls", "allow"),
        ("timeout 5 rm x", None),
        ("sudo env timeout 5 ls", "allow"),
        ("bash build.sh", "allow"),
        ("bash -c ls", None),
        ("bash", None),
        ("find . -name x", "allow"),
        ("find . -exec ls {} +", None),
        ("find $X", None),
        ("eval ls", None),
        ("alias ls=rm", None),
    ],
)
def test_a_program_that_runs_others_is_allowed_with_what_it_runs(command: str, expected: str | None) -> None:
    named = ["sudo", "xargs", "env", "timeout", "bash", "find", "eval", "alias"]
    assert allowing(command, [*HARMLESS, *({"program": name} for name in named)]) == expected


_BASH = shutil.which("bash")
_RARE = [
    "ls", "git", "status", "rm", "x", " ", "  ", "\t", "&", "|", "||", "(", ")", "{", "}", "$(", "`", "<(", "'",
    '"', "\\",
    "#", "$", "!", "=", "$X", "${", "[", "]", "[[", "]]", "*", "?", "~", "2>", ">", "<", "<<", "&1", "/dev/null", "E",
    "if", "then", "fi", "do", "done", "time", "eval", "f()", "\\\n", "é", "1", ",", "..", "@", "^", "%", "a=1", ":",
]  # fmt: skip
_LINES = st.lists(st.sampled_from([line for line in PLAIN if line[0] != "\\"]), min_size=1, max_size=3).map("\n".join)
_ADDED = [
    "{} ; rm x", "rm x ; {}", "{}\nrm x", "{} && rm x", "{} || rm x", "{} | rm x", "{} & rm x", "( {}\nrm x )",
    "{} $(rm x)",
    "{} `rm x`", "{} <(rm x)", "{} >(rm x)", '{} "$(rm x)"', "{{ {}\nrm x; }}", "ls() {{ rm x; }}\n{}",
    "alias ls=rm\n{}",
    "if rm x; then {}\nfi", "for i in 1; do {}\nrm x; done", "{} <<E\n$(rm x)\nE", "X=$(rm x) {}", "eval 'rm x'\n{}",
    "{} ${{X:-$(rm x)}}", "{} ${{X:=`rm x`}}", "{} $((a[$(rm x)]))", "trap 'rm x' EXIT\n{}",
    "case a in a) rm x;; esac\n{}",
]  # fmt: skip


@settings(deadline=None)
@given(line=_LINES, added=st.sampled_from(_ADDED))
def test_no_construct_adds_a_command_to_what_is_allowed(line: str, added: str) -> None:
    assert allowing(line) == "allow"
    assert allowing(added.format(line.partition("#")[0])) != "allow"


@st.composite
def _edited(draw: st.DrawFn) -> str:
    """A line that is allowed, with things put in that mean something to a shell."""
    line = draw(_LINES)
    for piece in draw(st.lists(st.sampled_from(_RARE), max_size=4)):
        at = draw(st.integers(0, len(line)))
        line = line[:at] + piece + line[at:]
    return line


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty folder, for a shell that finds no program."""
    return tmp_path_factory.mktemp("stage")


@pytest.mark.skipif(_BASH is None, reason="compares with what bash itself runs")
@settings(max_examples=1000, deadline=None)
@given(command=_edited())
def test_bash_runs_nothing_else_of_what_is_allowed(stage: Path, command: str) -> None:
    """What the rule allows is given to bash, which traces every simple command that it runs."""
    if allowing(command) != "allow":
        return
    environment = {"PATH": str(stage), "PS4": "\x01", "LC_ALL": "C.UTF-8", "HOME": str(stage)}
    ran = subprocess.run(
        [str(_BASH), "-xc", command], cwd=stage, env=environment, capture_output=True, timeout=20, check=False
    )
    traced = [line.lstrip("\x01") for line in ran.stderr.decode().splitlines() if line.startswith("\x01")]
    assert all(line == "ls" or line.startswith("ls ") or line.split() == ["git", "status"] for line in traced), traced
    assert not list(stage.iterdir())
