"""Where io_uring is forbidden: a server that needs it does not start and says what to do, any other runs on epoll."""

import subprocess
import sys
from pathlib import Path

import pytest
from websockets.sync.client import connect

from server import BINARY, PATIENCE_S

UNDER = [sys.executable, str(Path(__file__).with_name("without_io_uring.py"))]


@pytest.mark.parametrize("flags", [[], ["--direct-descriptors"]])
def test_a_server_that_needs_it_says_what_to_do(flags):
    command = [*UNDER, str(BINARY), "--listen", "127.0.0.1:0", "--driver", "uring", *flags]
    ended = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE_S)
    assert (ended.returncode, ended.stdout) == (2, "")
    (line,) = ended.stderr.splitlines()
    assert line.startswith("stentor: --driver uring: ")
    for advice in ("kernel.io_uring_disabled", "seccomp", "--driver epoll"):
        assert advice in line


def test_any_other_runs_on_epoll_and_says_so(start):
    server = start("--driver", "auto", under=UNDER)
    with connect(server.ws("t"), proxy=None) as client:
        client.send("hello")
        assert client.recv(PATIENCE_S) == "hello"
    (line,) = (line for line in server.log if "sockets are moved by" in line)
    assert "epoll" in line and "--driver auto" in line
