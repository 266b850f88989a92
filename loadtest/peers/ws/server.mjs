// npm ws as a broadcast server, as its README does it: a loop over the clients. `node server.mjs PORT`.
//
//   /ws/TOPIC?mode=sub   subscribes
//   /ws/TOPIC?mode=pub   publishes what it sends, text as text and binary as binary
//   /ws/TOPIC            does both
//   /echo                gets back what it sends
//
// ws drops nothing: what a client does not read stays in this process's memory.

import { WebSocketServer } from 'ws';

const PING_INTERVAL_MS = 25_000;

/** @type {Map<string, Set<import('ws').WebSocket>>} */
const topics = new Map();

const server = new WebSocketServer({
  host: '127.0.0.1',
  port: Number(process.argv[2]),
  backlog: 4096,
  perMessageDeflate: false,
  maxPayload: 64 * 1024 * 1024,
});

server.on('connection', (client, request) => {
  client.on('error', () => client.terminate());
  const { pathname, searchParams } = new URL(request.url, 'ws://localhost');
  if (pathname === '/echo') {
    client.on('message', (message, isBinary) => client.send(message, { binary: isBinary }));
    return;
  }
  if (!pathname.startsWith('/ws/')) {
    client.close(1008, 'no such path');
    return;
  }
  const topic = pathname.slice('/ws/'.length);
  const mode = searchParams.get('mode');
  if (mode !== 'sub') {
    client.on('message', (message, isBinary) => {
      for (const subscriber of topics.get(topic) ?? []) subscriber.send(message, { binary: isBinary });
    });
  }
  if (mode !== 'pub') {
    const subscribers = topics.get(topic) ?? new Set();
    topics.set(topic, subscribers.add(client));
    client.on('close', () => {
      subscribers.delete(client);
      if (subscribers.size === 0 && topics.get(topic) === subscribers) topics.delete(topic);
    });
  }
});

setInterval(() => {
  for (const client of server.clients) if (client.readyState === client.OPEN) client.ping();
}, PING_INTERVAL_MS);

process.on('SIGTERM', () => process.exit(0));
