// For whom the page is: phones, keyboards, dark rooms, people who make mistakes, servers that are busy.

import assert from 'node:assert/strict';
import { test } from 'node:test';
import { pixels, rerun, settled, staged } from '../stage.mjs';

const TABS = ['sample', 'interpolate', 'reconstruct', 'compare'];
const stage = staged();

test('what means nothing is explained beside its field, and goes when mended', async () => {
  const { page, done } = await stage.visit('#tab=sample&steps=2&n=1', { forgive: /status of 400/ });
  await settled(page, 'sample');
  const before = await pixels(page, '#sample canvas');
  await page.fill('#s-eta', '0.5');
  const [answer] = await Promise.all([
    page.waitForResponse((response) => response.status() === 400),
    page.selectOption('#s-solver', 'heun'),
  ]);
  const { error } = await answer.json();
  const note = page.locator('#sample .field .error');
  await note.waitFor();
  assert.equal(await note.textContent(), error.message);
  assert.equal(await note.getAttribute('role'), 'alert');
  const field = page.locator('#sample [aria-invalid=true]').first();
  assert.equal(await field.getAttribute('aria-describedby'), await note.getAttribute('id'));
  assert.equal(await pixels(page, '#sample canvas'), before, 'the images stay');
  await rerun(page, 'sample', () => page.selectOption('#s-solver', 'ddim'));
  assert.equal(await page.locator('#sample .error:visible').count(), 0);

  // No number at all is said without asking the server.
  await page.fill('#s-steps', '');
  await page.press('#s-steps', 'Enter');
  assert.match(await page.locator('#sample .field .error').textContent(), /whole number/);
  await done();
});

test('a link to what is not to be had says so', async () => {
  const { page, done } = await stage.visit('#tab=sample&steps=2&n=1&solver=magic');
  assert.match(await page.locator('#sample .field .error').textContent(), /magic/);
  await rerun(page, 'sample', () => page.click('#sample [type=submit]'));
  assert.equal(await page.locator('#sample .error:visible').count(), 0);
  await done();
});

test('a file that is no picture is refused in words', async () => {
  const { page, done } = await stage.visit('#tab=reconstruct&steps=5', { forgive: /status of 4\d\d/ });
  const file = { name: 'fake.png', mimeType: 'image/png', buffer: Buffer.from('this is no picture') };
  await page.setInputFiles('#reconstruct [type=file]', file);
  await page.locator('#reconstruct .pick .error').waitFor();
  assert.ok((await page.locator('#reconstruct .pick .error').textContent()).length > 10);
  await done();
});

test('a busy server is asked again when it says', async () => {
  const { page, done } = await stage.visit('#tab=sample&steps=2&n=1', { forgive: /status of 429/ });
  await settled(page, 'sample');
  let refused = 0;
  await page.route('**/v1/stream*', (route) => {
    if (refused) return route.continue();
    refused += 1;
    const error = { code: 'busy', message: 'the queue is full', field: null, request_id: 'x' };
    return route.fulfill({ status: 429, headers: { 'Retry-After': '1' }, json: { error } });
  });
  await rerun(page, 'sample', async () => {
    await page.fill('#s-seed', '5');
    await page.press('#s-seed', 'Enter');
    await page.waitForFunction(() => /busy.*1 s/.test(document.querySelector('#sample .status').textContent));
  });
  assert.equal(refused, 1);
  await done();
});

test('a connection that is cut is told, not taken for a result', async () => {
  const { page, done } = await stage.visit('#tab=sample&steps=2&n=1');
  await settled(page, 'sample');
  await page.route('**/v1/stream*', (route) => route.fulfill({ contentType: 'text/event-stream', body: ': nothing\n\n' }));
  await page.fill('#s-seed', '5');
  await page.press('#s-seed', 'Enter');
  await page.waitForFunction(() => /connection ended/.test(document.querySelector('#sample .result .error').textContent));
  assert.equal(await page.locator('#sample .take:visible').count(), 0);
  await done();
});

