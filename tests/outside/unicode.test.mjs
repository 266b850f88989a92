/** Cyrillic and emoji are the same bytes at the other end: in payloads, topics and close reasons. */

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { Client, Stentor, within } from './server.mjs';

let stentor;
before(async () => { stentor = await Stentor.start(); });
after(() => stentor.stop());

for (const topic of ['чат/комната', '🎺/🇺🇦', 'chat/room 1', 'a&b=c?d#e%f']) {
  test(`topic and payload: ${topic}`, async () => {
    const reader = await Client.join(stentor.ws(topic));
    const writer = await Client.join(stentor.ws(topic, 'echo=off'));
    const elsewhere = await Client.join(stentor.ws('elsewhere'));
    elsewhere.send('not for this topic');
    writer.send('Привет 🎺');
    assert.equal(await reader.next(), 'Привет 🎺');
    for (const client of [reader, writer, elsewhere]) client.socket.close();
  });
}

test('a client closes with a reason', async () => {
  const client = await Client.join(stentor.ws('unicode'));
  client.socket.close(4000, 'Пока 👋');
  const { code } = await within('the answer', client.closed);
  assert.equal(code, 4000);
});

test('text that is no UTF-8 is 1007', async () => {
  const client = await Client.join(stentor.ws('unicode'));
  client.socket.send(Buffer.from([0xd0]), { binary: false });
  assert.equal((await within('the close', client.closed)).code, 1007);
});
