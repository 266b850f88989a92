/**
 * The page at `/`, in headless Chromium, as its visitor uses it. Screenshots go to target/outside/.
 */

import assert from 'node:assert/strict';
import { mkdirSync, mkdtempSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, afterEach, before, test } from 'node:test';
import { launch, tabOf } from './browser.mjs';
import { Cuts } from './cuts.mjs';
import { Client, Stentor, TARGET } from './server.mjs';

const SHOTS = path.join(TARGET, 'outside');

let browser;
let stentor;

before(async () => {
  mkdirSync(SHOTS, { recursive: true });
  browser = await launch();
  const rules = path.join(mkdtempSync(path.join(tmpdir(), 'stentor-')), 'rules.toml');
  writeFileSync(rules, '[[topic]]\nmatch = "kept/*"\nhistory = 100\n');
  stentor = await Stentor.start(['--config', rules]);
});
afterEach(() => Promise.all(browser.contexts().map(context => context.close())));
after(async () => {
  await browser?.close();
  await stentor?.stop();
});

/** A connected tab of a visitor of its own. */
async function tab({ at = '', server = stentor, ...options } = {}) {
  const page = await tabOf(browser, options);
  await page.goto(server.page + at);
  await open(page);
  return page;
}

const open = page => page.waitForSelector('#status[data-state=open]');
const last = page => page.locator('#log li:not(.event) .body').last();

async function say(page, text) {
  await page.fill('#text', text);
  await page.press('#text', 'Enter');
}

async function reads(page, text) {
  await page.waitForFunction(text => [...document.querySelectorAll('#log .body')].some(body => body.textContent === text), text);
}

async function subscribe(page, topic, history = '') {
  await page.fill('#topic', topic);
  await page.fill('#history', history);
  await page.press('#topic', 'Enter');
}

/** What the subscriptions are shown as: name and offset. */
const topics = page => page.$$eval('#topics li', all => all.map(item => [...item.querySelectorAll('span')].map(span => span.textContent).join(' ')));

test('what is typed in one tab is read in the other', async () => {
  const [one, other] = [await tab(), await tab()];
  await say(one, 'Привет 🎺');
  for (const page of [one, other]) await reads(page, 'Привет 🎺');
  await other.fill('#text', 'by the button');
  await other.click('#send');
  await reads(one, 'by the button');
  assert.equal(await one.inputValue('#text'), '');
  await one.waitForFunction(() => document.getElementById('sent').textContent === '1');
  assert.equal(await one.textContent('#received'), '2');
  assert.deepEqual(await one.$$eval('#log .offset', all => all.map(offset => offset.textContent)), ['1', '2']);
  assert.deepEqual(await one.$$eval('#topics .place', all => all.map(place => place.textContent)), ['2']);
  assert.equal(await one.isVisible('#welcome'), false);
  for (const page of [one, other]) assert.deepEqual(page.errors, []);
});

test('nothing is requested from outside', async () => {
  const page = await tab();
  await say(page, 'hello');
  await reads(page, 'hello');
  const elsewhere = page.requests.filter(url => !url.startsWith('data:') && new URL(url).host !== stentor.host);
  assert.deepEqual(elsewhere, []);
  assert.deepEqual(page.requests.filter(url => url.startsWith('http')), [stentor.page, `${stentor.page}client.js`]);
  assert.deepEqual(page.errors, []);
});

test('markup is shown as text', async () => {
  const page = await tab({ at: '#markup' });
  const markup = '<script>document.title = "taken"</script><img src=x onerror="document.title = \'taken\'"><b>&amp;</b>';
  await say(page, markup);
  await reads(page, markup);
  assert.equal(await page.locator('#log script, #log img, #log b').count(), 0);
  assert.equal(await page.title(), 'markup · Stentor');
});

test('topics in Cyrillic and emoji are shared through the address', async () => {
  const page = await tab();
  await subscribe(page, 'чат/🎺 1&2');
  await page.waitForFunction(() => document.title === 'чат/🎺 1&2 · Stentor');
  await reads(page, 'Subscribed to чат/🎺 1&2 behind 0');
  const other = await tab({ at: new URL(page.url()).hash });
  await reads(other, 'Subscribed to чат/🎺 1&2 behind 0');
  assert.match((await topics(other)).join(), /^chat\/room1 \d+,чат\/🎺 1&2 0$/);
  const reader = await Client.join(stentor.ws('чат/🎺 1&2'));
  await say(other, 'here');
  await reads(page, 'here');
  assert.equal(await reader.next(), 'here');
  reader.socket.close();
});

test('a name that is no topic is told, and nothing is asked', async () => {
  const page = await tab({ at: '#first' });
  for (const name of ['', 'a*', '_stentor/x', 'я'.repeat(128)]) {
    await subscribe(page, name);
    await page.waitForSelector('#problem:not([hidden])');
    assert.equal(await page.locator('#topics li').count(), 1);
  }
  await subscribe(page, 'fine/../or/not');
  await reads(page, 'Subscribed to fine/../or/not behind 0');
  assert.equal(await page.isVisible('#problem'), false);
});

