// Socket.IO as a broadcast server: a room for each topic. `node server.mjs PORT`.
//
// A client that connects with {"topic": NAME} joins that room. What anyone emits as "pub" with a topic and a payload
// reaches the topic's room as "m" with the payload.

import { Server } from 'socket.io';

const io = new Server({
  transports: ['websocket'],
  perMessageDeflate: false,
  maxHttpBufferSize: 64 * 1024 * 1024,
  pingInterval: 25_000,
  serveClient: false,
});

io.on('connection', (socket) => {
  const { topic } = socket.handshake.auth;
  if (topic !== undefined) socket.join(topic);
  socket.on('pub', (name, payload) => io.to(name).emit('m', payload));
});

io.listen(Number(process.argv[2]));

process.on('SIGTERM', () => process.exit(0));
