"""Lists in settings: texts between commas."""

from __future__ import annotations


def split_list(text: str) -> list[str]:
    """The texts between commas, without the white space around them; empty ones are left out."""
    return [item.strip() for item in text.split(",") if item.strip()]
