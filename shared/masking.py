"""Hides the passwords of URLs in everything that is shown, logged or raised."""

from __future__ import annotations

import re

# Not urlsplit: it would take a part of a password with an unescaped `/`, `#` or `?` for the path, and not mask it. Only
# a user that is followed by a colon is shown: what is there without one may be a password. Other URLs than Redis's may
# have an @ in their paths.
_LOGIN = re.compile(r"(?<=://)(?:([^:@/]*:).*|(?:(?<=redis://)|(?<=rediss://)).*|[^/]*)@", re.DOTALL)
_QUERY_PASSWORD = re.compile(r"([?&]password=)[^&#]*")


def masked(value: object) -> object:
    """The value with the passwords of a URL replaced by `***`, even if they are not properly escaped."""
    if not isinstance(value, str) or "://" not in value:
        return value
    return _QUERY_PASSWORD.sub(r"\1***", _LOGIN.sub(r"\1***@", value))
