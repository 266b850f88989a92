/** The first offered subprotocol that the operator listed is confirmed; without one the handshake stands. */

import assert from 'node:assert/strict';
import { test } from 'node:test';
import WebSocket from 'ws';
import { Client, Stentor, within } from './server.mjs';

test('listed subprotocols', async () => {
  const stentor = await Stentor.start(['--subprotocol', 'chat.v2', '--subprotocol', 'chat.v1']);
  for (const [offered, confirmed] of [[['chat.v1'], 'chat.v1'], [['other', 'chat.v2', 'chat.v1'], 'chat.v2'], [['chat.v1', 'chat.v2'], 'chat.v1']]) {
    const client = await Client.join(stentor.ws('subprotocol'), offered);
    assert.equal(client.socket.protocol, confirmed);
    client.send('hello');
    assert.equal(await client.next(), 'hello');
    client.socket.close();
  }
  const plain = await Client.join(stentor.ws('subprotocol'));
  assert.equal(plain.socket.protocol, '');
  plain.socket.close();
  await stentor.stop();
});

test('none that is known: no subprotocol in the answer, and the client gives up', async () => {
  const stentor = await Stentor.start();
  const socket = new WebSocket(stentor.ws('subprotocol'), ['unknown']);
  const error = await within('the client to give up', new Promise(resolve => socket.once('error', resolve)));
  assert.match(error.message, /no subprotocol/i);
  await stentor.stop();
});
