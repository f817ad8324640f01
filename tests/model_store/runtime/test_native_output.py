"""What native libraries print is hidden, unless the work fails."""

from __future__ import annotations

import os
import tempfile

import pytest

from model_store.runtime.native_output import quiet_native


@pytest.fixture(autouse=True)
def nowhere_to_write(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container with a read-only root and no /tmp."""

    def fail() -> None:
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(tempfile, "TemporaryFile", fail)


def test_it_is_hidden(capfd: pytest.CaptureFixture[str]) -> None:
    with quiet_native():
        os.write(1, b"noise")
        os.write(2, b"noise")
    print("answer")
    assert capfd.readouterr() == ("answer\n", "")


def test_it_is_shown_if_the_work_fails(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ValueError, match="bad model"), quiet_native():
        os.write(1, b"the reason")
        raise ValueError("bad model")
    assert capfd.readouterr() == ("", "the reason")
