/**
 * `/client.js` as the server gives it, over connections that are cut again and again while messages flow: nothing is lost
 * and nothing comes twice.
 */

import assert from 'node:assert/strict';
import { mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import WebSocket from 'ws';
import { Cuts } from './cuts.mjs';
import { Client, Stentor, within } from './server.mjs';

const CUTS = 50;
const RULES = '[[topic]]\nmatch = "kept/*"\nhistory = 100_000\nhistory-bytes = "64MiB"\n';

let stentor;
let client;

before(async () => {
  const file = path.join(mkdtempSync(path.join(tmpdir(), 'stentor-')), 'rules.toml');
  writeFileSync(file, RULES);
  stentor = await Stentor.start(['--config', file, '--workers', '2', '--log-bytes-max', '128MiB']);
  const source = await (await fetch(`${stentor.page}client.js`)).text();
  client = await import(`data:text/javascript,${encodeURIComponent(source)}`);
});
after(() => stentor?.stop());

test('a client that is cut off 50 times under load misses nothing and gets nothing twice', async () => {
  const cuts = await Cuts.before(stentor.host);
  const publisher = await Client.join(stentor.ws('kept/feed', 'mode=pub'));
  const socket = new client.Stentor(`ws://${cuts.host}/ws`, { WebSocket, backoffMs: 5, backoffMaxMs: 20 });
  const seen = [];
  let begun;
  const live = new Promise(resolve => { begun = resolve; });
  const lost = [];
  socket.subscribe('kept/feed', ({ data }) => seen.push(Number(data)), { onSubscribed: () => begun(), onLost: gap => lost.push(gap) });
  await within('the subscription', live);

  let number = 0;
  for (let cut = 0; cut < CUTS; cut++) {
    const before = seen.length;
    for (let i = 0; i < 40; i++) publisher.send(String(number++));
    // Somewhere among those that are on their way.
    await sleep(Math.random() * 8);
    cuts.cut();
    for (let i = 0; i < 20; i++) publisher.send(String(number++));
    await within('more messages', (async () => { while (seen.length === before) await sleep(5); })());
  }
  await within('the last message', (async () => { while (seen.length < number) await sleep(5); })());
  assert.deepEqual(seen, Array.from({ length: number }, (_, i) => i));
  assert.deepEqual(lost, []);
  socket.close();
  cuts.stop();
});

test('a publish is answered with its place, and a topic without history says what was lost', async () => {
  const cuts = await Cuts.before(stentor.host);
  const socket = new client.Stentor(`ws://${cuts.host}/ws`, { WebSocket, backoffMs: 50, backoffMaxMs: 60 });
  const seen = [];
  const lost = [];
  const begun = [];
  socket.subscribe('forgetful', ({ data }) => seen.push(data), { onSubscribed: place => begun.push(place), onLost: gap => lost.push(gap) });
  await within('the subscription', (async () => { while (!begun.length) await sleep(5); })());
  const first = await within('the answer', socket.publish('forgetful', { text: 'hi' }));
  assert.equal(first.offset, 1);
  await within('the message', (async () => { while (!seen.length) await sleep(5); })());
  assert.deepEqual(seen, [{ text: 'hi' }]);
  cuts.cut();
  const other = await Client.join(stentor.ws('forgetful', 'mode=pub'));
  other.send('missed');
  await within('the return', (async () => { while (begun.length < 2) await sleep(5); })());
  if (!seen.includes('missed')) assert.equal(lost.length, 1, 'it came back too late, and says so');
  const last = await within('the answer', socket.publish('forgetful', 'again'));
  assert.equal(last.offset, 3);
  await within('the last message', (async () => { while (seen.at(-1) !== 'again') await sleep(5); })());
  socket.close();
  cuts.stop();
});
