"""A peer that vanishes without a FIN is gone within ping interval and pong timeout; nobody else notices.

Packets of the vanished are dropped, in both directions, by nft. So this runs as root, in a network namespace of its
own, and is a step of its own in scripts/test (its name keeps it out of the others):

    unshare --net pytest tests/outside/vanished_peers.py
"""

import subprocess
import threading
import time
import urllib.request
from contextlib import ExitStack

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from test_http import total

PING_INTERVAL_S = 1
PONG_TIMEOUT_S = 1
# The server counts in ticks of a tenth of a second, and neither of the two times ends early: that makes up to 0.3 s.
# The rest is for a busy machine.
TICK_S = 0.1
SLACK_S = 0.5
# A live client that waits so long for a message has been held up by the vanished ones.
DELAY_MAX_S = 1
# Reached only where something hangs.
PATIENCE_S = 10

# What a topic's messages make of a socket whose peer takes nothing: nothing waits in it; bytes wait in it; it is full
# (SO_SNDBUF is 64 KiB), so that the subscription is behind and the ping is never sent.
PAYLOAD_BYTES = {"quiet": None, "thin": 64, "wide": 8 << 10}
VANISHING, STAYING = 8, 4
MESSAGES_PER_S = 50


class Peers:
    """Who of the namespace's TCP ports has vanished."""

    def vanish(self, ports):
        """Drops what comes from these ports and what is for them, all of them from the same moment on.

        On arrival, not on departure: there the kernel would tell the sender.
        """
        nft(f"""
            table inet stentor {{
                set vanished {{ type inet_service; elements = {{ {", ".join(map(str, ports))} }} }}
                chain arriving {{
                    type filter hook input priority 0
                    tcp sport @vanished drop
                    tcp dport @vanished drop
                }}
            }}
        """)

    def come_back(self):
        nft("table inet stentor\ndelete table inet stentor")


@pytest.fixture
def peers():
    # Nothing of the machine's own network may be touched. A new namespace has no interface that is up.
    up = subprocess.run(["ip", "-oneline", "link", "show", "up"], check=True, capture_output=True, text=True).stdout
    assert all(" lo: " in line for line in up.splitlines()), "run this as: unshare --net pytest …"
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    peers = Peers()
    yield peers
    peers.come_back()


def nft(rules):
    subprocess.run(["nft", "--file", "-"], input=rules, text=True, check=True)


class Feed(threading.Thread):
    """Publishes numbered messages to a topic until it is stopped. `sent_at[i]`: when message `i` was sent."""

    def __init__(self, client, payload_bytes):
        super().__init__(daemon=True)
        self.client, self.padding = client, "x" * payload_bytes
        self.sent_at = []
        self._ended = threading.Event()
        self.start()

    def run(self):
        while not self._ended.wait(1 / MESSAGES_PER_S):
            self.sent_at.append(time.monotonic())
            self.client.send(f"{len(self.sent_at) - 1} {self.padding}")

    def stop(self):
        self._ended.set()
        self.join(PATIENCE_S)
        assert not self.is_alive(), "the publisher can't send"


class Reader(threading.Thread):
    """A live subscriber: notes each message's number, when it came, and how it was closed, if it was."""

    def __init__(self, client):
        super().__init__(daemon=True)
        self.client = client
        self.received = []
        self.closed = None
        self.start()

    def run(self):
        try:
            while True:
                number = int(self.client.recv().split()[0])
                self.received.append((number, time.monotonic()))
        except ConnectionClosed as closed:
            self.closed = closed

    def has(self, count):
        until(time.monotonic() + PATIENCE_S, lambda: len(self.received) >= count or self.closed)
        assert self.closed is None
        return [number for number, _ in self.received] == list(range(count))


def until(deadline, holds):
    """Waits until `holds`, for no longer than the deadline; whether it does."""
    while not holds():
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.01)
    return True


def unsent_bytes(server):
    """For each client's port that the server has a socket for: bytes that its peer's kernel has not confirmed."""
    server_port = int(server.host.split(":")[1])
    unsent = {}
    with open("/proc/self/net/tcp") as table:
        next(table)
        for line in table:
            _, local, remote, state, queues = line.split()[:5]
            # 0A: it listens.
            if int(local.split(":")[1], 16) == server_port and state != "0A":
                unsent[int(remote.split(":")[1], 16)] = int(queues.split(":")[0], 16)
    return unsent


