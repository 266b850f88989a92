"""A hundred clients on one topic: each gets each message once, all in one order."""

import asyncio

from websockets.asyncio.client import connect

CLIENTS, MESSAGES = 100, 30


async def hundred(server):
    address = server.ws("many/🎺")
    clients = await asyncio.gather(*(connect(address, proxy=None) for _ in range(CLIENTS)))
    try:
        publishers = clients[:10]
        await asyncio.gather(
            *(client.send(f"{n} {i}") for n, client in enumerate(publishers) for i in range(MESSAGES))
        )
        total = len(publishers) * MESSAGES

        async def read(client):
            return [await asyncio.wait_for(client.recv(), 20) for _ in range(total)]

        seen = await asyncio.gather(*(read(client) for client in clients))
        assert sorted(seen[0]) == sorted(f"{n} {i}" for n in range(10) for i in range(MESSAGES))
        assert all(order == seen[0] for order in seen)
        # Nothing twice, nothing left over: the next message is the next one published.
        await clients[-1].send("last")
        for client in clients:
            assert await asyncio.wait_for(client.recv(), 20) == "last"
    finally:
        await asyncio.gather(*(client.close() for client in clients))


def test_a_hundred_clients(stentor):
    asyncio.run(hundred(stentor))
