/**
 * examples/chat in headless Chromium, as people use it. Screenshots go to target/outside/.
 */

import assert from 'node:assert/strict';
import { mkdirSync } from 'node:fs';
import path from 'node:path';
import { after, afterEach, before, beforeEach, test } from 'node:test';
import { launch, tabOf } from './browser.mjs';
import { Cuts } from './cuts.mjs';
import { Stentor, TARGET } from './server.mjs';

const SHOTS = path.join(TARGET, 'outside');
/** So seldom that no test sees one that does not wait for it. */
const NEVER = '100000';

let browser;
let chat;

before(async () => {
  mkdirSync(SHOTS, { recursive: true });
  browser = await launch();
});
beforeEach(async () => { chat = await Stentor.example('chat', '127.0.0.1:0', NEVER); });
afterEach(async () => {
  await Promise.all(browser.contexts().map(context => context.close()));
  await chat.stop();
});
after(() => browser?.close());

/** A tab that is connected; with a name it has joined. */
async function tab({ name, at = chat.page, ...options } = {}) {
  const page = await tabOf(browser, options);
  await page.goto(at);
  await open(page);
  if (name !== undefined) await call(page, name);
  return page;
}

const open = page => page.waitForSelector('#status[data-state=open]');

async function call(page, name) {
  await page.fill('#name', name);
  await page.press('#name', 'Enter');
  await page.waitForFunction(name => document.getElementById('me').textContent === name, name);
}

async function say(page, text) {
  await page.fill('#text', text);
  await page.press('#text', 'Enter');
}

/** What the page shows, line by line: `Ada: hello` for messages, the text for what the server says; without days and times. */
const lines = page => page.evaluate(() => {
  let name = '';
  return [...document.querySelectorAll('#messages > li')].flatMap(item => {
    if (item.matches('.event')) return /^\d+ \S+$|^\w+ \d+$/.test(item.textContent) ? [] : [item.textContent];
    name = item.querySelector('.name')?.textContent ?? name;
    return [`${name}: ${item.querySelector('.text').firstChild.textContent}`];
  });
});

async function reads(page, line, times = 1) {
  const until = Date.now() + 20_000;
  let seen;
  do {
    seen = await lines(page);
    if (seen.filter(one => one === line).length === times) return;
    await page.waitForTimeout(20);
  } while (Date.now() < until);
  assert.fail(`${times} × ${line} in ${JSON.stringify(seen)}`);
}

test('two tabs: who comes, what is said, who is called otherwise, who goes', async () => {
  const [ada, boris] = [await tab({ name: 'Ada' }), await tab({ name: 'Boris' })];
  await reads(ada, 'Boris has joined');
  await reads(boris, 'Ada has joined');
  await say(ada, 'Good morning');
  await reads(boris, 'Ada: Good morning');
  await say(boris, 'Доброе утро 🎺');
  await reads(ada, 'Boris: Доброе утро 🎺');
  await ada.click('#me');
  await call(ada, 'Countess');
  await reads(boris, 'Ada is now Countess');
  await say(ada, 'It is me');
  await reads(boris, 'Countess: It is me');
  for (const page of [ada, boris]) assert.equal(await page.textContent('#status'), '2 people here');
  assert.equal(await ada.inputValue('#text'), '');
  assert.equal(await ada.locator('.mine').count(), 2);
  assert.equal(await boris.locator('.mine').count(), 1);
  await ada.context().close();
  await reads(boris, 'Countess has left');
  assert.equal(await boris.textContent('#status'), '1 person here');
  assert.deepEqual(await lines(boris), [
    'Ada has joined', 'Boris has joined', 'Ada: Good morning', 'Boris: Доброе утро 🎺', 'Ada is now Countess', 'Countess: It is me', 'Countess has left',
  ]);
  assert.deepEqual(boris.errors, []);
});

test('a newcomer reads the last hundred before it has a name', async () => {
  const ada = await tab({ name: 'Ada' });
  // More than the history, and not faster than the server lets one person be.
  const others = [];
  for (let i = 0; i < 24; i++) others.push(await tab({ name: `Reader ${i}` }));
  await Promise.all(others.map(async (page, i) => {
    for (const word of 'abcd') await say(page, `${word}${i}`);
    await reads(page, `Reader ${i}: d${i}`);
  }));
  await reads(ada, 'Reader 23: d23');
  const newcomer = await tab();
  await reads(newcomer, 'Reader 23: d23');
  const [all, seen] = [await lines(ada), await lines(newcomer)];
  assert.equal(all.length, 1 + 24 + 96);
  assert.deepEqual(seen, all.slice(-100));
  assert.equal(await newcomer.isVisible('#saying'), false);
  assert.equal(await newcomer.textContent('#status'), '25 people here');
});

test('what people write is shown as text, their names as well', async () => {
  const markup = '<script>document.title = "taken"</script><img src=x onerror="document.title = \'taken\'"><b>&amp;</b>';
  const [ada, boris] = [await tab({ name: '<b>Ada</b><img src=x>' }), await tab({ name: 'Boris' })];
  await say(ada, markup);
  await reads(boris, `<b>Ada</b><img src=x>: ${markup}`);
  await reads(boris, '<b>Ada</b><img src=x> has joined');
  assert.equal(await boris.locator('#messages script, #messages img, #messages b').count(), 0);
  assert.equal(await boris.title(), 'Chat');
  assert.deepEqual(boris.errors, []);
});