test('several topics: which a message is of, which one is published to, and an end to one', async () => {
  const page = await tab({ at: '#several/a&several/b' });
  const writer = await Client.join(stentor.ws('several/a', 'mode=pub'));
  writer.send('to a');
  await reads(page, 'to a');
  assert.equal(await page.getAttribute('#text', 'placeholder'), 'Message to several/b');
  await say(page, 'to b');
  await reads(page, 'to b');
  assert.deepEqual(await page.$$eval('#log li:not(.event)', all => all.map(item => item.querySelector('.of').textContent)), ['several/a', 'several/b']);
  await page.click('#topics button:has-text("several/a")');
  await say(page, 'to a again');
  await reads(page, 'to a again');
  assert.deepEqual(await topics(page), ['several/a 2', 'several/b 1']);
  assert.equal(new URL(page.url()).hash, '#several/a&several/b');
  await page.click('[aria-label="Unsubscribe from several/a"]');
  await reads(page, 'Unsubscribed from several/a');
  writer.send('nobody reads this');
  await say(page, 'to b again');
  await reads(page, 'to b again');
  assert.deepEqual(await topics(page), ['several/b 2']);
  assert.equal(await page.locator('#log .body', { hasText: 'nobody reads this' }).count(), 0);
  await page.click('[aria-label="Unsubscribe from several/b"]');
  assert.equal(await page.isDisabled('#send'), true);
  assert.deepEqual(page.errors, []);
  writer.socket.close();
});

test('history comes first, as much as is asked for', async () => {
  const writer = await Client.join(stentor.ws('kept/h', 'mode=pub'));
  for (let i = 1; i <= 10; i++) writer.send(`kept ${i}`);
  const page = await tab({ at: '#elsewhere' });
  await subscribe(page, 'kept/h', '3');
  await reads(page, 'Subscribed to kept/h behind 7');
  await reads(page, 'kept 10');
  assert.deepEqual(await page.$$eval('#log .offset', all => all.map(offset => offset.textContent)), ['8', '9', '10']);
  writer.socket.close();
});

test('after a cut it has what it missed, or says that it has not', async () => {
  const cuts = await Cuts.before(stentor.host);
  const page = await tab({ at: '#kept/c&lost/c', server: { page: `http://${cuts.host}/` } });
  const writers = await Promise.all(['kept/c', 'lost/c'].map(topic => Client.join(stentor.ws(topic, 'mode=pub'))));
  for (const writer of writers) writer.send('before');
  await page.waitForFunction(() => document.querySelectorAll('#log li:not(.event)').length === 2);
  cuts.cut();
  await page.waitForSelector('#status[data-state=waiting]');
  for (const writer of writers) writer.send('meanwhile');
  await open(page);
  await reads(page, 'Subscribed to kept/c behind 1: recovered, nothing is missing');
  await reads(page, 'Subscribed to lost/c behind 2: not recovered');
  await reads(page, 'Lost: messages of lost/c between 1 and 2');
  await reads(page, 'meanwhile');
  assert.deepEqual(await topics(page), ['kept/c 2', 'lost/c 2']);
  for (const writer of writers) writer.socket.close();
  await page.context().close();
  cuts.stop();
});

test('without my own messages', async () => {
  const [me, other] = [await tab({ at: '#others' }), await tab({ at: '#others' })];
  await me.check('#others');
  await me.waitForFunction(() => document.querySelectorAll('#log .event').length === 4);
  await open(me);
  await say(me, 'mine');
  await reads(other, 'mine');
  await say(other, 'theirs');
  await reads(me, 'theirs');
  assert.equal(await me.textContent('#received'), '1');
  assert.equal(await me.textContent('#sent'), '1');
  assert.deepEqual(await topics(me), ['others 2']);
});

test('binary is shown as its size and its beginning', async () => {
  const page = await tab({ at: '#binary' });
  const writer = await Client.join(stentor.ws('binary'));
  writer.send(Buffer.from([0, 1, 0xfe]));
  await reads(page, 'binary, 3 bytes 00 01 fe');
  writer.send(Buffer.alloc(1000));
  await reads(page, 'binary, 1,000 bytes ' + '00 '.repeat(32) + '…');
  writer.socket.close();
});

test('the log keeps the newest 500, and what is long is cut', async () => {
  const page = await tab({ at: '#many' });
  const writer = await Client.join(stentor.ws('many'));
  for (let i = 0; i < 1200; i++) writer.send(`message ${i}`);
  await reads(page, 'message 1199');
  assert.equal(await page.locator('#log li').count(), 500);
  assert.equal(await last(page).textContent(), 'message 1199');
  assert.equal(await page.textContent('#received'), '1,200');
  assert.ok(await page.evaluate(() => { const log = document.getElementById('log'); return log.scrollTop + log.clientHeight > log.scrollHeight - 2; }), 'the newest is in view');
  await page.waitForFunction(() => document.getElementById('rate').textContent !== '0');
  writer.send('🎺'.repeat(200_000));
  await page.waitForFunction(() => /400,000 characters in all/.test(document.querySelector('#log li:last-child').textContent));
  assert.ok((await last(page).textContent()).length < 5000);
  writer.socket.close();
});

