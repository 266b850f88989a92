"""Cyrillic and emoji are the same bytes at the other end: in payloads, topics and close reasons."""

import pytest
from websockets.sync.client import connect

TEXTS = ["Привет, мир", "🎺👩‍👩‍👧‍👦🇺🇦", "e\u0301 ≠ é", "\u0000 \ufeff \U0010ffff", "日本語 العربية हिन्दी"]
TOPICS = ["чат/комната 1", "🎺", "news/🇺🇦/спорт", "100%/a+b?c#d", "я" * 127]


def test_payloads(join):
    reader, writer = join("unicode"), join("unicode", "echo=off")
    for text in TEXTS:
        writer.send(text)
        assert reader.recv(10) == text


@pytest.mark.parametrize("topic", TOPICS)
def test_topics(join, topic):
    reader, elsewhere = join(topic), join("elsewhere")
    join(topic).send("here")
    join("elsewhere").send("there")
    assert reader.recv(10) == "here"
    assert elsewhere.recv(10) == "there"


def test_one_topic_whatever_its_spelling(stentor, join):
    reader = join("chat/room1")
    with connect(f"ws://{stentor.host}/ws/%63hat/%72oom1", proxy=None) as writer:
        writer.send("the same")
    assert reader.recv(10) == "the same"


@pytest.mark.parametrize("reason", ["Пока 👋", "", "я" * 61])
def test_close_reasons(join, reason):
    client = join("unicode")
    client.close(4321, reason)
    assert client.protocol.close_rcvd_then_sent is False
    assert (client.protocol.close_rcvd.code, client.protocol.close_rcvd.reason) in [(4321, reason), (4321, "")]
