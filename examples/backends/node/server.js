// An SSE backend in plain Node, as people write it: one handler, one interval per client, several writes per event.
//
//   node server.js                 http://127.0.0.1:3000/events, an event every 5 s
//   PORT=0 INTERVAL_MS=200 COUNT=3 node server.js
'use strict';

const http = require('node:http');

const port = Number(process.env.PORT ?? 3000);
const intervalMs = Number(process.env.INTERVAL_MS ?? 5000);
const count = Number(process.env.COUNT ?? Infinity);

const server = http.createServer((request, response) => {
  if (!request.url.startsWith('/events')) {
    response.writeHead(200, { 'Content-Type': 'text/plain' });
    response.end(`hello from ${request.url}\n`);
    return;
  }
  response.writeHead(200, {
    'Content-Type': 'text/event-stream',
    'Cache-Control': 'no-cache',
    Connection: 'keep-alive',
  });
  let id = Number(request.headers['last-event-id'] ?? 0);
  const last = id + count;
  const timer = setInterval(() => {
    id += 1;
    response.write(`id: ${id}\n`);
    response.write('event: tick\n');
    response.write(`data: ${JSON.stringify({ id, at: new Date().toISOString() })}\n\n`);
    if (id >= last) {
      clearInterval(timer);
      response.end();
    }
  }, intervalMs);
  // Without this the interval would go on for clients that left.
  response.on('close', () => {
    clearInterval(timer);
    console.log(`closed after ${id}`);
  });
});

server.listen(port, '127.0.0.1', () => console.log(`listening on 127.0.0.1:${server.address().port}`));
