"""A program: sends its process id to its starter, has its fsyncs watched on demand, then becomes the given command.

    python -m torture.server.exec_server SOCKET plain|watched COMMAND…

`torture.server.server` starts it and listens on the Unix socket SOCKET. It gets one message: the process id
as text and, for `watched`, the file descriptor that `torture.server.fsync_monitor` reads from. Then each fsync and
fdatasync of the command, of its threads and of its children waits for the monitor's answer. This is seccomp's user
notification (man 2 seccomp_unotify), which needs no privileges.
"""

from __future__ import annotations

import ctypes
import os
import platform
import socket
import struct
import sys

# Numbers of the system calls by machine: (seccomp, fsync, fdatasync). Python has no names for them.
_SYSCALLS = {"x86_64": (317, 74, 75), "aarch64": (277, 82, 83)}
# linux/prctl.h, linux/seccomp.h, linux/filter.h
_PR_SET_NO_NEW_PRIVS = 38
_SET_MODE_FILTER = 1
_FLAG_NEW_LISTENER = 1 << 3
_RETURN_ALLOW = 0x7FFF0000
_RETURN_USER_NOTIF = 0x7FC00000
_LOAD_WORD, _JUMP_IF_EQUAL, _RETURN = 0x20, 0x15, 0x06


class _Program(ctypes.Structure):
    """struct sock_fprog."""

    _fields_ = (("length", ctypes.c_ushort), ("instructions", ctypes.c_char_p))


def main(socket_path: str, mode: str, command: list[str]) -> None:
    """Install the filter if it is wanted, send its listener, become the command.

    Raises:
        OSError: the kernel does not allow it.
    """
    descriptors = [_report_fsyncs()] if mode == "watched" else []
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(socket_path)
        socket.send_fds(connection, [str(os.getpid()).encode()], descriptors)
    for descriptor in descriptors:
        os.close(descriptor)
    os.execv(command[0], command)  # noqa: S606  # the embedded server's binary


def _report_fsyncs() -> int:
    """Install a filter that reports each fsync; the file descriptor to listen on."""
    machine = platform.machine()
    if machine not in _SYSCALLS:
        raise OSError(f"unsupported machine {machine}")
    seccomp, fsync, fdatasync = _SYSCALLS[machine]
    instructions = b"".join(
        (
            _instruction(_LOAD_WORD, 0),  # the number of the system call
            _instruction(_JUMP_IF_EQUAL, fsync, if_true=1),
            _instruction(_JUMP_IF_EQUAL, fdatasync, if_false=1),
            _instruction(_RETURN, _RETURN_USER_NOTIF),
            _instruction(_RETURN, _RETURN_ALLOW),
        )
    )
    program = _Program(len(instructions) // 8, instructions)
    libc = ctypes.CDLL(None, use_errno=True)
    # Without it the kernel lets only root install a filter.
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    listener = int(libc.syscall(seccomp, _SET_MODE_FILTER, _FLAG_NEW_LISTENER, ctypes.byref(program)))
    if listener < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return listener


def _instruction(code: int, value: int, *, if_true: int = 0, if_false: int = 0) -> bytes:
    """struct sock_filter; `if_true` and `if_false` are how many instructions a jump skips."""
    return struct.pack("=HBBI", code, if_true, if_false, value)


if __name__ == "__main__":
    try:
        main(sys.argv[1], sys.argv[2], sys.argv[3:])
    except OSError as error:
        sys.exit(f"can't have fsyncs reported ({error}): it takes Linux 5.0 with seccomp, on x86_64 or aarch64.")
