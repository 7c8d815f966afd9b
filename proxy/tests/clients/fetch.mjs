// Reads an event stream with fetch, as an SDK would, and prints one line of JSON per event and comment:
//   node fetch.mjs URL COUNT      stops after COUNT events, or at the stream's end
const [url, count] = [process.argv[2], Number(process.argv[3])];
const response = await fetch(url, { headers: { Accept: 'text/event-stream' } });
console.log(JSON.stringify({ status: response.status, type: response.headers.get('content-type') }));
let [text, events] = ['', 0];
for await (const chunk of response.body.pipeThrough(new TextDecoderStream())) {
  text += chunk;
  for (let at; (at = text.indexOf('\n\n')) >= 0; text = text.slice(at + 2)) {
    const block = text.slice(0, at);
    if (block.startsWith(':')) {
      console.log(JSON.stringify({ comment: block }));
      continue;
    }
    console.log(JSON.stringify(Object.fromEntries(block.split('\n').map((line) => line.split(/: (.*)/s).slice(0, 2)))));
    if (++events >= count) process.exit(0);
  }
}
console.log(JSON.stringify({ end: true, rest: text }));