test('whoever reads back is not disturbed', async () => {
  const page = await tab({ at: '#back' });
  for (let i = 0; i < 40; i++) await say(page, `line ${i}`);
  await reads(page, 'line 39');
  await page.evaluate(() => { document.getElementById('log').scrollTop = 0; });
  await page.waitForTimeout(100);
  await say(page, 'new');
  await page.waitForSelector('#newest:not([hidden])');
  assert.equal(await page.evaluate(() => document.getElementById('log').scrollTop), 0);
  await page.click('#newest');
  assert.equal(await page.isVisible('#newest'), false);
});

test('disconnect and connect: it goes on where it was', async () => {
  const page = await tab({ at: '#kept/d' });
  await say(page, 'before');
  await reads(page, 'before');
  await page.click('#toggle');
  await page.waitForSelector('#status[data-state=closed]');
  assert.equal(await page.isDisabled('#send'), true);
  assert.equal(await page.textContent('#toggle'), 'Connect');
  const writer = await Client.join(stentor.ws('kept/d', 'mode=pub'));
  writer.send('meanwhile');
  writer.socket.close();
  await writer.closed;
  await page.click('#toggle');
  await open(page);
  await reads(page, 'Subscribed to kept/d behind 1: recovered, nothing is missing');
  await reads(page, 'meanwhile');
});

test('it returns when the server does, unless told not to', async () => {
  let server = await Stentor.start();
  const { host } = server;
  const [returns, stays] = [await tab({ server }), await tab({ server })];
  await server.stop();
  await reads(returns, 'Closed: 1001 the server is stopping');
  await stays.waitForSelector('#status[data-state=waiting]');
  await stays.click('#toggle');
  await stays.waitForSelector('#status[data-state=closed]');
  await returns.waitForFunction(() => /again in \d+ s$/.test(document.getElementById('status').textContent));
  server = await Stentor.start([], host);
  await open(returns);
  await reads(returns, 'chat/room1 has begun anew: what came after 0 is gone');
  await say(returns, 'back again');
  await reads(returns, 'back again');
  assert.equal(await stays.getAttribute('#status', 'data-state'), 'closed');
  await returns.context().close();
  await server.stop();
});

test('every control has a name, and the keyboard reaches it', async () => {
  const page = await tab();
  const nameless = await page.evaluate(() => [...document.querySelectorAll('input, textarea, button, a, ol, ul')]
    .filter(control => !(control.labels?.length || control.ariaLabel || control.textContent.trim()))
    .map(control => control.outerHTML));
  assert.deepEqual(nameless, []);
  assert.equal(await page.evaluate(() => document.documentElement.lang), 'en');
  assert.equal(await page.evaluate(() => document.activeElement.id), 'text');
});

test('screenshots: light, dark, phone', async () => {
  const at = '#chat/room1&prices/eu';
  const shots = {
    light: await tab({ at, colorScheme: 'light' }),
    dark: await tab({ at, colorScheme: 'dark' }),
    phone: await tab({ at, colorScheme: 'light', viewport: { width: 375, height: 700 }, deviceScaleFactor: 2 }),
  };
  const [writer, prices] = await Promise.all(['chat/room1', 'prices/eu'].map(topic => Client.join(stentor.ws(topic))));
  for (const page of Object.values(shots)) await page.click('#topics button:has-text("chat/room1")');
  await say(shots.light, 'Good morning, everybody');
  await reads(shots.dark, 'Good morning, everybody');
  await say(shots.dark, 'Добрый день!');
  await reads(shots.light, 'Добрый день!');
  await say(shots.light, '<script>alert("only text")</script>');
  await reads(shots.dark, '<script>alert("only text")</script>');
  prices.send('{"symbol":"AMBER","price":101.25}');
  writer.send('{"type":"score","home":2,"away":1}');
  writer.send(Buffer.from(Uint8Array.from({ length: 1234 }, (_, i) => i * 7)));
  await reads(shots.light, '{"type":"score","home":2,"away":1}');
  await say(shots.phone, 'A longer message goes on in the next line where the window ends, on a desktop and on a phone.');
  for (const [name, page] of Object.entries(shots)) {
    await reads(page, 'A longer message goes on in the next line where the window ends, on a desktop and on a phone.');
    // The tint of new lines fades, the rate settles.
    await page.waitForTimeout(1600);
    await page.screenshot({ path: path.join(SHOTS, `${name}.png`) });
    const wide = await page.evaluate(() => document.documentElement.scrollWidth > innerWidth || document.documentElement.scrollHeight > innerHeight);
    assert.equal(wide, false, `${name}: the page fits its window`);
  }
  writer.socket.close();
});
