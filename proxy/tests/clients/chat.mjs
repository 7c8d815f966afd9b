// Asks a model server with the OpenAI SDK and prints what it answered, as JSON: {"streamed", "whole", "error"}.
//   node chat.mjs FOLDER_OF_NODE_MODULES BASE_URL PAUSE_MS
import { createRequire } from 'node:module';

const [modules, baseURL, pauseMs] = process.argv.slice(2);
const { OpenAI } = createRequire(`${modules}/`)('openai');
const client = new OpenAI({ baseURL, apiKey: 'none', maxRetries: 0 });
const question = { model: 'parrot-1', messages: [{ role: 'user', content: 'one two three' }] };
const slowly = { thinking_ms: Number(pauseMs), pause_ms: Number(pauseMs) };

let streamed = '';
for await (const chunk of await client.chat.completions.create({ ...question, ...slowly, stream: true }))
  streamed += chunk.choices[0].delta.content ?? '';
const whole = (await client.chat.completions.create(question)).choices[0].message.content;
const error = await client.chat.completions.create({ ...question, model: 'gone', stream: true }).catch(({ code }) => code);
console.log(JSON.stringify({ streamed, whole, error }));
