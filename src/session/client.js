/**
 * Stentor's client: topics over one WebSocket, in the JSON dialect. For browsers and Node 22. All of it: docs/dialects.md
 *
 *   import { Stentor } from '/client.js';      // or <script type="module" src="/client.js">, and globalThis.Stentor
 *   const stentor = new Stentor('/ws', { onState: ({ state }) => … });
 *   const room = stentor.subscribe('chat/room1', ({ data, offset, time }) => …, { history: 100, onLost: () => … });
 *   await stentor.publish('chat/room1', { text: 'hello' });      // a string, bytes, or what JSON can say
 *
 * A connection that ends comes back, after a wait that grows and differs between clients, and each subscription goes on
 * behind its last message: nothing is missing, nothing comes twice. Where the server can't give what was missed, onLost
 * is called before the next message. After the final close codes (`isFinal`) it stays closed.
 */
const FINAL = [1000, 1002, 1003, 1007, 1008];
const GOOD_MS = 5_000; // A connection that held so long was a good one: the next wait is short again.
const DEFAULTS = { backoffMs: 500, backoffMaxMs: 30_000, heartbeatMs: 15_000, WebSocket: globalThis.WebSocket, onState() {} };
const isFinal = code => FINAL.includes(code) || (code >= 4000 && code < 5000);
const failure = (message, outcome, code) => Object.assign(new Error(message), { outcome, code });
const refusal = ({ message, code }) => failure(message, 'refused', code);
const bytesOf = data => ArrayBuffer.isView(data) ? new Uint8Array(data.buffer, data.byteOffset, data.byteLength)
  : data instanceof ArrayBuffer ? new Uint8Array(data) : null;
const toBase64 = bytes => btoa(Array.from(bytes, byte => String.fromCharCode(byte)).join(''));
const fromBase64 = text => Uint8Array.from(atob(text), character => character.charCodeAt(0));
export class Stentor {
  /** 'connecting', 'open', 'waiting' (to connect again) or 'closed' (until connect() is called). */
  state = 'closed';
  #address; #options; #socket = null; #subscriptions = new Map(); #publishes = new Map(); #publishId = 0;
  /** By topic: answers to an unsubscribe that are still to come. What comes before them is for no new subscription. */
  #leaving = new Map(); #failures = 0; #openedAt = 0; #retry = 0; #beat = 0; #heard = false; #asked = false;
  #online = () => this.state === 'waiting' && this.connect();

