"""Texts that are checked when a rule is made, so that it can be evaluated later; pure."""

from typing import Annotated

from pydantic import AfterValidator, Field

from workflows.rules.path import MAX_PATH_CHARS, check_path
from workflows.rules.pattern import MAX_PATTERN_CHARS, check_glob, check_regex

Glob = Annotated[str, Field(max_length=MAX_PATTERN_CHARS), AfterValidator(check_glob)]
Regex = Annotated[str, Field(max_length=MAX_PATTERN_CHARS), AfterValidator(check_regex)]
JsonPath = Annotated[str, Field(min_length=1, max_length=MAX_PATH_CHARS), AfterValidator(check_path)]
