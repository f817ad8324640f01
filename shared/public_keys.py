"""Public keys of people who sign models, as text: `ed25519:` and the key's 32 bytes in Base64.

In: text from a setting or file. Out: a PublicKey. The signatures themselves are in `model_store.bundle.signatures`.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from dataclasses import dataclass

PREFIX = "ed25519:"
_KEY_BYTES = 32
_ID_DIGITS = 16


@dataclass(frozen=True)
class PublicKey:
    """An Ed25519 public key."""

    raw: bytes

    @classmethod
    def parse(cls, text: str) -> PublicKey:
        """Parse `ed25519:BASE64`.

        Raises:
            ValueError: it is something else. The message doesn't repeat it, because it may be a private key.
        """
        try:
            raw = base64.b64decode(text.removeprefix(PREFIX), validate=True)
        except (binascii.Error, ValueError):  # ValueError: characters that aren't ASCII
            raw = b""
        if not text.startswith(PREFIX) or len(raw) != _KEY_BYTES:
            raise ValueError(
                f"a public key is {PREFIX} and 44 characters of Base64, as `sortline models keygen` prints it"
            )
        return cls(raw)

    @property
    def id(self) -> str:
        """The key's name in messages: the first 16 hexadecimal digits of its SHA-256."""
        return hashlib.sha256(self.raw).hexdigest()[:_ID_DIGITS]

    def __str__(self) -> str:
        return PREFIX + base64.b64encode(self.raw).decode()
