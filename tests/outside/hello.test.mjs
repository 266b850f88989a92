/**
 * examples/hello in headless Chromium: what its page sees of a connection from the beginning to the end.
 */

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { launch, tabOf } from './browser.mjs';
import { Stentor } from './server.mjs';

let browser;
let hello;

before(async () => {
  browser = await launch();
  hello = await Stentor.example('hello');
});
after(async () => {
  await browser?.close();
  await hello?.stop();
});

test('open, message, close with 1000 and a reason, wasClean', async () => {
  const page = await tabOf(browser);
  await page.goto(hello.page);
  const began = Date.now();
  const shows = line => page.waitForFunction(line => document.querySelector('pre').textContent.includes(line), line);
  await shows('open\n');
  await page.fill('input', 'Ада <b>');
  await page.press('input', 'Enter');
  await shows('message: Hello, Ада <b>!\n');
  await shows('close:');
  assert.ok(Date.now() - began >= 4_900);
  assert.equal(await page.textContent('pre'), 'open\nmessage: Hello, Ада <b>!\nclose: 1000 the visit is over, wasClean true\n');
  assert.deepEqual(page.errors, []);
});
