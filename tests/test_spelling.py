"""What users read is in one spelling, the American one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.kit import PROJECT
from tests.source_trees import PACKAGES
from tests.test_documented import PAGES

# Names of fields and settings that were published in British spelling, such as `unlabelled`, are not matched.
_BRITISH = re.compile(
    r"\b(labell(ed|ing)|(memor|normal|serial|recogn|summar|quant|initial)is(e|ed|es|ing|ation)|colours?|behaviours?"
    r"|centre[sd]?|neighbours?|grey)\b",
    re.IGNORECASE,
)


def _files(package: str) -> list[Path]:
    return [path for suffix in ("py", "html", "lua") for path in (PROJECT / package).rglob(f"*.{suffix}")]


@pytest.mark.parametrize("package", sorted(PACKAGES))
def test_packages_are_in_american_spelling(package: str) -> None:
    british = {path.name: found[0] for path in _files(package) if (found := _BRITISH.search(path.read_text("utf-8")))}
    assert not british


@pytest.mark.parametrize("page", PAGES)
def test_pages_are_in_american_spelling(page: str) -> None:
    assert not _BRITISH.search((PROJECT / page).read_text("utf-8"))
