// uWebSockets.js as a broadcast server: `node server.cjs PORT`.
//
//   /ws/TOPIC?mode=sub   subscribes
//   /ws/TOPIC?mode=pub   publishes what it sends, text as text and binary as binary
//   /ws/TOPIC            does both
//   /echo                gets back what it sends
//
// With maxBackpressure 0 nothing is dropped. A send that was dropped all the same would be told in `dropped`.

const uws = require('uWebSockets.js');

const settings = {
  compression: uws.DISABLED,
  maxPayloadLength: 64 * 1024 * 1024,
  maxBackpressure: 0,
  closeOnBackpressureLimit: false,
  // Pings 16 s before the timeout, rounded up to its clock of 4 s.
  sendPingsAutomatically: true,
  idleTimeout: 41,
};
let dropped = 0;

const app = uws.App();
app.ws('/echo', {
  ...settings,
  message: (client, message, isBinary) => client.send(message, isBinary),
});
app.ws('/ws/*', {
  ...settings,
  upgrade: (response, request, context) => {
    const mode = request.getQuery('mode');
    response.upgrade(
      { topic: request.getUrl().slice('/ws/'.length), publishes: mode !== 'sub', subscribes: mode !== 'pub' },
      request.getHeader('sec-websocket-key'),
      request.getHeader('sec-websocket-protocol'),
      request.getHeader('sec-websocket-extensions'),
      context,
    );
  },
  open: (client) => {
    const { topic, subscribes } = client.getUserData();
    if (subscribes) client.subscribe(topic);
  },
  message: (client, message, isBinary) => {
    const { topic, publishes } = client.getUserData();
    if (publishes) app.publish(topic, message, isBinary);
  },
  dropped: () => {
    dropped += 1;
  },
});
app.listen('127.0.0.1', Number(process.argv[2]), (socket) => {
  if (!socket) {
    console.error(`can't listen on 127.0.0.1:${process.argv[2]}`);
    process.exit(1);
  }
});

process.on('SIGTERM', () => {
  if (dropped > 0) console.error(`uWebSockets.js dropped ${dropped} deliveries`);
  process.exit(0);
});
