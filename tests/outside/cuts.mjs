/**
 * A way to the server that can be cut: what goes through a `Cuts` ends in the middle of whatever is on its way.
 */

import { once } from 'node:events';
import { connect, createServer } from 'node:net';
import { Transform } from 'node:stream';

export class Cuts {
  #pairs = new Set();
  #server;
  host;

  /** `change`, if given, is applied to what the server sends, text by text as it comes. */
  static async before(host, change = text => text) {
    const cuts = new Cuts();
    const [address, port] = host.split(':');
    cuts.#server = createServer(near => {
      const far = connect(Number(port), address);
      const pair = [near, far];
      cuts.#pairs.add(pair);
      const changed = new Transform({ transform: (bytes, _, done) => done(null, Buffer.from(change(bytes.toString('latin1')), 'latin1')) });
      near.pipe(far);
      far.pipe(changed).pipe(near);
      for (const [one, other] of [pair, [far, near]]) {
        one.on('error', () => {}).on('close', () => { other.destroy(); cuts.#pairs.delete(pair); });
      }
    });
    cuts.#server.listen(0, '127.0.0.1');
    await once(cuts.#server, 'listening');
    cuts.host = `127.0.0.1:${cuts.#server.address().port}`;
    return cuts;
  }

  /** Ends all connections, with a reset on both sides. */
  cut() {
    for (const pair of this.#pairs) pair.forEach(socket => socket.resetAndDestroy());
  }

  stop() {
    this.cut();
    this.#server.close();
  }
}
