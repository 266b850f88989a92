"""Starts a program for which io_uring is forbidden, as container runtimes forbid it: `without_io_uring.py PROGRAM ARGUMENT...`.

A seccomp filter (seccomp(2)) has `io_uring_setup` fail with EPERM.
"""

import ctypes
import errno
import os
import struct
import sys

IO_URING_SETUP = 425  # The same on all architectures.

PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS, SECCOMP_MODE_FILTER = 22, 38, 2
SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO = 0x7FFF0000, 0x00050000

# What a filter is made of (linux/filter.h): code, jump if true, jump if false, value.
FILTER = [
    (0x20, 0, 0, 0),  # Load the system call's number,
    (0x15, 0, 1, IO_URING_SETUP),  # go on if it is this one, skip one if not.
    (0x06, 0, 0, SECCOMP_RET_ERRNO | errno.EPERM),
    (0x06, 0, 0, SECCOMP_RET_ALLOW),
]


def forbid():
    instructions = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *one) for one in FILTER))
    program = ctypes.create_string_buffer(struct.pack("HP", len(FILTER), ctypes.addressof(instructions)))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    prctl.argtypes = [ctypes.c_int] + [ctypes.c_ulong] * 4
    for arguments in (
        (PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(program), 0, 0),
    ):
        if prctl(*arguments) != 0:
            raise OSError(ctypes.get_errno(), "prctl")


if __name__ == "__main__":
    forbid()
    os.execv(sys.argv[1], sys.argv[1:])
