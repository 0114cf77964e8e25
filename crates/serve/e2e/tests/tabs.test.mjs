// Interpolating, reconstructing, comparing; and links that bring everything back.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { decoded, gray, pixels, rerun, settled, shows, showsOther, staged } from '../stage.mjs';

const SIDE = 28;
const LARGE = '#interpolate .large canvas';
const stage = staged();

/** A picture that no data set holds: `draw` paints on 60×60 pixels. */
async function picture(page, draw) {
  const url = await page.evaluate((source) => {
    const canvas = Object.assign(document.createElement('canvas'), { width: 60, height: 60 });
    const context = canvas.getContext('2d');
    context.fillRect(0, 0, 60, 60);
    context.fillStyle = '#ddd';
    new Function('context', source)(context);
    return canvas.toDataURL();
  }, draw);
  return { name: 'drawn.png', mimeType: 'image/png', buffer: Buffer.from(url.split(',')[1], 'base64') };
}
const SHIRT = 'context.fillRect(18, 10, 24, 40); context.fillRect(8, 12, 44, 12);';
const TROUSERS = 'context.fillRect(18, 6, 24, 12); context.fillRect(18, 6, 9, 48); context.fillRect(33, 6, 9, 48);';

test('a point is dragged between four seeds', async () => {
  const { page, done } = await stage.visit('#tab=interpolate&seeds=1,2,3,4&points=4&steps=6&at=0,0');
  await settled(page, 'interpolate');
  // In the corner is the image of that seed alone.
  const { png } = await page.evaluate(async () => {
    const body = JSON.stringify({ seed: 1, n: 1, steps: 6 });
    return (await fetch('/v1/sample', { method: 'POST', headers: { 'Content-Type': 'application/json' }, body })).json();
  });
  const one = await decoded(page, png);
  const scale = Math.floor(one.width / SIDE);
  const edge = (one.width - scale * SIDE) / 2;
  const corner = await gray(page, LARGE, SIDE);
  assert.deepEqual(corner, corner.map((_, j) => one.gray[(edge + Math.floor(j / SIDE) * scale) * one.width + edge + (j % SIDE) * scale]));

  const box = await page.locator('#interpolate .plane canvas').boundingBox();
  await page.mouse.move(box.x + 10, box.y + 10);
  await page.mouse.down();
  const seen = new Set();
  for (let i = 1; i <= 8; i += 1) {
    await page.mouse.move(box.x + (box.width * i) / 10, box.y + (box.height * i) / 10);
    await page.waitForTimeout(30);
    seen.add(await pixels(page, LARGE));
  }
  await page.mouse.up();
  assert.ok(seen.size >= 3, `${seen.size} images on the way`);
  // At rest the image right there takes the place of the nearest one.
  const caption = page.locator('#interpolate .large figcaption');
  await page.waitForFunction(() => !document.querySelector('#interpolate .large figcaption').textContent.includes('nearest'));
  assert.match(await caption.textContent(), /^\d+ % across, \d+ % down$/);
  assert.ok(!seen.has(await pixels(page, LARGE)), 'the image at the point is no tile');
  await done();
});

test('the point moves by arrow keys, from tile to tile', async () => {
  const { page, done } = await stage.visit('#tab=interpolate&seeds=1,2,3,4&points=3&steps=3&at=0,0');
  await settled(page, 'interpolate');
  const plane = page.locator('#interpolate .plane .frame');
  await plane.focus();
  const pictures = [await pixels(page, LARGE)];
  for (const key of ['ArrowRight', 'ArrowDown', 'ArrowDown', 'ArrowRight']) {
    await page.keyboard.press(key);
    pictures.push(await showsOther(page, LARGE, pictures.at(-1)));
  }
  assert.equal(new Set(pictures).size, 5);
  assert.equal(await plane.getAttribute('aria-valuetext'), '100 % across, 100 % down');
  await page.waitForFunction(() => location.hash.includes('at=1,1'));
  await done();
});

