// Reads responses to their ends, and prints as JSON what each gave and how it ended:
//   node breaks.mjs FOLDER_OF_NODE_MODULES fetch|http|http2|openai|anthropic URL...
//   {URL: {"text": TEXT, "error": NAME or null}}
import { createRequire } from 'node:module';
import http from 'node:http';
import http2 from 'node:http2';
import https from 'node:https';

// The certificate of the test signs itself.
process.env.NODE_TLS_REJECT_UNAUTHORIZED = '0';
process.removeAllListeners('warning');
const [modules, reader, ...urls] = process.argv.slice(2);
const require = createRequire(`${modules}/`);
const headers = { accept: 'text/event-stream' };
const messages = [{ role: 'user', content: 'hello' }];

/** Until a response of the older interfaces has ended or failed. */
const ended = (response, see) =>
  new Promise((resolve, reject) => {
    response.on('data', see).on('end', resolve).on('error', reject);
    response.on('aborted', () => reject(new Error('aborted')));
  });

const readers = {
  async fetch(url, see) {
    const response = await fetch(url, { headers });
    for await (const piece of response.body.pipeThrough(new TextDecoderStream())) see(piece);
  },

  http: (url, see) =>
    new Promise((resolve, reject) => {
      const { get } = url.startsWith('https:') ? https : http;
      get(url, { headers }, (response) => ended(response, see).then(resolve, reject)).on('error', reject);
    }),

  async http2(url, see) {
    const { origin, pathname } = new URL(url);
    const session = http2.connect(origin);
    await ended(session.request({ ':path': pathname, ...headers }), see).finally(() => session.destroy());
  },

  async openai(url, see) {
    const { OpenAI } = require('openai');
    const client = new OpenAI({ baseURL: url, apiKey: 'none', maxRetries: 0, logLevel: 'off' });
    for await (const chunk of await client.chat.completions.create({ model: 'm', messages, stream: true }))
      see(chunk.choices[0].delta.content);
  },

  async anthropic(url, see) {
    const { Anthropic } = require('@anthropic-ai/sdk');
    const client = new Anthropic({ baseURL: url, apiKey: 'none', maxRetries: 0, logLevel: 'off' });
    for await (const event of await client.messages.create({ model: 'm', max_tokens: 9, messages, stream: true }))
      if (event.type === 'content_block_delta') see(event.delta.text);
  },
};

const read = async (url) => {
  let text = '';
  const error = await readers[reader](url, (piece) => (text += piece)).then(() => null, (error) => `${error.name}: ${error.message}`);
  return [url, { text, error }];
};
console.log(JSON.stringify(Object.fromEntries(await Promise.all(urls.map(read)))));
process.exit(0);
