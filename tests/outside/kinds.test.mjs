/** Text stays text and binary stays binary, in one frame or in fragments, through topics and through /echo. */

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { Client, Stentor } from './server.mjs';

let stentor;
before(async () => { stentor = await Stentor.start(); });
after(() => stentor.stop());

for (const [name, address] of [['a topic', () => stentor.ws('kinds')], ['/echo', () => `ws://${stentor.host}/echo`]]) {
  test(`messages of ${name} come back as they were`, async () => {
    const client = await Client.join(address());
    assert.equal(client.socket.extensions, '', 'no extension is agreed');
    for (const message of ['text', Buffer.from('binary'), '', Buffer.alloc(0), 'я'.repeat(40_000), Buffer.alloc(1 << 20, 7)]) {
      client.send(message);
      assert.deepEqual(await client.next(), message);
    }
    client.socket.close();
  });

  test(`fragments through ${name}, with a ping between them`, async () => {
    const client = await Client.join(address());
    const pong = new Promise(resolve => client.socket.once('pong', data => resolve(data.toString())));
    client.send('При', { fin: false });
    client.socket.ping('между');
    client.send('вет', { fin: false });
    client.send('', { fin: true });
    assert.equal(await pong, 'между');
    assert.equal(await client.next(), 'Привет');
    client.socket.close();
  });
}