test('two pictures of my own are interpolated, and the link holds them', async () => {
  const { page, context, done } = await stage.visit('#tab=interpolate&between=images&points=5&steps=6');
  const files = page.locator('#interpolate [type=file]');
  await files.nth(0).setInputFiles(await picture(page, SHIRT));
  await rerun(page, 'interpolate', async () => files.nth(1).setInputFiles(await picture(page, TROUSERS)));
  await page.focus('#interpolate .plane .frame');
  for (const key of ['ArrowLeft', 'ArrowLeft', 'ArrowRight']) await page.keyboard.press(key);
  await page.waitForFunction(() => /images=png:[^,]+,png:/.test(location.hash) && location.hash.includes('at=0.25'));
  await sameFromLink(page, context, 'interpolate', ['#interpolate .plane canvas', LARGE]);
  await done();
});

test('a picture is uploaded, and comes back better with more steps', async () => {
  const { page, context, done } = await stage.visit('#tab=reconstruct&steps=5,20,50');
  await rerun(page, 'reconstruct', async () => page.setInputFiles('#reconstruct [type=file]', await picture(page, SHIRT)));
  const cards = page.locator('#reconstruct .rebuilt figure');
  assert.equal(await cards.count(), 4);
  const original = await gray(page, '#reconstruct .original canvas', SIDE);
  assert.ok(original[14 * SIDE + 14] > 200 && original[0] < 20, 'it is the picture drawn');

  // The error that is shown is that of the pixels shown, up to their rounding and clamping.
  const title = '#reconstruct .chart circle title';
  const errors = await page.locator(title).evaluateAll((all) => all.map((one) => Number(one.textContent.split(': ')[1])));
  assert.equal(errors.length, 3);
  assert.ok(errors[2] < errors[0], `${errors}`);
  for (let i = 0; i < 3; i += 1) {
    const back = await gray(page, `#reconstruct .rebuilt figure:nth-of-type(${i + 2}) canvas:last-child`, SIDE);
    const mse = back.reduce((sum, x, j) => sum + ((x - original[j]) / 255) ** 2, 0) / back.length;
    assert.ok(mse <= errors[i] * 1.05 + 1e-5, `clamping brings it nearer: ${mse}, shown ${errors[i]}`);
  }
  await page.waitForFunction(() => location.hash.includes('image=png:'));
  await sameFromLink(page, context, 'reconstruct', ['#reconstruct .rebuilt figure:nth-of-type(4) canvas:last-child']);
  await done();
});

test('a test image is picked where they are installed', async (t) => {
  const { available } = await (await fetch(`${stage.origin}/v1/test-images`)).json();
  if (!available) return t.skip('the data set is not installed (apt-get install dataset-fashion-mnist)');
  const { page, done } = await stage.visit('#tab=reconstruct&steps=5,10');
  await settled(page, 'reconstruct');
  const before = await pixels(page, '#reconstruct .original canvas');
  await rerun(page, 'reconstruct', () => page.click('#reconstruct .thumb[data-k="2"]'));
  assert.notEqual(await pixels(page, '#reconstruct .original canvas'), before);
  assert.equal(await page.getAttribute('#reconstruct .thumb[data-k="2"]', 'aria-pressed'), 'true');
  await done();
});

test('the matrix fills cell by cell, from the same latents', async () => {
  const { page, context, done } = await stage.visit('#tab=compare&steps=2,5,10&eta=0,1&n=2');
  await settled(page, 'compare');
  const cells = page.locator('#compare .matrix canvas');
  assert.equal(await cells.count(), 6);
  assert.deepEqual(await page.locator('#compare .matrix th').allTextContents(), ['η = 0', 'η = 1', 'S = 2', 'S = 5', 'S = 10']);
  const pictures = await cells.evaluateAll((all) => all.map((canvas) => canvas.toDataURL()));
  assert.equal(new Set(pictures).size, 6);
  // Fewer, and the cell is the same.
  await rerun(page, 'compare', () => page.locator('#compare .chips input[name=eta][value="0.5"]').check({ force: true }));
  assert.equal(await cells.count(), 9);
  assert.equal(await cells.nth(8).evaluate((canvas) => canvas.toDataURL()), pictures[5]);
  await sameFromLink(page, context, 'compare', ['#compare .matrix tr:nth-child(2) td:nth-child(3) canvas']);
  await done();
});

