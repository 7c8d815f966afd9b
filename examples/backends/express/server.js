// An SSE backend in Express, as people write it: CORS, compression, a map of clients by their id, one timer for all.
//
//   npm ci && node server.js       http://127.0.0.1:3000/events?clientId=me, an event a second
//   PORT=0 INTERVAL_MS=200 COUNT=3 node server.js
'use strict';

const { randomUUID } = require('node:crypto');
const compression = require('compression');
const cors = require('cors');
const express = require('express');

const port = Number(process.env.PORT ?? 3000);
const intervalMs = Number(process.env.INTERVAL_MS ?? 1000);
const count = Number(process.env.COUNT ?? Infinity);

const app = express();
app.set('trust proxy', 2); // nginx and sse-proxy: req.ip is the browser's
app.use(cors());
app.use(compression());

const clients = new Map();

app.get('/events', (req, res) => {
  res.set({ 'Content-Type': 'text/event-stream', 'Cache-Control': 'no-cache', Connection: 'keep-alive' });
  res.flushHeaders();
  const id = req.query.clientId ?? randomUUID();
  const number = Number(req.get('last-event-id') ?? 0);
  const client = { res, number, last: number + count, silent: 'silent' in req.query, comments: 'comments' in req.query };
  clients.get(id)?.res.end(); // the same client again: a reconnect that was faster than its connection's end
  clients.set(id, client);
  // The proxy closes its connection as soon as the client has closed its own, so this comes at once.
  res.on('close', () => {
    if (clients.get(id) === client) clients.delete(id);
  });
});

app.get('/clients', (req, res) => res.json(clients.size));

// Whom the backend sees: what `trust proxy` is for.
app.get('/ip', (req, res) => res.json(req.ip));

setInterval(() => {
  for (const client of clients.values()) {
    const { res } = client;
    if (client.silent || res.writableEnded) continue;
    client.number += 1;
    if (client.comments) res.write(`: before ${client.number}\n\n`);
    res.write(`event: tick\nid: ${client.number}\n`);
    res.write(`data: ${JSON.stringify({ number: client.number })}\n\n`);
    res.flush(); // compression() keeps what it has compressed until this is called
    if (client.number >= client.last) res.end();
  }
}, intervalMs);

const server = app.listen(port, '127.0.0.1', () => console.log(`listening on 127.0.0.1:${server.address().port}`));
