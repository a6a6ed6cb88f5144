"""The list of defences is true to the code, without running a single attack."""

from pathlib import Path

from tests.attacks.removals import REMOVALS, Removal

_ROOT = Path(__file__).parents[2]


def _applied(removal: Removal) -> dict[str, str]:
    """Return the edited files, by path; raises `ValueError`."""
    files: dict[str, str] = {}
    for edit in removal.edits:
        files[edit.path] = edit.applied(files.get(edit.path) or (_ROOT / edit.path).read_text())
    return files


def test_every_defence_is_where_its_removal_says_and_what_is_left_is_python() -> None:
    for removal in REMOVALS:
        for path, text in _applied(removal).items():
            compile(text, path, "exec")


def test_every_removal_names_tests_that_there_are() -> None:
    for test in {test for removal in REMOVALS for test in removal.tests}:
        file, _, name = test.partition("::")
        assert f"def {name.partition('[')[0] or 'test_'}" in (_ROOT / file).read_text(), test


def test_every_defence_has_a_name_of_its_own() -> None:
    assert len({removal.what for removal in REMOVALS}) == len(REMOVALS)
