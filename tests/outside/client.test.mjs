/**
 * /client.js against a server that is played: what it sends, what it makes of what comes, when it comes back. No socket is
 * opened, and time is ours.
 */

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import path from 'node:path';
import { afterEach, beforeEach, mock, test } from 'node:test';
import { fileURLToPath } from 'node:url';

const REPOSITORY = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../..');

// By its text, since Node would take the file's name for that of a CommonJS module.
const SOURCE = readFileSync(path.join(REPOSITORY, 'src/session/client.js'), 'utf8');
const { Stentor } = await import(`data:text/javascript,${encodeURIComponent(SOURCE)}`);

const EPOCH = 'e0000000';
const OTHER_EPOCH = 'f0000000';

/** Sockets that were made, the newest last. */
let sockets;
const socket = () => sockets.at(-1);

class Socket {
  sent = [];
  closedWith = null;
  constructor(address, subprotocols) {
    Object.assign(this, { address, subprotocols });
    sockets.push(this);
  }
  send(text) { this.sent.push(JSON.parse(text)); }
  close(code) { this.closedWith = code; }
  opens() { this.onopen?.(); }
  says(...frames) { for (const frame of frames) this.onmessage?.({ data: JSON.stringify(frame) }); }
  ends(code, reason = '') { this.onclose?.({ code, reason }); }
  /** What was sent since it was last asked for. */
  get news() { return this.sent.splice(0); }
}

const message = (offset, data = offset, more = {}) => ({ topic: 't', epoch: EPOCH, offset, time: 1, data, ...more });
const subscribed = (offset, recovered = false, epoch = EPOCH) => ({ subscribed: 't', epoch, offset, recovered });
const settled = () => new Promise(resolve => setImmediate(resolve));

