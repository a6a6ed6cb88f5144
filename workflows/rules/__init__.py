"""Rules on the arguments of tool calls: what they are, and the first that fits a call; pure."""

from workflows.rules.checked import Glob
from workflows.rules.condition import Condition
from workflows.rules.pattern import escaped
from workflows.rules.rule import Examination, OnExpiry, Passed, Rule, RuleVerdict, Ruling, examine

__all__ = [
    "Condition",
    "Examination",
    "Glob",
    "OnExpiry",
    "Passed",
    "Rule",
    "RuleVerdict",
    "Ruling",
    "escaped",
    "examine",
]
