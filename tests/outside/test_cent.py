"""Centrifugo's own library for Python publishes through /api, unchanged."""

import asyncio
import json

import cent
import pytest
from websockets.sync.client import connect

KEY = "0123456789abcdef"


@pytest.fixture
def stentor(start, tmp_path):
    rules = tmp_path / "rules.toml"
    rules.write_text('[[topic]]\nmatch = "kept/**"\nhistory = 10\n')
    return start(f"--api-key=backend:{KEY}", f"--config={rules}", "--workers=3")


@pytest.fixture
def backend(stentor):
    with cent.Client(stentor.http("/api"), api_key=KEY, timeout=10) as client:
        yield client


def test_publish_and_history(backend, join):
    subscriber = join("kept/a")
    first = backend.publish(cent.PublishRequest(channel="kept/a", data={"x": [1, "ü"]}, tags={"k": "v"}))
    assert json.loads(subscriber.recv(10)) == {"x": [1, "ü"]}
    again = cent.PublishRequest(channel="kept/a", data="once", idempotency_key="key")
    second = backend.publish(again)
    assert (first.offset, second.offset, first.epoch) == (1, 2, second.epoch)
    assert backend.publish(again) == second
    page = backend.history(cent.HistoryRequest(channel="kept/a", limit=10, reverse=True))
    assert [(item.offset, item.data) for item in page.publications] == [(2, "once"), (1, {"x": [1, "ü"]})]
    assert page.publications[1].tags == {"k": "v"}
    since = cent.StreamPosition(offset=1, epoch=page.epoch)
    rest = backend.history(cent.HistoryRequest(channel="kept/a", limit=10, since=since))
    assert [item.offset for item in rest.publications] == [2]
    backend.history_remove(cent.HistoryRemoveRequest(channel="kept/a"))
    assert backend.history(cent.HistoryRequest(channel="kept/a", limit=10)).publications == []


def test_broadcast_channels_and_info(backend, join):
    clients = [join("a"), join("b")]
    sent = backend.broadcast(cent.BroadcastRequest(channels=["a", "b"], data="all"))
    assert [response.result.offset for response in sent.responses] == [1, 1]
    assert [client.recv(10) for client in clients] == ["all", "all"]
    channels = backend.channels(cent.ChannelsRequest(pattern="*")).channels
    assert {name: info.num_clients for name, info in channels.items()} == {"a": 1, "b": 1}
    [node] = backend.info(cent.InfoRequest()).nodes
    assert node.num_clients >= 2 and node.num_channels == 2


def test_batch(backend):
    requests = [cent.PublishRequest(channel="kept/b", data={"i": i}) for i in range(3)]
    requests.append(cent.HistoryRequest(channel="kept/b", limit=10))
    replies = backend.batch(cent.BatchRequest(requests=requests)).replies
    assert [reply.offset for reply in replies] == [1, 2, 3, 3]
    assert [item.data for item in replies[3].publications] == [{"i": 0}, {"i": 1}, {"i": 2}]


def test_subscribe_and_disconnect(backend, stentor):
    # A connection is told its name by the JSON dialect.
    with connect(stentor.ws("mine", "format=json"), proxy=None) as client:
        name = json.loads(client.recv(10))["client"]
        backend.subscribe(cent.SubscribeRequest(user="", client=name, channel="given"))
        assert json.loads(client.recv(10))["subscribed"] == "given"
        backend.publish(cent.PublishRequest(channel="given", data=1))
        assert json.loads(client.recv(10))["data"] == "1"
        backend.unsubscribe(cent.UnsubscribeRequest(user="", client=name, channel="given"))
        assert json.loads(client.recv(10)) == {"unsubscribed": "given"}
        leave = cent.Disconnect(code=4000, reason="bye")
        backend.disconnect(cent.DisconnectRequest(user="", client=name, disconnect=leave))
        with pytest.raises(Exception, match="4000"):
            client.recv(10)


def test_errors(backend, stentor):
    with pytest.raises(cent.CentApiResponseError) as refused:
        backend.publish(cent.PublishRequest(channel="", data=1))
    assert refused.value.code == 107
    with pytest.raises(cent.CentApiResponseError) as refused:
        backend.presence(cent.PresenceRequest(channel="a"))
    assert refused.value.code == 108
    with cent.Client(stentor.http("/api"), api_key="wrong-0123456789") as stranger:
        with pytest.raises(cent.CentUnauthorizedError):
            stranger.info(cent.InfoRequest())


def test_many_at_once(stentor, join):
    subscriber = join("many")

    async def publish():
        async with cent.AsyncClient(stentor.http("/api"), api_key=KEY) as client:
            calls = [client.publish(cent.PublishRequest(channel="many", data=str(i))) for i in range(200)]
            return [result.offset for result in await asyncio.gather(*calls)]

    offsets = asyncio.run(publish())
    assert sorted(offsets) == list(range(1, 201))
    received = [subscriber.recv(10) for _ in range(200)]
    by_offset = [str(i) for _, i in sorted(zip(offsets, range(200)))]
    assert received == by_offset
