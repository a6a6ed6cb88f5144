"""A rule, and what the rules of a session say of a call: the first that fits decides; pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from harness_adapters.toolset import EXECUTE
from workflows.rules.condition import COMMAND_PATH, Condition, UnevaluableError, misfit
from workflows.rules.pattern import fits_glob

RuleVerdict = Literal["allow", "ask", "deny"]
OnExpiry = Literal["allow", "deny"]


class Rule(BaseModel):
    """What is decided about the calls of a tool whose input meets every condition. ``scope``: where it holds."""

    model_config = ConfigDict(frozen=True)

    id: str
    scope: str = "workspace"
    tool: str
    arguments: list[Condition]
    verdict: RuleVerdict
    reason: str | None = None
    expires_after_seconds: int | None = None
    on_expiry: OnExpiry | None = None

    @property
    def shown(self) -> str:
        """The rule as a sentence names it."""
        where = {"workspace": "the workspace", "agent": "the agent", "sesn": "the session"}
        return f"rule {self.id} of {where[self.scope.partition('_')[0]]}"


@dataclass(frozen=True)
class Ruling:
    """The verdict of the rule that decided. ``problem``: why it could not be evaluated, and so denies."""

    rule: Rule
    verdict: RuleVerdict
    problem: str | None = None

    @property
    def sentence(self) -> str:
        """What the model, or whoever is asked, is told."""
        if self.problem is not None:
            return f"{self.rule.shown} could not be evaluated, so the call is denied: {self.problem}"
        does = {"allow": "allows", "ask": "asks a person about", "deny": "denies"}[self.verdict]
        return f"{self.rule.shown} {does} this call" + (f": {self.rule.reason}" if self.rule.reason else "")


@dataclass(frozen=True)
class Passed:
    """A rule for the tool that did not decide, and why."""

    rule_id: str
    because: str


@dataclass(frozen=True)
class Examination:
    """How rules were gone through: those that were passed, then the one that decided, if one did."""

    passed: list[Passed]
    ruling: Ruling | None


def examine(rules: Iterable[Rule], tool: str, value: Mapping[str, Any]) -> Examination:
    """Go through the rules, in the order in which they hold, for a call of a tool; never raises."""
    passed: list[Passed] = []
    for rule in rules:
        if not _covers(rule, tool):
            continue
        try:
            because = _misfit(rule, value)
        except UnevaluableError as error:
            return Examination(passed, Ruling(rule, "deny", problem=str(error)))
        except Exception as error:  # noqa: BLE001 - whatever a library does with odd input, the call must not run for it
            problem = f"{type(error).__name__} while it was evaluated"
            return Examination(passed, Ruling(rule, "deny", problem=problem))
        if because is None:
            return Examination(passed, Ruling(rule, rule.verdict))
        passed.append(Passed(rule.id, because))
    return Examination(passed, None)


def _covers(rule: Rule, tool: str) -> bool:
    """Say whether the rule is about the tool; what is said of `bash` holds for the tool that can do the same."""
    return fits_glob(rule.tool, tool) or (tool == EXECUTE and fits_glob(rule.tool, "bash"))


def _misfit(rule: Rule, value: Mapping[str, Any]) -> str | None:
    """Return why the rule does not fit, None if it does; one condition that surely does not hold is enough."""
    allowing = rule.verdict == "allow"
    problem: UnevaluableError | None = None
    for condition in rule.arguments:
        try:
            because = misfit(condition, value, allowing=allowing)
        except UnevaluableError as error:
            problem = problem or error
        else:
            if because is not None:
                return because
    if problem is not None:
        raise problem
    return _unmentioned(rule.arguments, value) if allowing else None


def _unmentioned(conditions: Sequence[Condition], value: Mapping[str, Any]) -> str | None:
    """Return why a command line alone does not tell what runs: it is given a text that no condition looks at."""
    looks_at_command = any(each.command is not None and each.path == COMMAND_PATH for each in conditions)
    looks_at_stdin = any(each.path in {"$.stdin", "$"} for each in conditions)
    if looks_at_command and value.get("stdin") and not looks_at_stdin:
        return "the command is given a standard input that the rule says nothing about"
    return None
