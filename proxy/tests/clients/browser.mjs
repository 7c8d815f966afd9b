// Drives Chromium for a test: reads commands, one of JSON a line, and answers each with a line, {"ok": VALUE} or {"error": TEXT}.
//   node browser.mjs FOLDER_OF_NODE_MODULES CHROMIUM
//   {"open": URL}                       a tab; its number
//   {"tab": N, "run": EXPRESSION}       what the expression gives in that tab
//   {"tab": N, "until": EXPRESSION}     the same, once it gives something true
//   {"tab": N, "click": SELECTOR}       {"tab": N, "fill": [SELECTOR, TEXT]}
//   {"tab": N, "responses": true}       [{url, status, protocol}] of every response so far
// Ends with its input.
import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';

const [modules, executablePath] = process.argv.slice(2);
const { chromium } = createRequire(`${modules}/`)('playwright-core');
const browser = await chromium.launch({
  executablePath,
  args: [
    '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync',
  ],
});
// All tabs of one context share its connections, as the tabs of a browser do.
const context = await browser.newContext({ ignoreHTTPSErrors: true });
context.setDefaultTimeout(20_000);
const tabs = [];

async function open(url) {
  const page = await context.newPage();
  const responses = [];
  const session = await context.newCDPSession(page);
  session.on('Network.responseReceived', ({ response }) =>
    responses.push({ url: response.url, status: response.status, protocol: response.protocol }));
  await session.send('Network.enable');
  await page.goto(url);
  return tabs.push({ page, responses }) - 1;
}

async function act(command) {
  if (command.open) return open(command.open);
  const { page, responses } = tabs[command.tab];
  if (command.responses) return responses;
  if (command.click) return page.click(command.click);
  if (command.fill) return page.fill(...command.fill);
  if (command.until) return (await page.waitForFunction(command.until)).jsonValue();
  return page.evaluate(command.run);
}

for await (const line of createInterface({ input: process.stdin })) {
  const answer = await act(JSON.parse(line)).then((ok = null) => ({ ok }), ({ message }) => ({ error: message }));
  console.log(JSON.stringify(answer));
}
await browser.close();
