/**
 * The page at `/`, in headless Chromium, as its visitor uses it. Screenshots go to target/outside/.
 */

import assert from 'node:assert/strict';
import { mkdirSync } from 'node:fs';
import path from 'node:path';
import { after, afterEach, before, test } from 'node:test';
import { launch, tabOf } from './browser.mjs';
import { Client, Stentor, TARGET } from './server.mjs';

const SHOTS = path.join(TARGET, 'outside');

let browser;
let stentor;

before(async () => {
  mkdirSync(SHOTS, { recursive: true });
  browser = await launch();
  stentor = await Stentor.start();
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
const last = page => page.locator('#log li:not(.event) > span').last();

async function say(page, text) {
  await page.fill('#text', text);
  await page.press('#text', 'Enter');
}

async function reads(page, text) {
  await page.waitForFunction(text => [...document.querySelectorAll('#log li > span')].some(span => span.textContent === text), text);
}

test('what is typed in one tab is read in the other', async () => {
  const [one, other] = [await tab(), await tab()];
  await say(one, 'Привет 🎺');
  for (const page of [one, other]) await reads(page, 'Привет 🎺');
  await other.fill('#text', 'by the button');
  await other.click('#send');
  await reads(one, 'by the button');
  assert.equal(await one.inputValue('#text'), '');
  assert.equal(await one.textContent('#sent'), '1');
  assert.equal(await one.textContent('#received'), '2');
  assert.equal(await one.isVisible('#welcome'), false);
  for (const page of [one, other]) assert.deepEqual(page.errors, []);
});

test('nothing is requested from outside', async () => {
  const page = await tab();
  await say(page, 'hello');
  await reads(page, 'hello');
  const elsewhere = page.requests.filter(url => !url.startsWith('data:') && new URL(url).host !== stentor.host);
  assert.deepEqual(elsewhere, []);
  assert.deepEqual(page.requests.filter(url => url.startsWith('http')), [stentor.page]);
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
  await page.fill('#topic', 'чат/🎺 1');
  assert.equal(await page.textContent('#toggle'), 'Switch');
  await page.press('#topic', 'Enter');
  await page.waitForFunction(() => document.title === 'чат/🎺 1 · Stentor');
  await open(page);
  const other = await tab({ at: new URL(page.url()).hash });
  assert.equal(await other.inputValue('#topic'), 'чат/🎺 1');
  const reader = await Client.join(stentor.ws('чат/🎺 1'));
  await say(other, 'here');
  await reads(page, 'here');
  assert.equal(await reader.next(), 'here');
  reader.socket.close();
});

test('a name that is no topic is told, and nothing is asked', async () => {
  const page = await tab();
  for (const name of ['', 'a*', '_stentor/x', 'я'.repeat(128), 'a/../b']) {
    await page.fill('#topic', name);
    await page.click('#toggle');
    await page.waitForSelector('#problem:not([hidden])');
    assert.equal(await page.getAttribute('#status', 'data-state'), 'closed');
    assert.equal(await page.isDisabled('#send'), true);
  }
  await page.fill('#topic', 'fine');
  await page.press('#topic', 'Enter');
  await open(page);
  assert.equal(await page.isVisible('#problem'), false);
});

test('without my own messages', async () => {
  const [me, other] = [await tab({ at: '#others' }), await tab({ at: '#others' })];
  await me.check('#others');
  await me.waitForFunction(() => document.querySelectorAll('#log .event').length === 2);
  await open(me);
  await say(me, 'mine');
  await reads(other, 'mine');
  await say(other, 'theirs');
  await reads(me, 'theirs');
  assert.equal(await me.textContent('#received'), '1');
  assert.equal(await me.textContent('#sent'), '1');
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

test('disconnect and connect', async () => {
  const page = await tab();
  await page.click('#toggle');
  await page.waitForSelector('#status[data-state=closed]');
  assert.equal(await page.isDisabled('#send'), true);
  assert.equal(await page.textContent('#toggle'), 'Connect');
  await page.click('#toggle');
  await open(page);
});

test('it returns when the server does, unless told not to', async () => {
  let server = await Stentor.start();
  const { host } = server;
  const [returns, stays] = [await tab({ server }), await tab({ server })];
  await stays.uncheck('#reconnect');
  await server.stop();
  await reads(returns, 'Closed: 1001 the server is stopping');
  await stays.waitForSelector('#status[data-state=closed]');
  assert.match(await stays.textContent('#status'), /closed 1001 the server is stopping$/);
  await returns.waitForFunction(() => /again in \d+ s$/.test(document.getElementById('status').textContent));
  server = await Stentor.start([], host);
  await open(returns);
  await say(returns, 'back again');
  await reads(returns, 'back again');
  assert.equal(await stays.getAttribute('#status', 'data-state'), 'closed');
  await returns.context().close();
  await server.stop();
});

test('every control has a name, and the keyboard reaches it', async () => {
  const page = await tab();
  const nameless = await page.evaluate(() => [...document.querySelectorAll('input, textarea, button, a, ol')]
    .filter(control => !(control.labels?.length || control.ariaLabel || control.textContent.trim()))
    .map(control => control.outerHTML));
  assert.deepEqual(nameless, []);
  assert.equal(await page.evaluate(() => document.documentElement.lang), 'en');
  assert.equal(await page.evaluate(() => document.activeElement.id), 'text');
});

test('screenshots: light, dark, phone', async () => {
  const at = '#chat/room1';
  const shots = {
    light: await tab({ at, colorScheme: 'light' }),
    dark: await tab({ at, colorScheme: 'dark' }),
    phone: await tab({ at, colorScheme: 'light', viewport: { width: 375, height: 700 }, deviceScaleFactor: 2 }),
  };
  const writer = await Client.join(stentor.ws('chat/room1'));
  await say(shots.light, 'Good morning, everybody');
  await reads(shots.dark, 'Good morning, everybody');
  await say(shots.dark, 'Добрый день! 🎺');
  await reads(shots.light, 'Добрый день! 🎺');
  await say(shots.light, '<script>alert("only text")</script>');
  await reads(shots.dark, '<script>alert("only text")</script>');
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
