// Reads event streams with what people use in Node, and prints what it gave for each URL, as JSON:
//   node readers.mjs FOLDER_OF_NODE_MODULES openai|ai|genai|eventsource|extended-eventsource|fetch|blocks URL...
//   {URL: {"seen": [[name, text]...], "error": NAME or null}}
// A chunk of a chat is shown as the text in it; whatever else came, as it came. For openai a URL is the base of the API.
import { createRequire } from 'node:module';

const [modules, reader, ...urls] = process.argv.slice(2);
const require = createRequire(`${modules}/`);
const text = (data) => {
  try {
    return JSON.parse(data).choices[0].delta.content;
  } catch {
    return data;
  }
};

const eventSource = (EventSource, options) => (url, see) =>
  new Promise((resolve, reject) => {
    const source = new EventSource(url, options);
    const add = ({ type, data }) => {
      if (data === '[DONE]') {
        source.close();
        resolve();
      } else see(type === 'message' ? '' : type, text(data));
    };
    for (const name of ['message', 'heartbeat']) source.addEventListener(name, add);
    source.onerror = ({ message }) => {
      source.close();
      reject(new Error(message));
    };
  });

const readers = {
  async openai(url, see) {
    const { OpenAI } = require('openai');
    // It logs what it cannot parse; the test reads the exception.
    const client = new OpenAI({ baseURL: url, apiKey: 'none', maxRetries: 0, logLevel: 'off' });
    const messages = [{ role: 'user', content: 'hello' }];
    const stream = await client.chat.completions.create({ model: 'parrot-1', messages, stream: true });
    for await (const chunk of stream) see('', text(JSON.stringify(chunk)));
  },

  async ai(url, see) {
    const { streamText } = require('ai');
    const { createOpenAICompatible } = require('@ai-sdk/openai-compatible');
    const model = createOpenAICompatible({ name: 'test', baseURL: url, apiKey: 'none' })('parrot-1');
    const { fullStream } = streamText({ model, prompt: 'hello', maxRetries: 0, onError() {} });
    for await (const part of fullStream) {
      if (part.type === 'text-delta') see('', part.text);
      if (part.type === 'error') throw part.error;
    }
  },

  async genai(url, see) {
    const { GoogleGenAI } = require('@google/genai');
    const client = new GoogleGenAI({ apiKey: 'none', httpOptions: { baseUrl: url } });
    for await (const chunk of await client.models.generateContentStream({ model: 'parrot-1', contents: 'hello' }))
      see('', chunk.text ?? '');
  },

  eventsource: (...parameters) => eventSource(require('eventsource').EventSource)(...parameters),

  'extended-eventsource': (...parameters) => eventSource(require('extended-eventsource').EventSource, { disableRetry: true })(...parameters),

  // As it is written by hand for model servers: lines that begin with `data:`.
  async fetch(url, see) {
    const response = await fetch(url, { method: 'POST', body: '{}' });
    let rest = '';
    for await (const piece of response.body.pipeThrough(new TextDecoderStream())) {
      const lines = (rest + piece).split('\n');
      rest = lines.pop();
      for (const line of lines) {
        if (!line.startsWith('data:')) continue;
        const data = line.slice(5).trimStart();
        if (data === '[DONE]') return;
        see('', text(data));
      }
    }
  },

  // The other way to write it by hand: what stands between blank lines, where it does not begin like a comment.
  async blocks(url, see) {
    const response = await fetch(url);
    let rest = '';
    for await (const piece of response.body.pipeThrough(new TextDecoderStream())) {
      const blocks = (rest + piece).split('\n\n');
      rest = blocks.pop();
      for (const block of blocks) {
        if (block.startsWith(':')) continue;
        const fields = Object.fromEntries(block.split('\n').map((line) => line.split(/: ?(.*)/s).slice(0, 2)));
        if (fields.data === '[DONE]') return;
        see(fields.event ?? '', text(fields.data));
      }
    }
  },
};

const read = async (url) => {
  const seen = [];
  const error = await readers[reader](url, (...item) => seen.push(item)).then(() => null, (error) => error.name);
  return [url, { seen, error }];
};
console.log(JSON.stringify(Object.fromEntries(await Promise.all(urls.map(read)))));
process.exit(0);