test('a link brings a sample back to the pixel, and the step that was looked at', async () => {
  const { page, context, done } = await stage.visit('#tab=sample&steps=7&n=6&seed=3&eta=0.7&spacing=quadratic');
  await settled(page, 'sample');
  await sameFromLink(page, context, 'sample', ['#sample canvas']);
  await page.focus('#sample .skips input');
  for (let i = 0; i < 4; i += 1) await page.keyboard.press('ArrowLeft');
  await page.waitForFunction(() => location.hash.includes('step=4'));
  await sameFromLink(page, context, 'sample', ['#sample canvas']);
  await done();
});

/** Asks for more than is begun unasked. */
async function longer(page, tab) {
  await page.locator(`#${tab} [name=steps]`).fill('1000');
  await page.locator(`#${tab} [name=steps]`).blur();
  await page.waitForFunction(() => location.hash.includes('steps=1000'));
  assert.equal(await page.getAttribute(`#${tab}`, 'aria-busy'), 'false', 'too long to begin unasked');
}

test('a link is that of the images shown, whatever the form says since', async () => {
  const { page, context, done } = await stage.visit('#tab=sample&steps=3&n=64&seed=8');
  await settled(page, 'sample');
  await longer(page, 'sample');
  await sameFromLink(page, context, 'sample', ['#sample canvas']);
  await done();
});

test('the image at the point is one of the run shown, whatever the form says since', async () => {
  const { page, done } = await stage.visit('#tab=interpolate&seeds=1,2,3,4&points=8&steps=3&at=0,0', { forgive: /status of 422/ });
  await settled(page, 'interpolate');
  await longer(page, 'interpolate');
  await page.focus('#interpolate .plane .frame');
  const [request] = await Promise.all([
    page.waitForRequest((request) => request.url().endsWith('/v1/interpolate')),
    page.keyboard.press('Shift+ArrowRight'),
  ]);
  const { steps, at } = request.postDataJSON();
  assert.deepEqual([steps, at.length], [3, 2]);
  await page.waitForFunction(() => !document.querySelector('#interpolate .large figcaption').textContent.includes('nearest'));
  // What goes wrong with it leaves the grid and what can be taken away.
  await page.route('**/v1/interpolate', (route) => route.fulfill({ status: 422, json: { error: { code: 'x', message: 'no numbers', field: null } } }));
  await page.keyboard.press('Shift+ArrowRight');
  await page.waitForFunction(() => /nearest image; no numbers$/.test(document.querySelector('#interpolate .large figcaption').textContent));
  assert.ok(await page.locator('#interpolate .take').isVisible());
  await done();
});

test('more images than one request may have are not asked for', async () => {
  const { page, done } = await stage.visit('#tab=compare&steps=2,5,10&eta=0,0.5,1&n=9');
  const note = page.locator('#compare .field .error');
  await note.waitFor();
  assert.match(await note.textContent(), /9 cells of 9 images are 81; at most 64/);
  assert.equal(await page.getAttribute('#c-n', 'max'), '7');
  await done();
});

/** Copies the link, opens it in a page that knows nothing, and asserts that these canvases show the same. */
async function sameFromLink(page, context, tab, canvases) {
  await context.grantPermissions(['clipboard-read', 'clipboard-write'], { origin: stage.origin });
  await page.click(`#${tab} .link`);
  const link = await page.evaluate(() => navigator.clipboard.readText());
  assert.ok(link.startsWith(`${stage.origin}/#tab=${tab}&`), link);
  const fresh = await stage.visit(link.slice(stage.origin.length + 1));
  await settled(fresh.page, tab);
  for (const canvas of canvases) await shows(fresh.page, canvas, await pixels(page, canvas));
  await fresh.done();
}
