"""?mode= and ?echo= do what they say; what is not known is refused."""

import pytest
from websockets.exceptions import ConnectionClosed, InvalidStatus


def test_sub_receives_and_may_not_publish(join):
    subscriber = join("mode", "mode=sub")
    join("mode").send("for all")
    assert subscriber.recv(10) == "for all"
    subscriber.send("not allowed")
    with pytest.raises(ConnectionClosed) as closed:
        subscriber.recv(10)
    assert closed.value.rcvd.code == 1008


def test_pub_publishes_and_receives_nothing(join):
    reader, publisher = join("mode"), join("mode", "mode=pub")
    publisher.send("one")
    assert reader.recv(10) == "one"
    reader.send("two")
    assert reader.recv(10) == "two"
    # A pong comes after whatever was under way before it.
    assert publisher.ping().wait(10)
    with pytest.raises(TimeoutError):
        publisher.recv(0.3)


@pytest.mark.parametrize("query", ["", "mode=both", "echo=on", "mode=both&echo=on"])
def test_both_with_echo_is_the_default(join, query):
    client = join("mode", query)
    client.send("mine")
    assert client.recv(10) == "mine"


def test_echo_off_leaves_out_my_own_only(join):
    with_echo, without, me = join("mode"), join("mode", "echo=off"), join("mode", "echo=off")
    for i in range(10):
        # In turns, so that the order is known.
        me.send(f"mine {i}")
        assert with_echo.recv(10) == without.recv(10) == f"mine {i}"
        with_echo.send(f"echoed {i}")
        assert with_echo.recv(10) == without.recv(10) == me.recv(10) == f"echoed {i}"
        without.send(f"theirs {i}")
        assert with_echo.recv(10) == me.recv(10) == f"theirs {i}"


@pytest.mark.parametrize("query", ["mode=all", "mode=", "echo=maybe"])
def test_unknown_values_are_refused(join, query):
    with pytest.raises(InvalidStatus) as refused:
        join("mode", query)
    assert refused.value.response.status_code == 400
    assert query.split("=")[0].encode() in refused.value.response.body