test('a server that wants a token is given one', async () => {
  const { page, done } = await stage.visit('#tab=compare&steps=2&eta=0&n=1', { forgive: /status of 401/ });
  await settled(page, 'compare');
  await page.route('**/v1/**', async (route) => {
    if ((await route.request().headerValue('authorization')) === 'Bearer open-sesame') return route.continue();
    return route.fulfill({ status: 401, json: { error: { code: 'unauthorized', message: 'no token', field: null } } });
  });
  await rerun(page, 'compare', async () => {
    await page.click('#compare .go [type=submit]');
    const note = page.locator('#token .error');
    assert.equal(await note.isVisible(), false);
    // A token that cannot be sent is refused at once, a wrong one when the server refuses it.
    for (const [token, word] of [['Öffne dich', /ASCII letters/], ['open-barley', /token is wrong/]]) {
      await page.fill('#token-value', token);
      await page.press('#token-value', 'Enter');
      await page.waitForFunction((word) => new RegExp(word).test(document.querySelector('#token[open] .error')?.textContent), word.source);
    }
    await page.fill('#token-value', 'open-sesame');
    await page.press('#token-value', 'Enter');
  });
  await done();
});

for (const [name, width] of [['a phone', 360], ['a small phone', 320], ['a tablet', 768]]) {
  test(`on ${name} nothing is wider than the screen`, async () => {
    const { page, done } = await stage.visit('#tab=sample&steps=3&n=9',
      { viewport: { width, height: 740 }, deviceScaleFactor: 2, hasTouch: true, isMobile: true });
    for (const [tab, state] of [['sample', '&steps=3&n=9'], ['interpolate', '&points=7&steps=2'], ['reconstruct', '&steps=5,10,20'], ['compare', '&steps=2,5&eta=0,0.5,1&n=4']]) {
      await page.evaluate((hash) => { location.hash = hash; }, `#tab=${tab}${state}`);
      await settled(page, tab).catch(async (error) => {
        // Without test images there is nothing to reconstruct yet.
        if (tab !== 'reconstruct' || !await page.locator('#reconstruct .blank').isVisible()) throw error;
      });
      const wide = await page.evaluate(() => document.documentElement.scrollWidth);
      assert.ok(wide <= width, `${tab}: ${wide} of ${width} pixels`);
      const small = await page.locator(`#${tab} button:visible, nav a`).evaluateAll((all) => all
        .map((one) => [one.textContent.trim() || one.getAttribute('aria-label'), one.getBoundingClientRect()])
        .filter(([, box]) => box.height < 30 || box.width < 30).map(([text]) => text));
      assert.deepEqual(small, [], `${tab}: too small for a finger`);
    }
    await done();
  });
}

test('everything can be done with the keyboard', async () => {
  const { page, done } = await stage.visit('#tab=sample&steps=3&n=2');
  await settled(page, 'sample');
  const focused = () => page.evaluate(() => {
    const one = document.activeElement;
    const marks = [one, one.nextElementSibling, one.closest('.button')].filter(Boolean);
    const box = one.getBoundingClientRect();
    return {
      name: one.getAttribute('aria-label') || one.labels?.[0]?.textContent.trim() || one.textContent.trim(),
      id: one.id,
      seen: box.width > 0 && box.height > 0,
      ring: marks.some((mark) => getComputedStyle(mark).outlineStyle !== 'none'),
      body: one === document.body,
    };
  });
  const reached = [];
  for (let i = 0; i < 60; i += 1) {
    await page.keyboard.press('Tab');
    const now = await focused();
    if (now.body) break;
    reached.push(now);
    assert.ok(now.name, `stop ${i} has a name: ${JSON.stringify(now)}`);
    assert.ok(now.seen && now.ring, `stop ${i} can be seen: ${JSON.stringify(now)}`);
  }
  const names = reached.map((one) => one.name);
  for (const wanted of ['Interpolate', 'Step shown', 'Replay', 'Steps S', 'Steps S, slider', 'Another seed', 'Copy link', 'Download PNG', 'Copy command']) {
    assert.ok(names.includes(wanted), `${wanted} in ${names.join(' | ')}`);
  }

  // A run from the keyboard alone: a field, another value, Enter; then back in time.
  await page.locator('#s-steps').focus();
  await rerun(page, 'sample', async () => {
    await page.keyboard.press('ControlOrMeta+a');
    await page.keyboard.type('5');
    await page.keyboard.press('Enter');
  });
  await page.locator('#sample .skips input').focus();
  await page.keyboard.press('ArrowLeft');
  await page.keyboard.press('ArrowLeft');
  assert.match(await page.textContent('#sample .readout'), /step 4 of 5/);
  // A slider starts a run when it is moved.
  await rerun(page, 'sample', async () => {
    await page.locator('#s-n + input').focus();
    await page.keyboard.press('ArrowRight');
  });
  assert.equal(await page.inputValue('#s-n'), '4');
  await page.locator('nav a').nth(3).focus();
  await page.keyboard.press('Enter');
  await page.locator('#compare').waitFor();
  await page.goBack();
  await page.locator('#sample').waitFor();
  await done();
});

