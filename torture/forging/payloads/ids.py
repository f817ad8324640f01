"""Ids of jobs that RQ would never give."""

from __future__ import annotations

# Each is forged as it is, and again with an ending that makes it new.
ODD_IDS: tuple[bytes, ...] = (
    b"",
    b" ",
    b"\t",
    b"\n",
    b"\r\n",
    b":",
    b"::",
    b"a:",
    b":a",
    b"a:b:c",
    b"\x00",
    b"a\x00b",
    b"\xff\xfe",
    b"\xc0\xaf",  # an overlong form of a slash
    b"\xed\xa0\x80",  # half a surrogate pair in UTF-8
    b"\xef\xbb\xbfid",
    b"x\n2026-01-01T00:00:00Z ERROR sortline.pipeline: forged line",
    b"\x1b[31mred\x1b[0m",
    b"\x1b]0;owned\x07",
    b"\x1b[2J\x1b[H",
    b"\xc2\x9b31m",  # CSI as one character
    b"\xe2\x80\xaegpj.exe",  # text that runs backwards
    b"\xe2\x80\xa8line",
    b"\x7f\x08\x08",
    b"*",
    b"?",
    b"[a-z]*",
    b"\\*",
    b"{}",
    b"{live}",
    b"{0.__class__}",
    b"%s%s%n%d",
    b"${HOME}",
    b"$(id)",
    b"`id`",
    b"; FLUSHALL",
    b"\r\nFLUSHALL\r\n",
    b"' or '1'='1",
    b"<script>alert(1)</script>",
    b"=1+1",
    b"../../etc/passwd",
    b"/dev/zero",
    b"sortline:image:x",
    b"rq:job:x",
    b"rq:queue:live",
    b"job:exec",
    b"live:0",
    b"-1",
    b"NaN",
    b"null",
    b"i" * 65,
    b"i" * 10_000,
    b"i" * 1_000_000,
    "ид".encode(),
    "🍾".encode(),
)
# Ids that make another key of RQ's look like that of a job.
KEY_ENDINGS = ("dependents", "dependencies", "exec", "results")
