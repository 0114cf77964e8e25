// What the tests stand on: a server of the binary under test, a browser, pages that are watched, and pixels.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { createServer } from 'node:net';
import { after, before } from 'node:test';
import { setTimeout as sleep } from 'node:timers/promises';
import { chromium } from 'playwright-core';

const ARGUMENTS = ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
  '--disable-component-update', '--disable-sync'];

async function freePort() {
  const server = createServer().listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = server.address();
  server.close();
  await once(server, 'close');
  return port;
}

/** A server on a port of its own; `stop()` ends it and asserts that it went in peace. */
export async function serve(...more) {
  const origin = `http://127.0.0.1:${await freePort()}`;
  const child = spawn(process.env.SKIPSTONE, ['serve', '--listen', origin.slice(7), ...more], { stdio: ['ignore', 'ignore', 'pipe'] });
  let log = '';
  child.stderr.on('data', (text) => { log += text; });
  for (let left = 300; ; left -= 1) {
    if (child.exitCode !== null || !left) throw new Error(`the server did not start:\n${log}`);
    if (await fetch(`${origin}/ready`).then((answer) => answer.ok, () => false)) break;
    await sleep(100);
  }
  const stop = async () => {
    const ended = child.exitCode === null ? once(child, 'exit') : null;
    child.kill('SIGTERM');
    await ended;
    assert.ok(!/panicked/.test(log), log);
  };
  return { origin, stop };
}

export const launch = () => chromium.launch({ executablePath: process.env.CHROMIUM, args: ARGUMENTS });

/**
 * A fresh page, watched: `done()` closes it and asserts that nothing left the origin and that the console holds no error but
 * those expected (`forgive`, a regular expression).
 */
export async function visit(browser, origin, hash, { forgive = null, ...options } = {}) {
  const context = await browser.newContext({ viewport: { width: 1180, height: 860 }, ...options });
  const page = await context.newPage();
  page.setDefaultTimeout(60000);
  const [strangers, errors] = [[], []];
  page.on('request', (request) => {
    if (!request.url().startsWith(origin) && !/^(data|blob):/.test(request.url())) strangers.push(request.url());
  });
  page.on('pageerror', (error) => errors.push(String(error)));
  page.on('console', (message) => {
    if (message.type() === 'error' && !forgive?.test(message.text())) errors.push(message.text());
  });
  await page.goto(`${origin}/${hash}`);
  await page.locator('.tab:visible').waitFor();
  const done = async () => {
    await context.close();
    assert.deepEqual(strangers, [], 'requests that left the origin');
    assert.deepEqual(errors, [], 'errors in the console');
  };
  return { page, context, done };
}

/** A server with these arguments, and a browser, for all tests of a file. */
export function staged(...more) {
  let server;
  let browser;
  before(async () => { [server, browser] = await Promise.all([serve(...more), launch()]); });
  after(async () => {
    await browser?.close();
    await server?.stop();
  });
  return {
    get origin() { return server.origin; },
    visit: (hash, options) => visit(browser, server.origin, hash, options),
  };
}

/** Waits until a tab has its result. */
export const settled = (page, tab) => page.waitForSelector(`#${tab}[aria-busy=false] .take:not([hidden]):not([inert])`, { timeout: 60000 });

/** Waits until `act` has led to another result of the tab. What would take long on this machine is not begun unasked: it is asked for. */
export async function rerun(page, tab, act) {
  await page.evaluate((id) => {
    window.begun = false;
    const section = document.getElementById(id);
    new MutationObserver((_, observer) => {
      if (section.getAttribute('aria-busy') !== 'true') return;
      observer.disconnect();
      window.begun = true;
    }).observe(section, { attributes: true, attributeFilter: ['aria-busy'] });
  }, tab);
  const hash = await page.evaluate(() => location.hash);
  await act();
  // The address says that the change has come in; where that is quick to run, it has begun or does so at once.
  await page.waitForFunction((before) => window.begun || location.hash !== before, hash);
  const begun = await page.waitForFunction(() => window.begun, null, { timeout: 1500 }).then(() => true, () => false);
  if (!begun) await page.click(`#${tab} .go [type=submit]`);
  await page.waitForFunction(() => window.begun);
  await settled(page, tab);
}

/** What a canvas shows. */
export const pixels = (page, selector) => page.locator(selector).evaluate((canvas) => canvas.toDataURL());

/** Waits until a canvas shows just this; fails where it does not come to that. */
export async function shows(page, selector, url) {
  const is = ([selector, url]) => document.querySelector(selector).toDataURL() === url;
  await page.waitForFunction(is, [selector, url]).catch(() => assert.fail(`${selector} shows something else`));
}

/** Waits until a canvas shows something other than this, and gives it. */
export async function showsOther(page, selector, url) {
  const is = ([selector, url]) => document.querySelector(selector).toDataURL() !== url;
  await page.waitForFunction(is, [selector, url]).catch(() => assert.fail(`${selector} shows the same`));
  return pixels(page, selector);
}

/** Bytes of gray of the image that a canvas shows alone, or of image `i` of `n` in `columns`, at the size the network made it. */
export const gray = (page, selector, side, columns = 1, i = 0) => page.locator(selector).evaluate((canvas, [side, columns, i]) => {
  const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
  // Scale and gap are whole numbers: columns · side · scale + (columns − 1) · gap is the width, with the largest scale.
  const scale = Math.floor(canvas.width / (columns * side));
  const gap = columns > 1 ? (canvas.width - columns * side * scale) / (columns - 1) : 0;
  const [left, top] = [(i % columns) * (side * scale + gap), Math.floor(i / columns) * (side * scale + gap)];
  return Array.from({ length: side * side }, (_, j) => {
    const [x, y] = [left + (j % side) * scale, top + Math.floor(j / side) * scale];
    return data[4 * (y * canvas.width + x)];
  });
}, [side, columns, i]);

/** Gray bytes of a PNG that came as base64, decoded by the browser, apart from the page's own code. */
export const decoded = (page, base64) => page.evaluate(async (text) => {
  const image = Object.assign(new Image(), { src: `data:image/png;base64,${text}` });
  await image.decode();
  const canvas = Object.assign(document.createElement('canvas'), { width: image.width, height: image.height });
  const context = canvas.getContext('2d');
  context.drawImage(image, 0, 0);
  const { data } = context.getImageData(0, 0, image.width, image.height);
  return { width: image.width, height: image.height, gray: Array.from({ length: data.length / 4 }, (_, j) => data[4 * j]) };
}, base64);

/** How much neighbouring pixels differ: small where an image is blurred. */
export function sharpness(image, side) {
  let sum = 0;
  for (let j = 0; j < image.length; j += 1) if ((j + 1) % side) sum += Math.abs(image[j + 1] - image[j]);
  return sum / image.length;
}