test('nobody writes under the name of another, or faster than one can read', async () => {
  const [ada, boris] = [await tab({ name: 'Ada' }), await tab()];
  for (const [name, hint] of [['ada', 'Somebody here has this name already.'], ['A\u200bda', 'A name has 1 to 24 characters that can be seen.']]) {
    await boris.fill('#name', name);
    await boris.press('#name', 'Enter');
    await boris.waitForFunction(hint => document.getElementById('problem').textContent === hint, hint);
  }
  await call(boris, 'Boris');
  assert.equal(await boris.isVisible('#problem'), false);
  // The page's own client, asked for more than the page would ask.
  const codes = await boris.evaluate(async () => {
    const { Stentor } = await import('/client.js');
    const refused = async (stentor, topic, data) => stentor.publish(topic, data).then(() => 0, error => error.code);
    return new Promise(resolve => {
      const stentor = new Stentor('ws', { async onState({ state }) {
        if (state !== 'open') return;
        resolve([
          await refused(stentor, 'room', { text: 'without a name' }),
          await refused(stentor, 'room', { name: 'Ada', text: 'as Ada' }),
          await refused(stentor, 'room', 'nonsense'),
          await refused(stentor, 'notices', { here: 1000 }),
          await refused(stentor, 'room', { name: 'Mallory' }),
          await refused(stentor, 'room', { text: 'x'.repeat(1001) }),
          await refused(stentor, 'room', { text: ' \n ' }),
          await refused(stentor, 'room', { text: 'the fifth' }),
          await refused(stentor, 'room', { text: 'the sixth' }),
        ]);
        stentor.close();
      } });
    });
  });
  assert.deepEqual(codes, [1001, 107, 107, 103, 0, 1004, 1004, 0, 111]);
  await reads(ada, 'Mallory: the fifth');
  for (let i = 0; i < 6; i++) await say(boris, `quick ${i}`);
  await boris.waitForFunction(() => document.getElementById('problem').textContent === 'Not so fast: wait a second.');
  assert.match(await boris.inputValue('#text'), /^quick \d$/, 'what was not sent is still there');
});

test('in a Russian browser it speaks Russian', async () => {
  const [ada, boris] = [await tab({ name: 'Ada' }), await tab({ locale: 'ru-RU' })];
  assert.equal(await boris.title(), 'Чат');
  assert.equal(await boris.evaluate(() => document.documentElement.lang), 'ru');
  await reads(boris, 'Ada теперь с нами');
  await boris.fill('#name', 'ada');
  await boris.press('#name', 'Enter');
  await boris.waitForFunction(() => document.getElementById('problem').textContent === 'Это имя уже занято.');
  await call(boris, 'Борис');
  await reads(ada, 'Борис has joined');
  assert.equal(await boris.textContent('#status'), 'здесь 2 человека');
  await ada.click('#me');
  await call(ada, 'Ада');
  await reads(boris, 'Ada теперь зовётся Ада');
  await ada.context().close();
  await reads(boris, 'Ада больше не с нами');
  // Whose language it does not speak reads English.
  const third = await tab({ locale: 'fi-FI' });
  assert.equal(await third.title(), 'Chat');
});

test('after a cut nothing is missing and nothing is there twice', async () => {
  const cuts = await Cuts.before(chat.host);
  const ada = await tab({ name: 'Ada', at: `http://${cuts.host}/` });
  const boris = await tab({ name: 'Boris' });
  await say(boris, 'before');
  await reads(ada, 'Boris: before');
  cuts.cut();
  await ada.waitForSelector('#status:not([data-state=open])');
  await say(boris, 'meanwhile');
  await open(ada);
  await say(boris, 'after');
  for (const page of [ada, boris]) await reads(page, 'Boris: after');
  await reads(ada, 'Ada has joined', 2);
  assert.deepEqual(await lines(ada), await lines(boris));
  await say(ada, 'Here again');
  await reads(boris, 'Ada: Here again');
  cuts.stop();
});

test('it copes with a server that restarts', async () => {
  const [ada, boris] = [await tab({ name: 'Ada' }), await tab({ name: 'Boris' })];
  await say(ada, 'before');
  await reads(boris, 'Ada: before');
  const { host } = chat;
  await chat.stop();
  await ada.waitForSelector('#status[data-state=waiting]');
  assert.equal(await ada.isDisabled('#send'), true);
  await ada.fill('#text', 'written meanwhile');
  chat = await Stentor.example('chat', host, NEVER);
  for (const page of [ada, boris]) await open(page);
  await reads(boris, 'The server has been restarted.');
  await ada.waitForSelector('#send:enabled');
  await reads(boris, 'Ada has joined', 2);
  await ada.press('#text', 'Enter');
  await reads(boris, 'Ada: written meanwhile');
  await reads(boris, 'Ada: before');
  assert.equal(await boris.textContent('#me'), 'Boris');
});

