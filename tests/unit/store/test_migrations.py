"""Migrations expand: what would break the version before says since when nothing uses it."""

import re

import pytest

from controlplane.store.migrate import migrations

_CONTRACTS = re.compile(
    r"\bDROP\s+(TABLE|COLUMN)\b|\bRENAME\b|\bSET\s+NOT\s+NULL\b|\bALTER\s+(COLUMN\s+)?\w+\s+(SET\s+DATA\s+)?TYPE\b"
    r"|\bADD\s+(COLUMN\s+)?(?!CONSTRAINT\b)\w+\s(?![^,;]*\bDEFAULT\b)[^,;]*\bNOT\s+NULL\b",
    re.IGNORECASE,
)
_MARKER = re.compile(r"^-- contract: since \d+\.\d+\.\d+$", re.MULTILINE)
_COMMENT = re.compile(r"--.*$", re.MULTILINE)


def breaking(sql: str) -> list[str]:
    """Return the statements that take something from the version before without saying since when it does without."""
    return [
        statement.strip()
        for statement in sql.split(";")
        if _CONTRACTS.search(_COMMENT.sub("", statement)) and not _MARKER.search(statement)
    ]


@pytest.mark.parametrize(("name", "sql"), migrations(), ids=[name for name, _ in migrations()])
def test_a_migration_takes_nothing_from_the_version_before(name: str, sql: str) -> None:
    assert breaking(sql) == [], name


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TABLE a",
        "ALTER TABLE a DROP COLUMN b",
        "ALTER TABLE a RENAME TO c",
        "ALTER TABLE a RENAME COLUMN b TO c",
        "ALTER TABLE a ALTER COLUMN b SET NOT NULL",
        "ALTER TABLE a ALTER b TYPE bigint",
        "ALTER TABLE a ALTER COLUMN b SET DATA TYPE bigint",
        "ALTER TABLE a ADD COLUMN b text NOT NULL",
        "ALTER TABLE a ADD COLUMN b text DEFAULT '', ADD COLUMN c text NOT NULL",
    ],
)
def test_what_breaks_the_version_before_needs_a_marker(statement: str) -> None:
    assert breaking(f"SELECT 1; -- DEFAULT\n{statement};")
    assert not breaking(f"-- contract: since 0.3.0\n{statement};")
    assert breaking(f"-- contract: since 0.3.0\nSELECT 1;\n{statement};"), "each says it for itself"


def test_what_expands_needs_none() -> None:
    assert not breaking(
        "CREATE TABLE a (b text NOT NULL); ALTER TABLE a ADD COLUMN c text, ADD COLUMN d int NOT NULL DEFAULT 0;"
        "ALTER TABLE a DROP CONSTRAINT a_check, ADD CONSTRAINT a_check CHECK (b IS NOT NULL);"
    )
