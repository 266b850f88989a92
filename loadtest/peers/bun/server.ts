// Bun's native publish/subscribe as a broadcast server: `bun run server.ts PORT`.
//
//   /ws/TOPIC?mode=sub   subscribes
//   /ws/TOPIC?mode=pub   publishes what it sends, text as text and binary as binary
//   /ws/TOPIC            does both
//   /echo                gets back what it sends
//
// Nothing is dropped below 4 GiB of back-pressure per socket. Should it happen, the number of publishes that did not
// reach everybody is told on stderr at the end.

type Connection = { topic: string | null; publishes: boolean; subscribes: boolean };

let dropped = 0;

const server = Bun.serve<Connection>({
  hostname: "127.0.0.1",
  development: false,
  port: Number(process.argv[2]),

  fetch(request, server) {
    const url = new URL(request.url);
    const mode = url.searchParams.get("mode");
    const data: Connection =
      url.pathname === "/echo"
        ? { topic: null, publishes: false, subscribes: false }
        : { topic: url.pathname.slice("/ws/".length), publishes: mode !== "sub", subscribes: mode !== "pub" };
    if (data.topic !== null && !url.pathname.startsWith("/ws/")) return new Response("no such path", { status: 404 });
    if (!server.upgrade(request, { data })) return new Response("expected a WebSocket", { status: 426 });
  },

  websocket: {
    perMessageDeflate: false,
    // 2³² − 1: the largest value that the field holds. The default of 16 MiB drops without a word.
    backpressureLimit: 2 ** 32 - 1,
    closeOnBackpressureLimit: false,
    maxPayloadLength: 64 * 1024 * 1024,
    // uWebSockets pings 16 s before the timeout, rounded up to its clock of 4 s.
    sendPings: true,
    idleTimeout: 41,

    open(ws) {
      if (ws.data.subscribes) ws.subscribe(ws.data.topic!);
    },
    message(ws, message) {
      const { topic, publishes } = ws.data;
      if (topic === null) {
        if (ws.send(message) === 0) dropped += 1;
      } else if (publishes) {
        // 0: somebody's back-pressure was over the limit, or there is nobody to send to.
        if (server.publish(topic, message) === 0 && server.subscriberCount(topic) > 0) dropped += 1;
      }
    },
  },
});

process.on("SIGTERM", () => {
  if (dropped > 0) console.error(`bun dropped from ${dropped} messages`);
  process.exit(0);
});
