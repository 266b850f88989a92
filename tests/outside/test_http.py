"""/health and /metrics answer plain HTTP; the figures tell of the clients that are there."""

import urllib.request


def fetch(server, path):
    with urllib.request.urlopen(server.http(path), timeout=10) as response:
        return response, response.read().decode()


def total(text, name):
    return sum(float(line.split()[-1]) for line in text.splitlines() if line.startswith((name + "{", name + " ")))


def test_health(stentor):
    response, text = fetch(stentor, "/health")
    assert (response.status, text) == (200, "ok\n")


def test_metrics(stentor, join):
    clients = [join("metrics") for _ in range(3)]
    clients[0].send("counted")
    for client in clients:
        assert client.recv(10) == "counted"
    response, text = fetch(stentor, "/metrics")
    assert "openmetrics" in response.headers["Content-Type"]
    assert text.endswith("# EOF\n")
    assert total(text, "stentor_topics_all") == 1
