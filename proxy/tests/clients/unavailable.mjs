// Asks for streams of a backend that fails at the first request for each path, and prints what each client made of it, as JSON:
//   node unavailable.mjs FOLDER_OF_NODE_MODULES ORIGIN
//   {CLIENT: the data of the first event, or the status}
import { createRequire } from 'node:module';

const [modules, origin] = process.argv.slice(2);
const require = createRequire(`${modules}/`);
const headers = { accept: 'text/event-stream' };

const clients = {
  eventsource(url) {
    const { EventSource } = require('eventsource');
    return new Promise((resolve) => {
      const source = new EventSource(url);
      const end = (outcome) => {
        source.close();
        resolve(outcome);
      };
      source.onmessage = ({ data }) => end(data);
      source.onerror = ({ code }) => source.readyState === EventSource.CLOSED && end(code);
    });
  },

  async fetch(url) {
    return (await fetch(url, { headers })).status;
  },

  // With this mode it sends `Cache-Control: no-cache`, as an EventSource does.
  async 'fetch without a cache'(url) {
    return (await fetch(url, { headers, cache: 'no-store' })).status;
  },

  async 'fetch-event-source'(url) {
    // It is made for browsers.
    globalThis.window = { setTimeout, clearTimeout, fetch };
    globalThis.document = { hidden: false, addEventListener() {}, removeEventListener() {} };
    const { fetchEventSource } = require('@microsoft/fetch-event-source');
    let status;
    const onopen = async (response) => {
      status = response.status;
      throw new Error('seen');
    };
    const onerror = (error) => {
      throw error;
    };
    await fetchEventSource(url, { onopen, onerror }).catch(() => {});
    return status;
  },
};

const seen = {};
for (const [name, ask] of Object.entries(clients)) seen[name] = await ask(`${origin}/${name.replaceAll(' ', '-')}`);
console.log(JSON.stringify(seen));
process.exit();
