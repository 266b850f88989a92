"""The commands of docs/http-api.md print what the page says."""

import re
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest

PAGE = Path(__file__).resolve().parents[2] / "docs" / "http-api.md"


def commands():
    """Each command with what is said to be printed."""
    found = []
    for block in re.findall(r"^```console\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.M | re.S):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            else:
                found[-1][1].append(line)
    return [(command, "\n".join(lines)) for command, lines in found]


@pytest.fixture
def stentor(start, tmp_path):
    page = PAGE.read_text(encoding="utf-8")
    [schedule] = re.findall(r"^```toml\n(.*?)^```$", page, re.M | re.S)
    rules = tmp_path / "rules.toml"
    # The schedule of the page is read, and not in the way of its lists.
    rules.write_text('[[topic]]\nmatch = "chat/**"\nhistory = 100\n')
    (tmp_path / "schedule.toml").write_text(schedule)
    start(f"--config={tmp_path / 'schedule.toml'}")
    return start(f"--config={rules}")


def test_commands(stentor):
    address = urlsplit(stentor.http("/")).netloc
    methods = set()
    for command, said in commands():
        methods.add(command.rsplit("/", 1)[1])
        run = command.replace("localhost:8080", address)
        printed = subprocess.run(["bash", "-c", f"{run} --silent --show-error"], capture_output=True, text=True, timeout=20)
        assert printed.returncode == 0, printed.stderr
        pattern = re.escape(said).replace("…", '[^",}]+')
        assert re.fullmatch(pattern, printed.stdout), f"{command}\n{printed.stdout}\ninstead of\n{said}"
    listed = set(re.findall(r"^\| `(\w+)`", PAGE.read_text(encoding="utf-8").split("## Methods")[1], re.M))
    assert methods >= {"publish", "broadcast", "batch", "history", "history_remove", "channels", "subscribe", "disconnect", "info", "schedule", "schedules", "schedule_cancel"} and methods <= listed | {"publish"}
