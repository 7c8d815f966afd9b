// An SSE backend in plain Node, as people write it: one handler, one interval per client, several writes per event.
//
//   node server.js                 http://127.0.0.1:3000/events, an event a second
//   PORT=0 INTERVAL_MS=200 COUNT=3 node server.js
'use strict';

const http = require('node:http');

const port = Number(process.env.PORT ?? 3000);
const intervalMs = Number(process.env.INTERVAL_MS ?? 1000);
const count = Number(process.env.COUNT ?? Infinity);

const clients = new Set();

function events(request, response, query) {
  response.writeHead(200, {
    'Content-Type': 'text/event-stream',
    'Cache-Control': 'no-cache',
    Connection: 'keep-alive',
  });
  // Without this the head waits for the first event.
  response.flushHeaders();
  clients.add(response);
  let id = Number(request.headers['last-event-id'] ?? 0);
  const last = id + count;
  const tick = () => {
    id += 1;
    if (query.has('comments')) response.write(`: before ${id}\n\n`);
    response.write(`id: ${id}\n`);
    response.write('event: tick\n');
    response.write(`data: ${JSON.stringify({ id, text: 'tick '.repeat(id % 4) })}\n\n`);
    if (id >= last) {
      clearInterval(timer);
      response.end();
    }
  };
  const timer = query.has('silent') ? undefined : setInterval(tick, intervalMs);
  // Without this the interval would go on for clients that left.
  response.on('close', () => {
    clearInterval(timer);
    clients.delete(response);
    console.log(`closed after ${id}`);
  });
}

const server = http.createServer((request, response) => {
  const url = new URL(request.url, 'http://localhost');
  switch (url.pathname) {
    case '/events':
      return events(request, response, url.searchParams);
    case '/clients':
      response.writeHead(200, { 'Content-Type': 'application/json' });
      return response.end(JSON.stringify(clients.size));
    default:
      response.writeHead(200, { 'Content-Type': 'text/plain' });
      return response.end(`hello from ${request.url}\n`);
  }
});

server.listen(port, '127.0.0.1', () => console.log(`listening on 127.0.0.1:${server.address().port}`));
