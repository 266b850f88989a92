"""A Stentor of one's own: starts the built binary on a free port, stops it and checks how it ended.

STENTOR_BIN names the binary; without it, the dev build of this repository is taken. STENTOR_FLAGS are flags that every
server is started with, so that all of this can be run on another driver: `--driver=uring --direct-descriptors`.
"""

import os
import re
import signal
import subprocess
import threading
from pathlib import Path
from urllib.parse import quote

REPOSITORY = Path(__file__).resolve().parents[2]
TARGET = Path(os.environ.get("CARGO_TARGET_DIR", REPOSITORY / "target"))
BINARY = Path(os.environ.get("STENTOR_BIN", TARGET / "debug" / "stentor"))
FLAGS = os.environ.get("STENTOR_FLAGS", "").split()
# Far more than it takes: reached only where something hangs.
PATIENCE_S = 20


class Stentor:
    """One server process. `host` is its address and port, `log` what it has written so far. `under` is a program
    that starts it."""

    def __init__(self, *flags, listen="127.0.0.1:0", under=()):
        # Who asks for a driver gets that.
        given = [] if "--driver" in flags else FLAGS
        command = [*under, str(BINARY), "--listen", listen, "--drain-timeout", "2s", *given, *flags]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self.log = []
        self._terminated = False
        self._listening = threading.Event()
        self.host = None
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        if not self._listening.wait(PATIENCE_S) or self.host is None:
            self.process.kill()
            raise AssertionError(f"{command} does not listen; its log: {''.join(self.log)}")

    def _read(self):
        for line in self.process.stderr:
            self.log.append(line)
            if found := re.search(r"listening on http://(\S+?)/", line):
                self.host = found[1]
                self._listening.set()
        self._listening.set()

    def ws(self, topic, query=""):
        """The address of a topic; `query` as in `mode=sub&echo=off`."""
        path = "/".join(quote(part, safe="") for part in topic.split("/"))
        return f"ws://{self.host}/ws/{path}" + (f"?{query}" if query else "")

    def http(self, path):
        return f"http://{self.host}{path}"

    def terminate(self):
        """SIGTERM, once: a second one would end the server at once, with another exit code."""
        if not self._terminated and self.process.poll() is None:
            self._terminated = True
            self.process.send_signal(signal.SIGTERM)

    def stop(self):
        """SIGTERM, if that was not sent yet; it must end by itself, and well."""
        self.terminate()
        try:
            code = self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"still running after SIGTERM; its log: {''.join(self.log)}") from None
        self._reader.join(PATIENCE_S)
        assert code == 0, f"exit code {code}; its log: {''.join(self.log)}"
        assert "panicked" not in "".join(self.log)
