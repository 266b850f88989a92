/** Each end has its code: the server's stop, a message too big, a client that only may listen. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Client, Stentor, within } from './server.mjs';

test('SIGTERM is 1001 for every client, and exit code 0', async () => {
  const stentor = await Stentor.start();
  const clients = await Promise.all(Array.from({ length: 40 }, (_, i) => Client.join(stentor.ws(`ending/${i % 7}`))));
  await stentor.stop();
  for (const client of clients) assert.equal((await within('the close', client.closed)).code, 1001);
});

test('too big is 1009, before the message is whole', async () => {
  const stentor = await Stentor.start(['--max-message-bytes', '1KiB']);
  const client = await Client.join(stentor.ws('ending'));
  client.send('x'.repeat(1024));
  assert.equal((await client.next()).length, 1024);
  client.send('x'.repeat(600), { fin: false });
  client.send('x'.repeat(600), { fin: false });
  assert.equal((await within('the close', client.closed)).code, 1009);
  await stentor.stop();
});

test('a subscriber that publishes is 1008', async () => {
  const stentor = await Stentor.start();
  const client = await Client.join(stentor.ws('ending', 'mode=sub'));
  client.send('not allowed');
  const { code, reason } = await within('the close', client.closed);
  assert.equal(code, 1008);
  assert.match(reason, /only subscribe/);
  await stentor.stop();
});
