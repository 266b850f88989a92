"""What can't be served is refused before the upgrade, with a status and a sentence that says what to do."""

import urllib.error
import urllib.request

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect


def refusal(address, **options):
    with pytest.raises(InvalidStatus) as refused:
        connect(address, proxy=None, **options)
    response = refused.value.response
    assert len(response.body.split()) > 2, "a refusal is a sentence"
    return response.status_code


def status(request):
    with pytest.raises(urllib.error.HTTPError) as refused, urllib.request.urlopen(request):
        pass
    with refused.value as response:
        return response.code


@pytest.mark.parametrize("path", ["/ws/", "/ws/a*", "/ws/_stentor/x", "/ws/" + "a" * 256, "/ws/%00", "/ws/%ff"])
def test_names_that_are_no_topics(stentor, path):
    assert refusal(f"ws://{stentor.host}{path}") == 400


def test_nothing_is_there(stentor):
    assert refusal(f"ws://{stentor.host}/elsewhere") == 404


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost.evil.example"])
def test_pages_from_elsewhere(stentor, origin):
    assert refusal(stentor.ws("chat"), origin=origin) == 403


def test_a_name_that_was_made_to_point_here(stentor):
    request = urllib.request.Request(stentor.http("/"), headers={"Host": "evil.example"})
    assert status(request) == 403


def test_anonymous_clients_as_the_operator_says(start):
    listening = start("--anonymous", "subscribe")
    assert refusal(listening.ws("chat", "mode=pub")) == 403
    closed = start("--anonymous", "none")
    assert refusal(closed.ws("chat")) == 403


def test_a_plain_request_for_a_topic(stentor):
    assert status(stentor.http("/ws/chat")) in (400, 426)