/** Time that passes when it is told to. (Node's own mock lets an interval go on that is cleared while it is called.) */
class Clock {
  #now = 0;
  #timers = new Map();
  #id = 0;
  constructor() {
    const add = every => (callback, after) => { this.#timers.set(++this.#id, { at: this.#now + after, callback, every: every && after }); return this.#id; };
    mock.method(globalThis, 'setTimeout', add(false));
    mock.method(globalThis, 'setInterval', add(true));
    for (const name of ['clearTimeout', 'clearInterval']) mock.method(globalThis, name, id => this.#timers.delete(id));
    mock.method(Date, 'now', () => this.#now);
  }
  tick(ms) {
    const end = this.#now + ms;
    for (;;) {
      const [next] = [...this.#timers].sort(([, a], [, b]) => a.at - b.at);
      if (!next || next[1].at > end) break;
      const [id, timer] = next;
      this.#now = timer.at;
      if (timer.every) timer.at += timer.every; else this.#timers.delete(id);
      timer.callback();
    }
    this.#now = end;
  }
}

let clock;
let random;
let client;
let states;
const connect = options => {
  states = [];
  client = new Stentor('ws://server/ws', { WebSocket: Socket, onState: state => states.push(state), onError() {}, ...options });
  return client;
};
/** A client with an open connection and a subscription whose messages are listed. */
function listening(options) {
  connect();
  const got = [];
  const subscription = client.subscribe('t', ({ data }) => got.push(data), options);
  socket().opens();
  return { got, subscription };
}

beforeEach(() => {
  sockets = [];
  random = 0.5;
  clock = new Clock();
  mock.method(Math, 'random', () => random);
});
afterEach(() => {
  client?.close();
  mock.restoreAll();
});

/** Until the connection after this one is made. */
function comesBack() {
  const before = sockets.length;
  clock.tick(states.at(-1).retryMs);
  assert.equal(sockets.length, before + 1);
  return socket();
}

test('it is at most 150 lines, loads nothing, and is a global as well as a module', () => {
  assert.ok(SOURCE.trimEnd().split('\n').length <= 150);
  assert.doesNotMatch(SOURCE.replace(/^\/\*\*.*?\*\//s, ''), /\bimport\b|\brequire\b/);
  assert.equal(globalThis.Stentor, Stentor);
  assert.equal(readFileSync(path.join(REPOSITORY, 'examples/client.js'), 'utf8'), SOURCE);
});

test('addresses: absolute, of http, and relative to a page', () => {
  connect();
  assert.equal(socket().address, 'ws://server/ws');
  assert.deepEqual(socket().subprotocols, ['stentor.json']);
  globalThis.location = { href: 'https://host/app/?x' };
  for (const [given, address] of [['/ws', 'wss://host/ws'], ['ws?a=b', 'wss://host/app/ws?a=b'], ['http://other/ws', 'ws://other/ws']]) {
    new Stentor(given, { WebSocket: Socket }).close();
    assert.equal(socket().address, address);
  }
  delete globalThis.location;
});

test('several topics on one connection', () => {
  connect();
  const got = [];
  client.subscribe('t', ({ data }) => got.push(['t', data]));
  socket().opens();
  client.subscribe('u', ({ data }) => got.push(['u', data]), { history: 10 });
  assert.throws(() => client.subscribe('u', () => {}), /already/);
  assert.deepEqual(socket().news, [{ subscribe: 't' }, { subscribe: 'u', history: 10 }]);
  socket().says(subscribed(0), { ...subscribed(4), subscribed: 'u' }, message(5, 'u5', { topic: 'u' }), message(1, 't1'), message(1, '?', { topic: 'v' }));
  assert.deepEqual(got, [['u', 'u5'], ['t', 't1']]);
  assert.equal(sockets.length, 1);
});

test('what a message is', () => {
  connect();
  const got = [];
  client.subscribe('t', message => got.push(message));
  socket().opens();
  const { b64, ...rest } = message(2, undefined, { b64: 'AP8=' });
  socket().says(subscribed(0), message(1, { a: [1] }, { tags: { x: 'y' } }), { ...rest, b64 });
  assert.deepEqual(got, [
    { topic: 't', epoch: EPOCH, offset: 1, time: 1, data: { a: [1] }, tags: { x: 'y' } },
    { topic: 't', epoch: EPOCH, offset: 2, time: 1, data: Uint8Array.of(0, 255) },
  ]);
});

test('it comes back, and each subscription goes on behind its last message', () => {
  const { got, subscription } = listening({ history: 2 });
  socket().says(subscribed(7), message(8), message(9));
  socket().ends(1006);
  assert.deepEqual(subscription.position, { epoch: EPOCH, offset: 9 });
  comesBack().opens();
  assert.deepEqual(socket().news, [{ subscribe: 't', history: 2, epoch: EPOCH, since: 9 }]);
  socket().says(subscribed(9, true), message(10), message(11));
  assert.deepEqual(got, [8, 9, 10, 11]);
});

test('cut before the first message, it goes on where the subscription began', () => {
  const { got } = listening();
  socket().says(subscribed(7));
  socket().ends(1006);
  comesBack().opens();
  assert.deepEqual(socket().news, [{ subscribe: 't', epoch: EPOCH, since: 7 }]);
  socket().says(subscribed(7, true), message(8));
  assert.deepEqual(got, [8]);
});

test('cut before the subscription stood, there is nothing to go on from', () => {
  listening();
  socket().ends(1006);
  comesBack().opens();
  assert.deepEqual(socket().news, [{ subscribe: 't' }]);
});

test('a position that was kept for later', () => {
  const { got } = listening({ epoch: EPOCH, offset: 3 });
  assert.deepEqual(socket().news, [{ subscribe: 't', epoch: EPOCH, since: 3 }]);
  socket().says(subscribed(3, true), message(4));
  assert.deepEqual(got, [4]);
});

test('duplicates are dropped by their offset, and only within an epoch', () => {
  const { got } = listening();
  socket().says(subscribed(0), message(1), message(1), message(2), message(1), message(2), message(3));
  assert.deepEqual(got, [1, 2, 3]);
  socket().says(message(1, 'a new life', { epoch: OTHER_EPOCH }), message(1, 'again', { epoch: OTHER_EPOCH }));
  assert.deepEqual(got, [1, 2, 3, 'a new life']);
});

test('what could not be recovered is said before the next message', () => {
  for (const epoch of [EPOCH, OTHER_EPOCH]) {
    const lost = [];
    const { got } = listening({ onLost: what => lost.push(what), onSubscribed: ({ recovered }) => got.push(`recovered: ${recovered}`) });
    socket().says(subscribed(0), message(1), message(2));
    socket().ends(1006);
    comesBack().opens();
    assert.deepEqual(lost, []);
    socket().says(subscribed(50, false, epoch));
    assert.deepEqual(lost, [{ from: { epoch: EPOCH, offset: 2 }, to: { epoch, offset: 50 } }]);
    socket().says(message(51, 51, { epoch }));
    assert.deepEqual(got, ['recovered: false', 1, 2, 'recovered: false', 51]);
    client.close();
  }
});

test('the first subscription has lost nothing', () => {
  listening({ onLost: () => assert.fail('nothing was asked for') });
  socket().says(subscribed(50), message(51));
});

test('unsubscribed: what is under way is dropped, and a new subscription waits for its own answer', () => {
  const { got, subscription } = listening();
  socket().says(subscribed(0), message(1));
  subscription.unsubscribe();
  subscription.unsubscribe();
  socket().says(message(2));
  const later = [];
  client.subscribe('t', ({ data }) => later.push(data));
  assert.deepEqual(socket().news, [{ subscribe: 't' }, { unsubscribe: 't' }, { subscribe: 't' }]);
  socket().says(message(3), { unsubscribed: 't' }, message(4), subscribed(5), message(6));
  assert.deepEqual([got, later], [[1], [6]]);
  // The same before the first answer has come.
  listening().subscription.unsubscribe();
  client.subscribe('t', ({ data }) => later.push(data));
  socket().says(subscribed(6), message(7), { unsubscribed: 't' }, subscribed(8), message(9));
  assert.deepEqual(later, [6, 9]);
});

test('who unsubscribes while there is no connection is not subscribed again', () => {
  const { subscription } = listening();
  socket().ends(1006);
  subscription.unsubscribe();
  comesBack().opens();
  assert.deepEqual(socket().news, []);
});

test('a subscription that the server refuses or ends', () => {
  const ends = [];
  const onEnd = error => ends.push(error?.code);
  connect();
  client.subscribe('refused', () => {}, { onEnd });
  client.subscribe('t', () => {}, { onEnd });
  socket().opens();
  socket().says({ error: { code: 103, message: 'not allowed' }, topic: 'refused' }, subscribed(0), { unsubscribed: 't' });
  assert.deepEqual(ends, [103, undefined]);
  socket().ends(1006);
  comesBack().opens();
  assert.deepEqual(socket().news, []);
});

test('skips are told', () => {
  const skips = [];
  const { got } = listening({ onSkipped: count => skips.push(count) });
  socket().says(subscribed(0), message(1), { skipped: 8, topic: 't' }, message(10));
  assert.deepEqual([got, skips], [[1, 10], [8]]);
});

test('a welcome is a message without a place, each time that it comes', () => {
  const welcome = { topic: 't', welcome: true, data: { be: 'kind' } };
  const { got, subscription } = listening();
  socket().says(subscribed(4), welcome, message(5), welcome);
  assert.deepEqual(got, [welcome.data, 5, welcome.data]);
  assert.equal(subscription.position.offset, 5);
});

test('an error of no call', () => {
  const errors = [];
  connect({ onError: error => errors.push(error.message) });
  socket().opens();
  socket().says({ error: { code: 107, message: 'unknown field' } });
  assert.deepEqual(errors, ['unknown field']);
});

test('publish: the answer, a refusal, and none', async () => {
  connect();
  const outcome = promise => promise.then(value => value, ({ outcome, code }) => ({ outcome, code }));
  assert.deepEqual(await outcome(client.publish('t', 0)), { outcome: 'unsent', code: undefined });
  socket().opens();
  const bytes = Uint8Array.of(9, 0, 255, 9).subarray(1, 3);
  const answers = ['text', { a: 1 }, null, bytes, bytes.slice().buffer].map(data => outcome(client.publish('t', data)));
  assert.deepEqual(socket().news, [
    { publish: 't', data: 'text', id: 1 }, { publish: 't', data: { a: 1 }, id: 2 }, { publish: 't', data: null, id: 3 },
    { publish: 't', b64: 'AP8=', id: 4 }, { publish: 't', b64: 'AP8=', id: 5 },
  ]);
  socket().says({ error: { code: 106, message: 'too large' }, id: 2 }, { published: 't', epoch: EPOCH, offset: 5, id: 1 }, { published: 't', id: 99 });
  socket().ends(1001);
  const unknown = { outcome: 'unknown', code: 1001 };
  assert.deepEqual(await Promise.all(answers), [
    { topic: 't', epoch: EPOCH, offset: 5 }, { outcome: 'refused', code: 106 }, unknown, unknown, unknown,
  ]);
  // What was sent once is not sent again: it may have been published.
  comesBack().opens();
  assert.deepEqual(socket().news, []);
  const last = outcome(client.publish('t', 1));
  client.close();
  assert.deepEqual(await last, { outcome: 'unknown', code: 1000 });
});

test('close codes', () => {
  for (const code of [1000, 1002, 1003, 1007, 1008, 4000, 4403, 4999]) {
    listening();
    socket().ends(code, 'why');
    assert.deepEqual(states.at(-1), { state: 'closed', code, reason: 'why' });
    const count = sockets.length;
    clock.tick(100_000);
    assert.equal(sockets.length, count, `${code} is final`);
    // Unless the application says otherwise.
    client.connect();
    socket().opens();
    assert.deepEqual(socket().news, [{ subscribe: 't' }]);
    client.close();
  }
  for (const code of [1001, 1005, 1006, 1009, 1011, 1012, 1013, 1014, 3000, 3999]) {
    listening();
    socket().ends(code, 'why');
    assert.equal(states.at(-1).state, 'waiting', `${code} is not final`);
    comesBack();
    client.close();
  }
});

test('closed by the application: nothing comes back, nothing is told', () => {
  const { got } = listening();
  socket().says(subscribed(0));
  client.close();
  assert.equal(socket().closedWith, 1000);
  socket().says(message(1));
  socket().ends(1006);
  clock.tick(100_000);
  assert.deepEqual([got, sockets.length, states.at(-1).state], [[], 1, 'closed']);
});

test('the wait doubles up to its bound, is spread over half of it, and starts short after a good connection', () => {
  const waits = () => {
    connect();
    const all = Array.from({ length: 10 }, () => {
      socket().ends(1006);
      const { retryMs } = states.at(-1);
      comesBack();
      return retryMs;
    });
    client.close();
    return all;
  };
  random = 0;
  assert.deepEqual(waits(), [250, 500, 1000, 2000, 4000, 8000, 15_000, 15_000, 15_000, 15_000]);
  random = 1;
  assert.deepEqual(waits(), [500, 1000, 2000, 4000, 8000, 16_000, 30_000, 30_000, 30_000, 30_000]);

  connect();
  for (const [held, expected] of [[0, 500], [4_999, 1000], [0, 2000], [5_000, 500], [4_999, 1000]]) {
    socket().opens();
    clock.tick(held);
    socket().ends(1013);
    assert.equal(states.at(-1).retryMs, expected);
    comesBack();
  }
});

test('a connection that is dead is noticed, one that is quiet is kept', () => {
  listening();
  const beat = () => { clock.tick(15_000); return socket().news; };
  socket().sent = [];
  for (let i = 0; i < 5; i++) {
    assert.deepEqual(beat(), [{ ping: 1 }]);
    socket().says({ pong: 1 });
    assert.deepEqual(beat(), [], 'it has just been heard of');
  }
  assert.deepEqual(beat(), [{ ping: 1 }]);
  beat();
  assert.equal(sockets[0].closedWith, 1000);
  assert.deepEqual([states.at(-1).state, states.at(-1).code], ['waiting', 1006]);
  comesBack().opens();
  // With messages there is nothing to ask.
  socket().sent = [];
  for (let i = 1; i < 9; i++) {
    socket().says(message(i));
    assert.deepEqual(beat(), []);
  }
});

test('when the network is back it does not wait any longer', () => {
  const listeners = new Set();
  Object.assign(globalThis, { addEventListener: (_, listener) => listeners.add(listener), removeEventListener: (_, listener) => listeners.delete(listener) });
  connect();
  socket().ends(1006);
  assert.equal(sockets.length, 1);
  for (const listener of [...listeners]) listener();
  assert.equal(sockets.length, 2);
  assert.equal(listeners.size, 0);
  clock.tick(100_000);
  assert.equal(sockets.length, 2);
  delete globalThis.addEventListener;
  delete globalThis.removeEventListener;
});

/** A topic with a history, served over connections that are cut anywhere. Seeded. */
test('whatever is cut, each message comes once and in order, or it is said what is missing', async () => {
  for (let seed = 1; seed <= 300; seed++) {
    let state = seed;
    const below = bound => (state = (state * 48_271) % 2_147_483_647) % bound;
    const KEPT = 1 + below(30);
    let head = 0;
    let epoch = EPOCH;
    const expected = [];
    const got = [];
    connect();
    client.subscribe('t', ({ epoch, offset }) => got.push(`${epoch}-${offset}`), {
      history: below(5),
      onSubscribed: ({ epoch, offset, recovered }) => { if (!recovered) got.push(`from ${epoch}-${offset}`); },
    });
    for (let turn = 0; turn < 40; turn++) {
      if (client.state !== 'open') {
        if (client.state === 'waiting') comesBack();
        socket().opens();
        const [{ since, epoch: of, history = 0 }] = socket().news;
        const recovered = since !== undefined && of === epoch && since <= head && head - since <= KEPT;
        const from = recovered ? since : head - Math.min(history, head, KEPT);
        socket().at = from;
        socket().answer = { ...subscribed(from, recovered, epoch) };
        if (below(8) === 0) { socket().ends(1006); continue; }
        if (!recovered) expected.push(`from ${epoch}-${from}`);
        socket().says(socket().answer);
      }
      head += below(12);
      // Of what there is, some arrives; some of it twice.
      for (let count = below(12); count > 0 && socket().at < head; count--) {
        const offset = ++socket().at;
        if (expected.at(-1) !== `${epoch}-${offset}`) expected.push(`${epoch}-${offset}`);
        socket().says(message(offset, 0, { epoch }));
        if (below(6) === 0) socket().says(message(offset - below(2), 0, { epoch }));
      }
      if (below(3) === 0) {
        if (below(6) === 0) [epoch, head] = [epoch === EPOCH ? OTHER_EPOCH : EPOCH, 0];
        socket().ends(1006);
      }
    }
    client.close();
    assert.deepEqual(got, expected, `seed ${seed}`);
  }
  await settled();
});
