// Asks ORIGIN/socket for an upgrade to a WebSocket over HTTP/1.1, sends four bytes, and prints what comes back:
//   node upgrade.mjs ORIGIN
import { request } from 'node:https';

const asked = request(`${process.argv[2]}/socket`, {
  rejectUnauthorized: false,
  timeout: 20000,
  headers: {
    Connection: 'Upgrade',
    Upgrade: 'websocket',
    'Sec-WebSocket-Version': '13',
    'Sec-WebSocket-Key': 'dGhlIHNhbXBsZSBub25jZQ==',
  },
});
asked.on('timeout', () => asked.destroy(new Error('nothing for 20 s')));
asked.on('response', (response) => asked.destroy(new Error(`refused: ${response.statusCode}`)));
asked.on('upgrade', (response, socket, head) => {
  socket.write('ping');
  let text = head.toString();
  const read = (bytes) => {
    text += bytes;
    if (text.length < 'echo ping'.length) return;
    console.log(`${response.headers.upgrade}: ${text}`);
    socket.destroy();
  };
  socket.on('data', read);
});
asked.end();
