// Opens many event streams on one HTTP/2 connection and prints what it saw as JSON:
//   node http2.mjs ORIGIN COUNT [STALLED_PATH]
// Each of COUNT streams is read until it has an event and a heartbeat. STALLED_PATH is requested first and never read.
import { connect } from 'node:http2';

const [origin, count, stalled] = [process.argv[2], Number(process.argv[3]), process.argv[4]];
const session = connect(origin, { rejectUnauthorized: false });
const request = (path) => session.request({ ':path': path, accept: 'text/event-stream', cookie: ['a=1', 'b=2'] });

if (stalled) {
  const stream = request(stalled);
  await new Promise((resolve) => stream.on('response', resolve));
}
const read = (path) =>
  new Promise((resolve, reject) => {
    const stream = request(path);
    let [status, text] = [0, ''];
    stream.setEncoding('utf8');
    stream.on('response', (headers) => (status = headers[':status']));
    stream.on('error', reject);
    stream.on('data', (chunk) => {
      text += chunk;
      if (text.includes('data: ') && text.includes(':\n\n')) {
        stream.close();
        resolve({ status, text });
      }
    });
    stream.on('end', () => reject(new Error(`ended after ${JSON.stringify(text)}`)));
  });
const results = await Promise.all(Array.from({ length: count }, (_, at) => read(`/events?${at}`)));
console.log(JSON.stringify({ protocol: session.alpnProtocol, results }));
session.destroy();