  /** `url` is absolute, or relative to the page. Options: DEFAULTS, and onError(error) for what belongs to no call. */
  constructor(url, options) {
    this.#address = new URL(url, globalThis.location?.href);
    this.#address.protocol = this.#address.protocol.replace('http', 'ws');
    this.#options = { ...DEFAULTS, onError: error => console.error(error), ...options };
    this.connect();
  }
  /** Connects at once: after a final close, or instead of waiting. */
  connect() {
    if (this.#socket) return;
    clearTimeout(this.#retry);
    globalThis.removeEventListener?.('online', this.#online);
    const socket = this.#socket = new this.#options.WebSocket(this.#address.href, ['stentor.json']);
    socket.onopen = () => this.#opened();
    socket.onmessage = ({ data }) => { this.#heard = true; this.#received(JSON.parse(data)); };
    socket.onclose = ({ code, reason }) => this.#closed(code, reason);
    this.#show('connecting');
  }
  /** Ends the connection and all subscriptions. */
  close() { this.#subscriptions.clear(); this.#abandon(1000, 'closed by this client'); }
  /**
   * Options: history (how many of the newest messages come first), epoch and offset (where to go on: as `position` had
   * them), onSubscribed({ recovered, client, epoch, offset }), onLost({ from, to }), onSkipped(count), onEnd(error).
   */
  subscribe(topic, onMessage, options) {
    if (this.#subscriptions.has(topic)) throw new Error(`there already is a subscription to ${topic}`);
    const subscription = { ...options, topic, onMessage, live: false, resumes: false };
    this.#subscriptions.set(topic, subscription);
    if (this.state === 'open') this.#join(subscription);
    return {
      get position() { return { epoch: subscription.epoch, offset: subscription.offset }; },
      unsubscribe: () => {
        if (this.#subscriptions.get(topic) === subscription) this.#subscriptions.delete(topic); else return;
        if (this.state !== 'open') return;
        this.#leaving.set(topic, (this.#leaving.get(topic) ?? 0) + 1);
        this.#send({ unsubscribe: topic });
      },
    };
  }
  /** Gives { topic, epoch, offset }, or an error with its `outcome`: 'unsent', 'refused', or 'unknown'. */
  async publish(topic, data) {
    if (this.state !== 'open') throw failure('not connected', 'unsent');
    const [id, bytes] = [++this.#publishId, bytesOf(data)];
    this.#send({ publish: topic, ...(bytes ? { b64: toBase64(bytes) } : { data }), id });
    return new Promise((resolve, reject) => this.#publishes.set(id, { resolve, reject }));
  }
  #send(command) { this.#socket.send(JSON.stringify(command)); }
  #show(state, more) { this.#options.onState({ state: this.state = state, ...more }); }
  #join(subscription) {
    const { topic, history, epoch, offset } = subscription;
    subscription.resumes = epoch !== undefined;
    this.#send({ subscribe: topic, history, ...(subscription.resumes && { epoch, since: offset }) });
  }
  #opened() {
    [this.#openedAt, this.#heard, this.#asked] = [Date.now(), false, false];
    // A page can't see the server's pings, and might learn of a dead connection after minutes: so it asks.
    this.#beat = setInterval(() => {
      if (this.#asked && !this.#heard) return this.#abandon(1006, 'no answer to a ping');
      this.#asked = !this.#heard;
      if (this.#asked) this.#send({ ping: 1 });
      this.#heard = false;
    }, this.#options.heartbeatMs);
    for (const subscription of this.#subscriptions.values()) this.#join(subscription);
    this.#show('open');
  }
  #received(frame) {
    if ('published' in frame || (frame.error && 'id' in frame)) {
      const publish = this.#publishes.get(frame.id);
      this.#publishes.delete(frame.id);
      if (frame.error) publish?.reject(refusal(frame.error));
      else publish?.resolve({ topic: frame.published, epoch: frame.epoch, offset: frame.offset });
    } else if (frame.error && !('topic' in frame)) this.#options.onError(refusal(frame.error));
    else if (!('pong' in frame)) this.#ofTopic(frame.topic ?? frame.subscribed ?? frame.unsubscribed, frame);
  }
  #ofTopic(topic, frame) {
    const { epoch, offset, recovered, client } = frame;
    const leaving = this.#leaving.get(topic);
    if (leaving && 'unsubscribed' in frame) this.#leaving.set(topic, leaving - 1);
    const subscription = leaving ? null : this.#subscriptions.get(topic);
    if (!subscription) return;
    if (frame.error || 'unsubscribed' in frame) {
      this.#subscriptions.delete(topic);
      subscription.onEnd?.(frame.error && refusal(frame.error));
    } else if ('subscribed' in frame) {
      const [from, to] = [{ epoch: subscription.epoch, offset: subscription.offset }, { epoch, offset }];
      const isLost = subscription.resumes && !recovered;
      Object.assign(subscription, { live: true, ...to });
      subscription.onSubscribed?.({ recovered, client, ...to });
      if (isLost) subscription.onLost?.({ from, to });
    } else if ('skipped' in frame) subscription.onSkipped?.(frame.skipped);
    else if (frame.welcome) subscription.onMessage(frame);
    else if (subscription.live && (epoch !== subscription.epoch || offset > subscription.offset)) {
      Object.assign(subscription, { epoch, offset });
      const { b64, ...message } = frame;
      subscription.onMessage(b64 === undefined ? message : { ...message, data: fromBase64(b64) });
    }
  }
  /** Ends the connection without waiting for the other side; none of its events count any more. */
  #abandon(code, reason) {
    const socket = this.#socket;
    if (socket) socket.onopen = socket.onmessage = socket.onclose = null;
    this.#closed(code, reason);
    socket?.close(1000);
  }
  #closed(code, reason) {
    if (this.state === 'open' && Date.now() - this.#openedAt >= GOOD_MS) this.#failures = 0;
    this.#socket = null;
    for (const timer of [this.#beat, this.#retry]) clearTimeout(timer);
    for (const { reject } of this.#publishes.values()) reject(failure(`connection lost (${code}), outcome unknown`, 'unknown', code));
    for (const left of [this.#publishes, this.#leaving]) left.clear();
    if (isFinal(code)) return this.#show('closed', { code, reason });
    // When a server restarts, its clients should not all return in one moment.
    const ceiling = Math.min(this.#options.backoffMaxMs, this.#options.backoffMs * 2 ** this.#failures++);
    const retryMs = ceiling * (0.5 + Math.random() / 2);
    this.#retry = setTimeout(() => this.connect(), retryMs);
    globalThis.addEventListener?.('online', this.#online);
    this.#show('waiting', { code, reason, retryMs });
  }
}
globalThis.Stentor ??= Stentor;
