/**
 * The README keeps its word: its commands and snippets run as they stand there, and its links lead somewhere.
 *
 * Takes port 8080, since the README does. STENTOR_PYTHON names a Python that has `websockets`.
 */

import assert from 'node:assert/strict';
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { promisify } from 'node:util';
import { launch } from './browser.mjs';
import { Client, REPOSITORY, TARGET, within } from './server.mjs';

const README = readFileSync(path.join(REPOSITORY, 'README.md'), 'utf8');
const PYTHON = process.env.STENTOR_PYTHON ?? path.join(TARGET, 'outside', 'venv', 'bin', 'python');
/** A release build from nothing, on a slow machine. */
const BUILD_MS = 20 * 60_000;

/** The fenced blocks of one language, in order. */
const blocks = language => [...README.matchAll(/^```(\w+)\n(.*?)^```$/gms)].filter(found => found[1] === language).map(found => found[2]);
const [RUN, TEST, ...commands] = blocks('sh').map(block => block.trim());
const shell = async command => (await promisify(execFile)('bash', ['-euc', command], { cwd: REPOSITORY })).stdout;

let server;
let ended;

before(async () => {
  // In a process group of its own, so that whatever the command has started can be ended with it.
  server = spawn('bash', ['-c', RUN], { cwd: REPOSITORY, detached: true, stdio: ['ignore', 'inherit', 'pipe'] });
  ended = once(server, 'exit');
  let log = '';
  await within('the server of the README', new Promise((resolve, reject) => {
    server.once('exit', code => reject(new Error(`${RUN}: exit code ${code}: ${log}`)));
    server.stderr.setEncoding('utf8').on('data', text => {
      log += text;
      if (log.includes('listening on http://127.0.0.1:8080/')) resolve();
    });
  }), BUILD_MS);
}, { timeout: BUILD_MS });

after(async () => {
  if (server.exitCode !== null) return;
  process.kill(-server.pid, 'SIGTERM');
  const [code] = await within('the server to stop', ended);
  assert.equal(code, 0);
});

test('the two commands are the first ones', async () => {
  assert.deepEqual([RUN, TEST], ['cargo run --release', 'make test']);
  assert.match(await shell('make -n test'), /scripts\/test/);
});

test('the Python snippet prints what the README says', async () => {
  const [snippet] = blocks('python');
  const [said] = blocks('text');
  const reader = await Client.join('ws://127.0.0.1:8080/ws/chat/room1');
  const { stdout } = await promisify(execFile)(PYTHON, ['-c', snippet], { env: { ...process.env, PYTHONIOENCODING: 'utf-8' } });
  assert.equal(stdout, said);
  assert.equal(await reader.next(), said.trim());
  reader.socket.close();
});

test('the console snippet publishes and receives, on the page', async () => {
  const [snippet] = blocks('js');
  const browser = await launch();
  try {
    const page = await browser.newPage();
    await page.goto('http://127.0.0.1:8080/');
    await page.waitForSelector('#status[data-state=open]');
    const logged = new Promise(resolve => page.on('console', message => message.type() === 'log' && resolve(message.text())));
    await page.addScriptTag({ content: snippet });
    await page.waitForFunction(() => document.getElementById('log').textContent.includes('Good evening, everybody'));
    const writer = await Client.join('ws://127.0.0.1:8080/ws/chat/room1');
    writer.send('an answer');
    assert.equal(await within('the console', logged), 'an answer');
    writer.socket.close();
  } finally {
    await browser.close();
  }
});

test('the other commands work', async () => {
  assert.ok(commands.length > 0);
  const printed = await shell(commands.join('\n'));
  assert.match(printed, /^ok\n/);
  assert.match(printed, /^stentor_\w+/m);
});

test('flags that are shown are accepted', async () => {
  const shown = blocks('console').flatMap(block => block.split('\n')).filter(line => line.startsWith('$ stentor '));
  assert.ok(shown.length > 0);
  for (const line of shown) await shell(line.replace('$ stentor', `${path.join(TARGET, 'release', 'stentor')} --check`));
});

test('links into the repository lead to files', () => {
  const links = [...README.matchAll(/\]\(([^)#:]+)\)/g)].map(found => found[1]);
  assert.ok(links.length > 5);
  assert.deepEqual(links.filter(link => !existsSync(path.join(REPOSITORY, link))), []);
});