def metrics(server):
    with urllib.request.urlopen(server.http("/metrics"), timeout=PATIENCE_S) as response:
        text = response.read().decode()
    closed = {}
    for line in text.splitlines():
        if line.startswith("stentor_closed_total{"):
            reason = line.split('reason="')[1].split('"')[0]
            closed[reason] = closed.get(reason, 0) + int(float(line.split()[-1]))
    # Those that asked for the metrics.
    closed.pop("http", None)
    return text, closed


def port(client):
    return client.local_address[1]


def gone_after(server, ports, since, deadline):
    """Seconds after which the server's kernel had no socket for a port any more, for each of them that was closed."""
    gone = {}

    def all_gone():
        there = unsent_bytes(server)
        for port in ports - gone.keys() - there.keys():
            gone[port] = time.monotonic() - since
        return gone.keys() == ports

    until(deadline, all_gone)
    return gone


@pytest.fixture
def join_server():
    """Connects clients, whose own pings are off: only the server's keep them. They need not say goodbye."""
    with ExitStack() as clients:

        def join(url, **options):
            options = {"proxy": None, "ping_interval": None, "close_timeout": 0.1, "max_queue": None, **options}
            return clients.enter_context(connect(url, **options))

        yield join


def test_the_vanished_are_gone_in_time_and_the_living_lose_nothing(start, join_server, peers):
    server = start("--ping-interval", f"{PING_INTERVAL_S}s", "--pong-timeout", f"{PONG_TIMEOUT_S}s")
    vanishing, readers, publishers = {}, {}, {}
    for topic in PAYLOAD_BYTES:
        # They read all that comes, and answer pings, until they vanish.
        vanishing[topic] = {port(join_server(server.ws(topic, "mode=sub"))) for _ in range(VANISHING)}
        readers[topic] = [Reader(join_server(server.ws(topic, "mode=sub"))) for _ in range(STAYING)]
        publishers[topic] = join_server(server.ws(topic, "mode=pub"))
    everybody = set().union(*vanishing.values())
    feeds = {topic: Feed(publishers[topic], size) for topic, size in PAYLOAD_BYTES.items() if size}
    subscribers = len(PAYLOAD_BYTES) * (VANISHING + STAYING)
    # Who vanishes right after a pong is there for longest.
    deadline = time.monotonic() + PING_INTERVAL_S + SLACK_S
    assert until(deadline, lambda: total(metrics(server)[0], "stentor_pongs_received_total") >= subscribers)

    before = time.monotonic()
    peers.vanish(everybody)
    dropped = time.monotonic()
    text, closed = metrics(server)
    assert total(text, "stentor_subscriptions") == subscribers
    assert closed == {}
    time.sleep(0.6 * PONG_TIMEOUT_S)
    # It is as it was meant to be: nobody is gone, bytes wait for those of the feeds.
    unsent = unsent_bytes(server)
    assert everybody <= unsent.keys()
    assert all(0 < unsent[port] < 64 << 10 for port in vanishing["thin"])
    assert all(unsent[port] >= 64 << 10 for port in vanishing["wide"])
    assert total(metrics(server)[0], "stentor_subscriptions_behind") == VANISHING
    within = PING_INTERVAL_S + PONG_TIMEOUT_S + SLACK_S
    gone = gone_after(server, everybody, before, dropped + within)
    for topic, ports in vanishing.items():
        assert ports <= gone.keys(), f"{topic}: after {within} s {len(ports - gone.keys())} are still there"
        times = sorted(gone[port] for port in ports)
        print(f"{topic}: gone after {times[0]:.2f} to {times[-1]:.2f} s")
        # The ping may have been on its way already, the time for the pong is as long as ever.
        assert times[0] >= PONG_TIMEOUT_S - TICK_S

    # The living have been pinged once more since.
    time.sleep(PING_INTERVAL_S + PONG_TIMEOUT_S)
    for feed in feeds.values():
        feed.stop()
    publishers["quiet"].send("0 still here")
    sent_at = {"quiet": [time.monotonic()], **{topic: feed.sent_at for topic, feed in feeds.items()}}
    for topic in PAYLOAD_BYTES:
        for reader in readers[topic]:
            assert reader.has(len(sent_at[topic])), f"{topic}: lost, repeated or out of order"
            assert max(came - sent_at[topic][number] for number, came in reader.received) < DELAY_MAX_S
    text, closed = metrics(server)
    assert closed == {"pong_timeout": len(everybody)}
    assert total(text, "stentor_subscriptions") == len(PAYLOAD_BYTES) * STAYING
    # Subscribers and publishers; it may count who asks for the metrics.
    assert 0 <= total(text, "stentor_connections") - len(PAYLOAD_BYTES) * (STAYING + 1) <= 1
