"""Fixtures of the stories."""

from __future__ import annotations

from tests.e2e.roles_kit import plant

__all__ = ["plant"]
