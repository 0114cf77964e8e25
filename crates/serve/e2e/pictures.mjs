// Makes the pictures of docs/serving.md: crates/serve/e2e/run target/release/skipstone pictures

import { mkdirSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { launch, serve, settled, visit } from './stage.mjs';

const FOLDER = fileURLToPath(new URL('../../../docs/images/serve/', import.meta.url));
const SAMPLE = 'tab=sample&n=16&steps=20&seed=3';
const PICTURES = [
  { name: 'sample', hash: SAMPLE, whole: true },
  { name: 'interpolate', hash: 'tab=interpolate&seeds=1,2,3,4&points=5&steps=10&at=0.35,0.6', whole: true, colorScheme: 'dark' },
  { name: 'phone', hash: SAMPLE, viewport: { width: 375, height: 740 } },
];

mkdirSync(FOLDER, { recursive: true });
const [server, browser] = await Promise.all([serve(), launch()]);
try {
  for (const { name, hash, whole = false, ...options } of PICTURES) {
    const { page, done } = await visit(browser, server.origin, `#${hash}`, { reducedMotion: 'reduce', ...options });
    await settled(page, hash.match(/tab=(\w+)/)[1]);
    // The image at the point, where there is one, comes after the tiles.
    await page.waitForFunction(() => !document.body.innerText.includes('nearest'));
    await page.screenshot({ path: `${FOLDER}${name}.png`, fullPage: whole });
    await done();
  }
} finally {
  await browser.close();
  await server.stop();
}