test('a reload keeps the name', async () => {
  const ada = await tab({ name: 'Ada' });
  await ada.reload();
  await open(ada);
  await ada.waitForFunction(() => /^Ada/.test(document.getElementById('me').textContent));
  await say(ada, 'still here');
  await ada.waitForSelector('.mine');
});

test('the server says something by itself, the newest only', async () => {
  await chat.stop();
  chat = await Stentor.example('chat', '127.0.0.1:0', '1');
  const ada = await tab({ name: 'Ada' });
  await ada.waitForFunction(() => /^It is \d+:\d+.*\. 1 person here\.$/.test(document.querySelector('.clock')?.textContent));
  await ada.waitForTimeout(1500);
  assert.equal(await ada.locator('.clock').count(), 1);
});

test('on a phone: no sideways scrolling, no zooming, the end in view unless one reads back', async () => {
  const phone = await tab({ name: 'Ada', viewport: { width: 360, height: 640 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true });
  const boris = await tab({ name: 'Boris' });
  await say(boris, 'W'.repeat(300));
  await say(boris, 'line\n'.repeat(40));
  await say(phone, 'https://example.com/' + 'path/'.repeat(30));
  await reads(boris, `Ada: https://example.com/${'path/'.repeat(30)}`);
  const fits = () => phone.evaluate(() => {
    const { scrollWidth, scrollHeight } = document.documentElement;
    const list = document.getElementById('messages');
    return scrollWidth <= innerWidth && scrollHeight <= innerHeight && list.scrollWidth <= list.clientWidth;
  });
  assert.ok(await fits());
  for (const field of ['#name', '#text']) assert.ok(await phone.$eval(field, one => parseFloat(getComputedStyle(one).fontSize)) >= 16);
  const atEnd = () => phone.$eval('#messages', list => list.scrollTop + list.clientHeight > list.scrollHeight - 2);
  assert.ok(await atEnd());
  // As when the keyboard comes.
  await phone.setViewportSize({ width: 360, height: 340 });
  await phone.waitForTimeout(100);
  assert.ok(await atEnd());
  assert.ok(await fits());
  await phone.$eval('#messages', list => { list.scrollTop = 0; });
  await phone.waitForTimeout(100);
  await say(boris, 'further down');
  await phone.waitForSelector('#newest:not([hidden])');
  assert.equal(await phone.$eval('#messages', list => list.scrollTop), 0);
  await phone.click('#newest');
  assert.ok(await atEnd());
});

test('every control has a name', async () => {
  const page = await tab({ name: 'Ada' });
  const nameless = await page.evaluate(() => [...document.querySelectorAll('input, textarea, button, ol')]
    .filter(control => !(control.labels?.length || control.ariaLabel || control.textContent.trim())).map(control => control.outerHTML));
  assert.deepEqual(nameless, []);
});

test('one server: the page and its files, and nothing else', async () => {
  for (const [file, type] of [['', 'text/html'], ['chat.js', 'text/javascript'], ['chat.css', 'text/css'], ['client.js', 'text/javascript']]) {
    const response = await fetch(chat.page + file);
    assert.equal(response.status, 200);
    assert.equal(response.headers.get('content-type'), `${type}; charset=utf-8`);
  }
  for (const file of ['metrics', 'health', 'chat', 'chat.rs', 'ws']) assert.notEqual((await fetch(chat.page + file)).status, 200, file);
  assert.equal((await fetch(`${chat.page}else`)).status, 404);
});

test('screenshots: two tabs, dark, phone, Russian', async () => {
  const shots = {
    one: await tab({ name: 'Ada', colorScheme: 'light' }),
    two: await tab({ name: 'Boris', colorScheme: 'dark' }),
    phone: await tab({ name: 'Чжао', colorScheme: 'light', locale: 'ru-RU', viewport: { width: 375, height: 700 }, deviceScaleFactor: 2, isMobile: true, hasTouch: true }),
  };
  await say(shots.one, 'Good morning, everybody!');
  await say(shots.one, 'Who is here today?');
  await reads(shots.two, 'Ada: Who is here today?');
  await say(shots.two, 'Доброе утро! A longer message goes on in the next line where the window ends, on a desktop and on a phone.');
  await reads(shots.phone, 'Boris: Доброе утро! A longer message goes on in the next line where the window ends, on a desktop and on a phone.');
  await say(shots.phone, 'И я здесь');
  await say(shots.one, '<script>alert("only text")</script>');
  await reads(shots.phone, 'Ada: <script>alert("only text")</script>');
  await shots.two.click('#me');
  await call(shots.two, 'Boris the Second');
  await reads(shots.one, 'Boris is now Boris the Second');
  await say(shots.two, 'Short');
  for (const page of Object.values(shots)) await reads(page, 'Boris the Second: Short');
  shots.naming = await tab({ colorScheme: 'light', viewport: { width: 375, height: 500 }, deviceScaleFactor: 2, isMobile: true });
  for (const [name, page] of Object.entries(shots)) await page.screenshot({ path: path.join(SHOTS, `chat-${name}.png`) });
});
