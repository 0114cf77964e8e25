// Sampling: images sharpen while they come, can be gone back to, and are what the API says.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { decoded, gray, pixels, rerun, settled, sharpness, shows, showsOther, staged } from '../stage.mjs';

const CANVAS = '#sample canvas';
const SIDE = 28;
const stage = staged();

test('images appear and sharpen while the run is under way', async () => {
  const { page, done } = await stage.visit('#tab=sample&steps=2&n=4');
  await settled(page, 'sample');
  // Every picture that is shown, and whether the run was still under way.
  await page.evaluate(() => {
    window.seen = [];
    const [canvas, section] = [document.querySelector('#sample canvas'), document.getElementById('sample')];
    const look = () => {
      const url = canvas.toDataURL();
      if (url !== window.seen.at(-1)?.url) window.seen.push({ url, busy: section.getAttribute('aria-busy') === 'true' });
      requestAnimationFrame(look);
    };
    look();
  });
  await rerun(page, 'sample', async () => {
    await page.fill('#s-steps', '40');
    await page.press('#s-steps', 'Enter');
  });
  const seen = await page.evaluate(() => window.seen);
  const live = seen.filter((picture) => picture.busy);
  assert.ok(new Set(live.map((picture) => picture.url)).size >= 5, `${live.length} pictures while it ran`);

  // The first is a blur, the last is not.
  await page.focus('#sample .skips input');
  const sharp = await pixels(page, CANVAS);
  const last = await gray(page, CANVAS, SIDE, 2);
  await page.keyboard.press('Home');
  await showsOther(page, CANVAS, sharp);
  const first = await gray(page, CANVAS, SIDE, 2);
  assert.ok(sharpness(first, SIDE) < 0.7 * sharpness(last, SIDE), `${sharpness(first, SIDE)} and ${sharpness(last, SIDE)}`);
  await done();
});

test('the images are those of the API, and the picture is that of the command', async () => {
  const { page, done } = await stage.visit('#tab=sample&steps=6&n=5&seed=11&eta=0.5');
  await settled(page, 'sample');
  const { png, command } = await page.evaluate(async () => {
    const body = JSON.stringify({ n: 1, first: 3, steps: 6, seed: 11, eta: 0.5 });
    return (await fetch('/v1/sample', { method: 'POST', headers: { 'Content-Type': 'application/json' }, body })).json();
  });
  const one = await decoded(page, png);
  const shown = await gray(page, CANVAS, SIDE, 3, 3);
  // The grid of a single image has a border, and may be magnified.
  const scale = Math.floor(one.width / SIDE);
  const edge = (one.width - scale * SIDE) / 2;
  const expected = shown.map((_, j) => one.gray[(edge + Math.floor(j / SIDE) * scale) * one.width + edge + (j % SIDE) * scale]);
  assert.deepEqual(shown, expected);
  assert.match(command, /^skipstone sample /);
  const words = await page.textContent('#sample pre');
  for (const flag of ['-n 5', '--steps 6', '--eta 0.5', '--seed 11']) assert.ok(words.includes(flag), `${words}: ${flag}`);

  const [download] = await Promise.all([page.waitForEvent('download'), page.click('#sample .download')]);
  assert.match(download.suggestedFilename(), /\.png$/);
  const file = await download.createReadStream().then(async (stream) => Buffer.concat(await stream.toArray()));
  const answer = await fetch(`${stage.origin}/v1/sample.png?n=5&steps=6&seed=11&eta=0.5`);
  const [ours, theirs] = [await decoded(page, file.toString('base64')), await decoded(page, Buffer.from(await answer.arrayBuffer()).toString('base64'))];
  assert.deepEqual(ours, theirs);
  await done();
});

