/**
 * A browser's own `EventSource`, in headless Chromium, over connections that are cut again and again while messages flow:
 * nothing is lost and nothing comes twice. The page is of another origin than the stream, so CORS is asked for as well.
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
  browser = await launch();
  stentor = await Stentor.start(['--config', file, '--workers', '2', '--log-bytes-max', '128MiB']);
});
after(async () => {
  await browser?.close();
  await stentor?.stop();
});

/** A tab that listens. `window.seen` are the messages as `[data, id]`, `window.begun` what it was told of subscriptions. */
async function tab(address) {
  const page = await tabOf(browser);
  // The console has each cut, and an icon that is not there: what a script throws is another matter.
  page.thrown = [];
  page.on('pageerror', error => page.thrown.push(String(error)));
  await page.goto(`${stentor.page}health`);
  await page.evaluate(address => {
    Object.assign(window, { seen: [], begun: [], opens: 0 });
    window.source = new EventSource(address);
    window.source.onopen = () => { window.opens++; };
    window.source.onmessage = ({ data, lastEventId }) => window.seen.push([data, lastEventId]);
    window.source.addEventListener('binary', ({ data, lastEventId }) => window.seen.push([`binary ${data}`, lastEventId]));
    window.source.addEventListener('subscribed', ({ data }) => window.begun.push(JSON.parse(data)));
  }, address);
  return page;
}

const count = (page, what) => page.evaluate(what => window[what].length, what);
const reaches = (page, what, number) => page.waitForFunction(([what, number]) => window[what].length >= number, [what, number]);

test('an EventSource that is cut off 50 times under load misses nothing and gets nothing twice', async () => {
  // The two seconds and more that the server says would make this long.
  const cuts = await Cuts.before(stentor.host, text => text.replace(/^retry: \d+$/m, 'retry: 5'));
  const topics = ['kept/a', 'kept/b'];
  const publishers = await Promise.all(topics.map(topic => Client.join(stentor.ws(topic, 'mode=pub'))));
  const [one, several] = await Promise.all([
    tab(`http://${cuts.host}/sse/kept/a`),
    tab(`http://${cuts.host}/sse/kept/a?topic=kept/b`),
  ]);
  await reaches(one, 'begun', 1);
  await reaches(several, 'begun', 2);

  const sent = [0, 0];
  const publish = each => publishers.forEach((publisher, at) => {
    for (let i = 0; i < each; i++) publisher.send(`${at} ${sent[at]++} ${'x'.repeat(sent[at] % 7 * 50)}`);
  });
  for (let cut = 0; cut < CUTS; cut++) {
    const before = await Promise.all([count(one, 'begun'), count(several, 'begun')]);
    publish(20);
    // Somewhere among those that are on their way.
    await sleep(Math.random() * 8);
    cuts.cut();
    publish(10);
    await reaches(one, 'begun', before[0] + 1);
    await reaches(several, 'begun', before[1] + 2);
  }
  await reaches(one, 'seen', sent[0]);
  await reaches(several, 'seen', sent[0] + sent[1]);

  for (const [page, of] of [[one, 1], [several, 2]]) {
    const { seen, begun, opens } = await page.evaluate(() => ({ seen: window.seen, begun: window.begun, opens: window.opens }));
    for (let at = 0; at < of; at++) {
      const numbers = seen.map(([data]) => data.split(' ')).filter(([topic]) => topic === String(at)).map(([, number]) => Number(number));
      assert.deepEqual(numbers, Array.from({ length: sent[at] }, (_, i) => i), `topic ${at} of ${of}`);
    }
    assert.ok(opens > CUTS, `${opens} connections`);
    assert.ok(begun.slice(of).every(({ recovered }) => recovered), 'all that was missed is told to be there');
    assert.equal(seen.at(-1)[1].split(',').length, of);
    assert.deepEqual(page.thrown, []);
  }
  publishers.forEach(publisher => publisher.socket.close());
  await Promise.all([one, several].map(page => page.context().close()));
  cuts.stop();
});

test('binary, lines and a foreign origin', async () => {
  const publisher = await Client.join(stentor.ws('plain', 'mode=pub'));
  const page = await tab(`http://${stentor.host}/sse/plain`);
  await reaches(page, 'begun', 1);
  assert.equal((await page.evaluate(() => window.begun))[0].recovered, false);
  for (const message of ['one', 'two\nlines', '', ' space', Buffer.from([0, 255])]) publisher.send(message);
  await reaches(page, 'seen', 5);
  const seen = (await page.evaluate(() => window.seen)).map(([data]) => data);
  assert.deepEqual(seen, ['one', 'two\nlines', '', ' space', 'binary AP8=']);
  // Pages from elsewhere are not on the list of this server.
  const foreign = await (await browser.newContext()).newPage();
  await foreign.route('http://elsewhere.example/', route => route.fulfill({ contentType: 'text/html', body: '<p>elsewhere' }));
  await foreign.goto('http://elsewhere.example/');
  const state = await within('the refusal', foreign.evaluate(address => new Promise(resolve => {
    const source = new EventSource(address);
    source.onerror = () => resolve(source.readyState);
  }), `http://${stentor.host}/sse/plain`));
  assert.equal(state, 2, 'closed for good');
  publisher.socket.close();
  await Promise.all([page, foreign].map(page => page.context().close()));
});
