"""Figures as the cells of a table."""

from __future__ import annotations


def words(name: str) -> str:
    """A record's key as words."""
    return name.replace("_", " ")


def milliseconds(value: float) -> str:
    """A time with a decimal, if it is short."""
    return f"{value:,.1f}" if value < 1000 else f"{value:,.0f}"


def spread_cells(figures: dict[str, float], *, form: str = ",.0f") -> tuple[str, str]:
    """Median, and minimum to maximum."""
    return f"{figures['median']:{form}}", f"{figures['min']:{form}}-{figures['max']:{form}}"


def share(value: float | None) -> str:
    """A share in percent; `-` if it isn't known, or makes no sense here."""
    return "-" if value is None else f"{value:.0%}"


def ratio(value: float | None) -> str:
    """A ratio; `-` if it isn't known, or makes no sense here."""
    return "-" if value is None else f"{value:.2f}"


def counts(found: dict[str, int]) -> str:
    """The counts that aren't 0, e.g. `late 3, expired 12`; `none` if there are none."""
    return ", ".join(f"{words(name)} {count:,}" for name, count in found.items() if count) or "none"