test('the time line goes back and forth, by keys and by pointer', async () => {
  const { page, done } = await stage.visit('#tab=sample&steps=10&n=4&spacing=quadratic');
  await settled(page, 'sample');
  const range = page.locator('#sample .skips input');
  const end = await pixels(page, CANVAS);
  await range.focus();
  // DDIM lands on its last x̂₀, so the first step back changes nothing; every other does.
  await page.keyboard.press('ArrowLeft');
  await shows(page, CANVAS, end);
  const pictures = [end];
  for (let i = 0; i < 2; i += 1) {
    await page.keyboard.press('ArrowLeft');
    pictures.push(await showsOther(page, CANVAS, pictures.at(-1)));
  }
  assert.equal(new Set(pictures).size, 3);
  assert.match(await range.getAttribute('aria-valuetext'), /step 8 of 10, t = \d+/);
  assert.match(await page.textContent('#sample .readout'), /step 8 of 10/);

  const box = await page.locator('#sample .skips').boundingBox();
  await page.mouse.move(box.x + box.width - 4, box.y + 50);
  await page.mouse.down();
  await page.mouse.move(box.x + 4, box.y + 50, { steps: 6 });
  await page.mouse.up();
  assert.equal(await range.inputValue(), '1');
  await page.mouse.move(box.x + 4, box.y + 50);
  await page.mouse.down();
  await page.mouse.move(box.x + box.width + 200, box.y + 50, { steps: 6 });
  await page.mouse.up();
  await shows(page, CANVAS, end);

  await page.click('#sample .replay');
  await page.waitForFunction(() => document.querySelector('#sample .skips input').value === '3');
  await page.waitForFunction(() => document.querySelector('#sample .replay').textContent === 'Replay');
  await shows(page, CANVAS, end);
  await done();
});

test('the table holds the times and coefficients of the run', async () => {
  const { page, done } = await stage.visit('#tab=sample&steps=4&n=1&spacing=linear&eta=1');
  await settled(page, 'sample');
  await page.click('#sample summary');
  // It is written once the browser says that it is open.
  await page.locator('#sample tbody tr').nth(3).waitFor();
  const cells = await page.locator('#sample tbody tr').evaluateAll((rows) => rows.map((row) => [...row.cells].map((cell) => cell.textContent)));
  assert.deepEqual(cells.map((row) => row.slice(0, 3)), [['1', '999', '749'], ['2', '749', '499'], ['3', '499', '249'], ['4', '249', 'image']]);
  // ᾱ of the linear schedule, 1e-4 to 0.02 in 1000 steps, from its definition.
  let alpha = 1;
  const bars = Array.from({ length: 1000 }, (_, t) => { alpha *= 1 - (1e-4 + (t * (0.02 - 1e-4)) / 999); return alpha; });
  const [t, s] = [bars[749], bars[499]];
  const sigma = Math.sqrt(((1 - s) / (1 - t)) * (1 - t / s));
  const near = (text, value) => assert.ok(Math.abs(Number(text) - value) < 6e-5, `${text}, expected ${value}`);
  [t, s, sigma, Math.sqrt(s), Math.sqrt(1 - s - sigma ** 2)].forEach((value, i) => near(cells[1][3 + i], value));
  await done();
});

test('what it took stands beside what a thousand steps would have', async () => {
  const { page, done } = await stage.visit('#tab=sample&steps=10&n=4');
  await settled(page, 'sample');
  assert.match(await page.textContent('#sample .ours'), /[\d.]+ m?s · 10 network calls/);
  assert.match(await page.textContent('#sample .ddpm'), /about [\d.]+ (ms|s|min) · 1,000 network calls/);
  const [ours, ddpm] = await page.locator('#sample .cost i').evaluateAll((bars) => bars.map((bar) => bar.offsetWidth));
  assert.ok(Math.abs(ours / ddpm - 0.01) < 0.005, `${ours} and ${ddpm}`);
  await done();
});

test('a long run can be stopped, and what came can be looked at', async () => {
  const { page, done } = await stage.visit('#tab=sample&steps=1000&n=16');
  await page.waitForFunction(() => Number(document.querySelector('#sample .skips input').value) > 3);
  await page.click('#sample .stop');
  await page.waitForFunction(() => document.querySelector('#sample .status').textContent === 'Stopped');
  const there = Number(await page.locator('#sample .skips input').getAttribute('max'));
  assert.ok(there < 1000);
  await page.focus('#sample .skips input');
  const before = await pixels(page, CANVAS);
  await page.keyboard.press('Home');
  await showsOther(page, CANVAS, before);
  // The server is free for the next one at once.
  await rerun(page, 'sample', async () => {
    await page.fill('#s-steps', '2');
    await page.press('#s-steps', 'Enter');
  });
  await done();
});
