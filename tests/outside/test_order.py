"""Within a topic every subscriber sees the same order, and each publisher's own order is kept."""

import threading

PUBLISHERS, MESSAGES, SUBSCRIBERS = 4, 500, 6


def test_one_order_for_all(join):
    subscribers = [join("order", "mode=sub") for _ in range(SUBSCRIBERS)]
    publishers = [join("order", "mode=pub") for _ in range(PUBLISHERS)]

    def publish(number, publisher):
        for i in range(MESSAGES):
            publisher.send(f"{number} {i}")

    threads = [threading.Thread(target=publish, args=each) for each in enumerate(publishers)]
    for thread in threads:
        thread.start()
    total = PUBLISHERS * MESSAGES
    seen = []
    readers = [
        threading.Thread(target=lambda s=s: seen.append([s.recv(20) for _ in range(total)])) for s in subscribers
    ]
    for thread in readers:
        thread.start()
    for thread in threads + readers:
        thread.join()
    assert len(seen) == SUBSCRIBERS
    assert all(order == seen[0] for order in seen)
    for number in range(PUBLISHERS):
        mine = [text for text in seen[0] if text.startswith(f"{number} ")]
        assert mine == [f"{number} {i}" for i in range(MESSAGES)]
