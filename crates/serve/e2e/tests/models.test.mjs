// Several models: one guides another, and a distilled one has steps of its own.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { gray, pixels, rerun, settled, staged } from '../stage.mjs';

const CANVAS = '#sample canvas';
const folder = mkdtempSync(join(tmpdir(), 'skipstone-'));
after(() => rmSync(folder, { recursive: true }));

/** The built-in model with an output layer that is a tenth too small. */
function weakened(path) {
  execFileSync(process.env.SKIPSTONE, ['convert', '--to', path], { stdio: 'ignore' });
  const file = join(path, 'unet', 'diffusion_pytorch_model.safetensors');
  const bytes = readFileSync(file);
  const body = 8 + Number(bytes.readBigUInt64LE(0));
  const { dtype, data_offsets: [begin, end] } = JSON.parse(bytes.subarray(8, body))['conv_out.weight'];
  assert.equal(dtype, 'F32');
  for (let at = body + begin; at < body + end; at += 4) bytes.writeFloatLE(0.9 * bytes.readFloatLE(at), at);
  writeFileSync(file, bytes);
  return path;
}

/** The built-in model with the scheduler of a student of four steps. */
function student(path) {
  execFileSync(process.env.SKIPSTONE, ['convert', '--to', path], { stdio: 'ignore' });
  const file = join(path, 'scheduler', 'scheduler_config.json');
  const config = JSON.parse(readFileSync(file));
  writeFileSync(file, JSON.stringify({ ...config, timestep_spacing: 'trailing', num_inference_steps: 4 }));
  return path;
}

const stage = staged('--carried', '--model', weakened(join(folder, 'weak')), '--model', student(join(folder, 'student')));

test('a guide is chosen on the page, gets a weight, and the images are those of the API', async () => {
  const { page, done } = await stage.visit('#tab=sample&steps=4&n=4&seed=3');
  await settled(page, 'sample');
  const alone = await pixels(page, CANVAS);
  assert.ok(!(await page.isVisible('#s-guidance')), 'a weight without a guide');
  const [first, ...others] = await page.locator('#s-model option').evaluateAll((all) => all.map((option) => option.value));
  const offered = await page.locator('#s-guide option:not([disabled])').evaluateAll((all) => all.map((option) => option.value));
  assert.deepEqual(offered, ['', ...others]);
  await rerun(page, 'sample', () => page.selectOption('#s-guide', others[0]));
  assert.equal(await page.inputValue('#s-guidance'), '2');
  const guided = await pixels(page, CANVAS);
  assert.notEqual(guided, alone);
  const command = await page.textContent('#sample pre');
  assert.ok(command.includes('--guidance 2') && command.includes('--guide '), command);
  const shown = await gray(page, CANVAS, 28, 2);
  const query = new URLSearchParams({ model: first, n: 4, steps: 4, seed: 3, guide: others[0], guidance: 2 });
  const wanted = await page.evaluate(async (query) => {
    const image = await createImageBitmap(await (await fetch(`/v1/sample.png?${query}`)).blob());
    const canvas = Object.assign(document.createElement('canvas'), { width: image.width, height: image.height });
    const context = canvas.getContext('2d');
    context.drawImage(image, 0, 0);
    return { width: image.width, data: [...context.getImageData(0, 0, image.width, image.height).data] };
  }, query.toString());
  // Tiles of the picture: two across, a border around each, magnified by a whole number.
  const scale = Math.floor(wanted.width / 2 / 28);
  const border = (wanted.width - 2 * 28 * scale) / 3;
  const first28 = shown.map((_, j) => {
    const [x, y] = [border + (j % 28) * scale, border + Math.floor(j / 28) * scale];
    return wanted.data[4 * (y * wanted.width + x)];
  });
  assert.deepEqual(shown, first28);

  // The address holds the guide; taking it away takes the weight away.
  const address = await page.evaluate(() => location.hash);
  assert.match(address, /guide=[^&]+&guidance=2/);
  await rerun(page, 'sample', () => page.selectOption('#s-guide', ''));
  assert.equal(await pixels(page, CANVAS), alone);
  assert.ok(!(await page.isVisible('#s-guidance')));
  await done();

  const again = await stage.visit(address);
  await settled(again.page, 'sample');
  assert.equal(await pixels(again.page, CANVAS), guided);
  await again.done();
});

test('a comparison takes a guide too', async () => {
  const { page, done } = await stage.visit('#tab=compare&steps=2&eta=0&n=2');
  await settled(page, 'compare');
  const alone = await pixels(page, '#compare td canvas');
  const others = await page.locator('#c-guide option:not([disabled])').evaluateAll((all) => all.map((option) => option.value));
  await rerun(page, 'compare', () => page.selectOption('#c-guide', others[1]));
  assert.notEqual(await pixels(page, '#compare td canvas'), alone);
  assert.match(await page.textContent('#compare pre'), /--guidance 2 --guide /);
  await done();
});

test('a student begins with its own steps, and a note tells where others are asked for', async () => {
  const { page, done } = await stage.visit('#tab=sample&n=1');
  await settled(page, 'sample');
  assert.equal(await page.inputValue('#s-steps'), '20');
  const models = await page.locator('#s-model option').evaluateAll((all) => all.map((option) => option.value));
  const own = models.find((id) => id.startsWith('student'));
  await rerun(page, 'sample', () => page.selectOption('#s-model', own));
  assert.equal(await page.inputValue('#s-steps'), '4');
  assert.equal(await page.textContent('#sample .status'), '1 image in 4 steps');
  await rerun(page, 'sample', async () => {
    await page.fill('#s-steps', '7');
    await page.press('#s-steps', 'Enter');
  });
  assert.match(await page.textContent('#sample .status'), /^1 image in 7 steps\. Note: the model was distilled for 4 steps/);
  // What the visitor has set stays; what nobody has set follows the model.
  await rerun(page, 'sample', () => page.selectOption('#s-model', models[0]));
  assert.equal(await page.inputValue('#s-steps'), '7');
  await done();

  const again = await stage.visit(`#tab=sample&n=1&model=${own}`);
  await settled(again.page, 'sample');
  assert.equal(await again.page.inputValue('#s-steps'), '4');
  await again.done();
});
