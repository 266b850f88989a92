/**
 * A Stentor of one's own for the tests in JavaScript: starts the built binary, or an example, on a free port, stops it
 * with SIGTERM and checks that it ends with 0. The twin of server.py.
 */

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import WebSocket from 'ws';

export const REPOSITORY = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../..');
export const TARGET = path.resolve(process.env.CARGO_TARGET_DIR ?? path.join(REPOSITORY, 'target'));
const BINARY = process.env.STENTOR_BIN ?? path.join(TARGET, 'debug', 'stentor');
/** See server.py. */
const FLAGS = (process.env.STENTOR_FLAGS ?? '').split(' ').filter(flag => flag);
/** Far more than it takes: reached only where something hangs. */
export const PATIENCE_MS = 20_000;

export class Stentor {
  #process;
  #log = '';
  host;

  static start(flags = [], listen = '127.0.0.1:0') {
    return Stentor.#run(BINARY, ['--listen', listen, '--drain-timeout', '2s', ...FLAGS, ...flags]);
  }

  /** A program of examples/, which has to be built. */
  static example(name, listen = '127.0.0.1:0', ...more) {
    return Stentor.#run(path.join(TARGET, 'debug', 'examples', name), [listen, ...more]);
  }

  static async #run(program, parameters) {
    const server = new Stentor();
    const child = spawn(program, parameters, { stdio: ['ignore', 'pipe', 'pipe'] });
    server.#process = child;
    // A test that failed before it stopped its server leaves none behind.
    const kill = () => child.kill('SIGKILL');
    process.once('exit', kill);
    child.once('exit', () => process.off('exit', kill));
    server.host = await within('the server to listen', new Promise((resolve, reject) => {
      child.once('error', reject);
      child.once('exit', code => reject(new Error(`exit code ${code}; its log: ${server.#log}`)));
      for (const stream of [child.stdout, child.stderr]) stream.setEncoding('utf8').on('data', text => {
        server.#log += text;
        const found = /listening on http:\/\/(\S+?)\//.exec(server.#log);
        if (found) resolve(found[1]);
      });
    }));
    return server;
  }

  /** The address of a topic; `query` as in `mode=sub&echo=off`. */
  ws(topic, query = '') {
    const name = topic.split('/').map(encodeURIComponent).join('/');
    return `ws://${this.host}/ws/${name}${query && '?' + query}`;
  }

  get page() {
    return `http://${this.host}/`;
  }

  /** SIGTERM; it must end by itself, and well. */
  async stop() {
    if (this.#process.exitCode === null) {
      const exit = once(this.#process, 'exit');
      this.#process.kill('SIGTERM');
      await within('the server to stop', exit);
    }
    assert.equal(this.#process.exitCode, 0, `its log: ${this.#log}`);
    assert.doesNotMatch(this.#log, /panicked/);
  }
}

/** The value of `promise`, or an error that says what was waited for. */
export async function within(what, promise, ms = PATIENCE_MS) {
  let timer;
  const late = new Promise((_, reject) => { timer = setTimeout(() => reject(new Error(`waited ${ms} ms for ${what}`)), ms); });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** A connected client of `ws` that keeps what it gets: `next()` is the next message, `closed` how it ended. */
export class Client {
  #messages = [];
  #waiting = [];

  static async join(address, ...options) {
    const client = new Client();
    client.socket = new WebSocket(address, ...options);
    client.closed = new Promise(resolve => client.socket.once('close', (code, reason) => resolve({ code, reason: reason.toString() })));
    client.socket.on('message', (data, isBinary) => {
      const message = isBinary ? data : data.toString();
      const waiting = client.#waiting.shift();
      if (waiting) waiting(message);
      else client.#messages.push(message);
    });
    await within(`${address} to open`, once(client.socket, 'open'));
    return client;
  }

  next() {
    if (this.#messages.length) return Promise.resolve(this.#messages.shift());
    return within('a message', new Promise(resolve => this.#waiting.push(resolve)));
  }

  send(message, options = {}) {
    this.socket.send(message, options);
  }
}