for (const colorScheme of ['light', 'dark']) {
  test(`letters are legible, ${colorScheme}`, async () => {
    const { page, done } = await stage.visit('#tab=sample&steps=2&n=1', { colorScheme });
    await settled(page, 'sample');
    const ratios = await page.evaluate(() => {
      const light = (color) => {
        const [r, g, b] = color.match(/[\d.]+/g).map((c) => (c / 255 <= 0.04045 ? c / 255 / 12.92 : ((c / 255 + 0.055) / 1.055) ** 2.4));
        return 0.2126 * r + 0.7152 * g + 0.0722 * b;
      };
      const ground = (one) => {
        for (let at = one; at; at = at.parentElement) {
          const color = getComputedStyle(at).backgroundColor;
          if (!/, 0\)$|transparent/.test(color)) return color;
        }
        return 'rgb(255, 255, 255)';
      };
      const all = [...document.querySelectorAll('#sample label, #sample p, #sample dd, #sample dt, #sample button, #sample legend, #sample summary, #sample pre, nav a, .name')];
      return all.filter((one) => one.offsetHeight && one.textContent.trim() && !one.disabled).map((one) => {
        const [a, b] = [light(getComputedStyle(one).color), light(ground(one))];
        return { text: one.textContent.trim().slice(0, 30), ratio: (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05), ground: b };
      });
    });
    assert.ok(ratios.length > 20);
    for (const { text, ratio } of ratios) assert.ok(ratio >= 4.5, `${text}: ${ratio.toFixed(2)}`);
    const body = ratios.find(({ text }) => text === 'skipstone').ground;
    assert.ok(colorScheme === 'dark' ? body < 0.05 : body > 0.8);
    await done();
  });
}

test('nothing moves for those who do not want it', async () => {
  const { page, done } = await stage.visit('#tab=sample&steps=4&n=1', { reducedMotion: 'reduce' });
  await settled(page, 'sample');
  const moving = await page.evaluate(() => document.getAnimations().length);
  assert.equal(moving, 0);
  const names = await page.locator('#sample .ring').evaluateAll((all) => all.map((one) => getComputedStyle(one).animationName));
  assert.ok(names.every((name) => name === 'none'));
  await done();
});

test('every tab tells what happens to those who do not see it', async () => {
  const { page, done } = await stage.visit('#tab=sample&steps=2&n=4');
  await settled(page, 'sample');
  for (const tab of TABS) assert.equal(await page.getAttribute(`#${tab} .status`, 'aria-live'), 'polite');
  assert.match(await page.textContent('#sample .status'), /4 images in 2 steps/);
  assert.equal(await page.getAttribute('#sample canvas', 'aria-label'), '4 sampled images');
  const unnamed = await page.locator('input:not([type=hidden]), select, button').evaluateAll((all) => all
    .filter((one) => !(one.labels?.length || one.getAttribute('aria-label') || one.textContent.trim() || one.querySelector('img[alt]'))).map((one) => one.outerHTML));
  assert.deepEqual(unnamed, []);
  await done();
});
