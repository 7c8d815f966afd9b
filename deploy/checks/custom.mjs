// Validates objects of the Gateway API and of the Prometheus operator: with the schemas that npm packages bring, and with their types
// of TypeScript, because the schemas ignore unknown fields.
//
//   node custom.mjs [[NAME, OBJECT], ...].json     in a folder below the one with node_modules
import { spawnSync } from 'node:child_process';
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const folder = join(dirname(fileURLToPath(import.meta.url)), 'custom');
mkdirSync(folder, { recursive: true });
const packages = {
  'gateway.networking.k8s.io': '@kubernetes-models/gateway-api',
  'monitoring.coreos.com': '@kubernetes-models/prometheus-operator',
};
const objects = JSON.parse(readFileSync(process.argv[2], 'utf8'));
const failures = [];
const files = [];
for (const [name, object] of objects) {
  const [group, version] = object.apiVersion.split('/');
  const path = `${packages[group]}/${group}/${version}/${object.kind}`;
  const model = (await import(path))[object.kind];
  try {
    new model(object).validate();
  } catch (error) {
    failures.push(`${name}: ${error.message}`);
  }
  const type = `import type { I${object.kind} } from '${path}';`;
  const file = join(folder, `${name}.ts`);
  writeFileSync(file, `${type}\nexport const object: I${object.kind} =\n${JSON.stringify(object, null, 1)};\n`);
  files.push(file);
}
const tsc = createRequire(import.meta.url).resolve('typescript/bin/tsc');
const options = ['--noEmit', '--strict', '--skipLibCheck', '--module', 'nodenext', '--target', 'es2022'];
const types = spawnSync(process.execPath, [tsc, ...options, ...files], { encoding: 'utf8' });
if (types.status !== 0) failures.push(types.stdout + types.stderr);
for (const failure of failures) console.error(failure);
if (failures.length > 0) process.exit(1);
console.log(`${objects.length} objects of the Gateway API and of the Prometheus operator are valid`);
