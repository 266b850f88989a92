/**
 * docs/publishing.md keeps its word: each of its calls runs as it stands there, and arrives. What a machine does not have
 * is skipped, with its name.
 */

import assert from 'node:assert/strict';
import { execFile, execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { after, before, test } from 'node:test';
import { promisify } from 'node:util';
import { Client, REPOSITORY, Stentor, within } from './server.mjs';

const PAGE = readFileSync(path.join(REPOSITORY, 'docs/publishing.md'), 'utf8');
const KEY = '0123456789abcdef0123456789abcdef';
const LINES_MAX = 6;
/** A compiler that starts cold. */
const COMPILE_MS = 120_000;

/** By language: the program that a block becomes, and what runs it. */
const LANGUAGES = {
  sh: { program: block => block, file: 'publish.sh', command: ['bash', '-eu'], needs: ['curl', '--version'] },
  php: { program: block => block, file: 'publish.php', command: ['php'], needs: ['php', '--version'] },
  python: { program: block => block, file: 'publish.py', command: ['python3'], needs: ['python3', '--version'] },
  js: { program: block => block, file: 'publish.mjs', command: [process.execPath], needs: [process.execPath, '--version'] },
  go: {
    program: block => `package main\nimport ("io"; "net/http"; "os"; "strings")\nfunc main() {\n${block}}\n`,
    file: 'publish.go', command: ['go', 'run'], needs: ['go', 'version'],
  },
  java: {
    program: block => `import java.net.URI;\nimport java.net.http.*;\nclass Publish {\n  public static void main(String[] arguments) throws Exception {\n${block}  }\n}\n`,
    file: 'Publish.java', command: ['java'], needs: ['javac', '--version'],
  },
};

const blocks = new Map([...PAGE.matchAll(/^```(\w+)\n(.*?)^```$/gms)].map(([, language, block]) => [language, block]));

let stentor;

before(async () => { stentor = await Stentor.start(['--api-key', `backend:${KEY}`]); });
after(() => stentor?.stop());

function missing([program, ...parameters]) {
  try {
    execFileSync(program, parameters, { stdio: 'ignore' });
    return false;
  } catch {
    return `${program} is not installed`;
  }
}

for (const [language, { program, file, command, needs }] of Object.entries(LANGUAGES)) {
  test(`publishing: ${language}`, { skip: missing(needs), timeout: COMPILE_MS }, async () => {
    const block = blocks.get(language);
    assert.ok(block.trimEnd().split('\n').filter(line => line !== '<?php').length <= LINES_MAX, 'it is as short as promised');
    assert.ok(block.includes('http://localhost:8080/'));
    const source = path.join(mkdtempSync(path.join(tmpdir(), 'stentor-')), file);
    writeFileSync(source, program(block.replaceAll('http://localhost:8080/', stentor.page)));
    const reader = await Client.join(stentor.ws('chat/room1', 'mode=sub'));
    const [run, ...parameters] = command;
    const environment = { ...process.env, STENTOR_API_KEY: KEY, GOCACHE: path.dirname(source), GO111MODULE: 'off' };
    const { stdout } = await within(`${run}`, promisify(execFile)(run, [...parameters, source], { env: environment }), COMPILE_MS);
    assert.match(await reader.next(), /^\{"text":\s?"Hello from \w+"\}$/);
    const { result } = JSON.parse(stdout);
    assert.ok(result.offset >= 1);
    assert.match(result.epoch, /^[0-9a-z]{8}$/);
    reader.socket.close();
  });
}

test('the page has no language that is not tried, and its links lead somewhere', () => {
  assert.deepEqual([...blocks.keys()].filter(language => !(language in LANGUAGES)), ['console', 'json']);
});
