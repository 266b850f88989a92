/**
 * `/client.js` on a page in headless Chromium, with the browser's own WebSocket, over connections that are cut again and
 * again while messages flow: nothing is lost and nothing comes twice. The twin of resume.test.mjs.
 */

import assert from 'node:assert/strict';
import { mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { launch, tabOf } from './browser.mjs';
import { Cuts } from './cuts.mjs';
import { Client, Stentor, within } from './server.mjs';

const CUTS = 50;
const RULES = '[[topic]]\nmatch = "kept/*"\nhistory = 100_000\nhistory-bytes = "64MiB"\n';

let browser;
let stentor;

before(async () => {
  const file = path.join(mkdtempSync(path.join(tmpdir(), 'stentor-')), 'rules.toml');
  writeFileSync(file, RULES);
  stentor = await Stentor.start(['--config', file, '--workers', '2', '--log-bytes-max', '128MiB']);
  browser = await launch();
});
after(async () => {
  await browser?.close();
  await stentor?.stop();
});

test('a page that is cut off 50 times under load misses nothing and gets nothing twice', async () => {
  const cuts = await Cuts.before(stentor.host);
  const publisher = await Client.join(stentor.ws('kept/feed', 'mode=pub'));
  const page = await tabOf(browser);
  await page.goto(`http://${cuts.host}/`);
  await page.evaluate(async () => {
    const { Stentor } = await import('/client.js');
    Object.assign(window, { seen: [], lost: [], opened: 0 });
    const client = new Stentor('/ws', { backoffMs: 5, backoffMaxMs: 20, onState: ({ state }) => { if (state === 'open') window.opened++; } });
    await new Promise(begun => client.subscribe('kept/feed', ({ data }) => window.seen.push(Number(data)), {
      onSubscribed: begun, onLost: gap => window.lost.push(gap),
    }));
  });

  const seen = () => page.evaluate(() => window.seen.length);
  const until = count => within(`${count} messages`, (async () => { while (await seen() < count) await sleep(5); })());
  let number = 0;
  for (let cut = 0; cut < CUTS; cut++) {
    const before = await seen();
    for (let i = 0; i < 40; i++) publisher.send(String(number++));
    // Somewhere among those that are on their way.
    await sleep(Math.random() * 8);
    cuts.cut();
    for (let i = 0; i < 20; i++) publisher.send(String(number++));
    await until(before + 1);
  }
  await until(number);
  const result = await page.evaluate(() => ({ seen: window.seen, lost: window.lost, opened: window.opened }));
  assert.deepEqual(result.seen, Array.from({ length: number }, (_, i) => i));
  assert.deepEqual(result.lost, []);
  // One that was cut before it was open is none.
  assert.ok(result.opened > CUTS / 2, `${result.opened} connections`);
  await page.context().close();
  cuts.stop();
});
