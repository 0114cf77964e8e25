// Reconstruction: a picture, its latent, and the decoded image, for several numbers of steps.

import { chart, power } from './chart.js';
import { values } from './link.js';
import { decode, sheet, single } from './pictures.js';
import { Picker } from './pick.js';
import { plural, Runner } from './runner.js';

/** Two digits, with a power of ten if the number is small. */
const small = (x) => (x >= 0.01 || x === 0 ? x.toPrecision(2) : x.toExponential(1).replace(/e-(\d+)/, (_, e) => `·${power(-e)}`));

export function reconstruct(section, changed) {
  const form = section.querySelector('form');
  const stage = section.querySelector('.rebuilt');
  const figure = section.querySelector('.chart');
  let original = null;
  let rows = [];

  const steps = () => (values(form).get('steps') ?? '').split(',').filter(Boolean).map(Number);
  const runner = new Runner(section, {
    word: 'Reconstruct',
    doing: 'Encoding and decoding',
    path: '/v1/reconstruct',
    changed,
    work: () => 2 * steps().reduce((sum, s) => sum + s, 0),
    body: request,
    summary: () => `Encoded and decoded, ${plural(rows.length, 'time')}`,
    download: async () => ({ name: 'skipstone-reconstruction.png', blob: await strip() }),
    on: { plan: begin, row: add },
  });
  const picker = new Picker(section.querySelector('.picks'), {
    name: 'image',
    title: 'Picture',
    picked: (error) => runner.picked(error),
  });

  async function request() {
    const one = { model: form.elements.model.value, steps: steps() };
    if (!one.steps.length) {
      runner.fail({ field: 'steps', message: 'choose at least one number of steps' });
      return null;
    }
    if (picker.test !== null) return { ...one, test_image: picker.test };
    const blob = await picker.blob();
    if (!blob) {
      runner.say('Choose a picture.');
      return null;
    }
    const body = new FormData();
    body.append('model', one.model);
    body.append('steps', one.steps.join(','));
    body.append('image', blob, 'image.png');
    return body;
  }

  /** Pixels of these images on the page, a whole multiple. */
  const scale = () => Math.max(1, Math.floor(84 / runner.model.width));

  async function begin(plan) {
    rows = [];
    original = await decode(plan.original);
    const first = document.createElement('figure');
    const caption = Object.assign(document.createElement('figcaption'), { textContent: 'original' });
    first.append(caption, single(original, 'The original', 2 * scale()));
    first.className = 'original';
    stage.replaceChildren(first);
    figure.hidden = true;
  }

  async function add(row) {
    const [image, latent] = await Promise.all([decode(row.png), decode(row.latent_png)]);
    rows.push({ ...row, image, latent });
    const card = document.createElement('figure');
    const head = Object.assign(document.createElement('figcaption'), { innerHTML: '<b></b><span></span>' });
    head.querySelector('b').textContent = `S = ${row.steps}`;
    head.querySelector('span').textContent = `error ${small(row.mse)}`;
    card.append(head, single(latent, `Its latent, ${row.steps} steps`, scale()), single(image, `Decoded, ${row.steps} steps`, scale()));
    stage.append(card);
    draw();
  }

  function draw() {
    const points = rows.filter((row) => row.mse > 0).map((row) => ({ x: row.steps, y: row.mse })).sort((a, b) => a.x - b.x);
    figure.hidden = points.length < 2;
    if (figure.hidden) return;
    figure.querySelector('svg')?.remove();
    figure.append(chart(points, Math.min(560, figure.clientWidth), `Error: ${points.map((p) => `${p.y.toPrecision(2)} with ${p.x} steps`).join(', ')}`));
  }

  function strip() {
    const words = ['original', ...rows.map((row) => `S = ${row.steps}`)];
    return sheet(['latent', 'back again'], words, [
      [null, ...rows.map((row) => row.latent)],
      [original, ...rows.map((row) => row.image)],
    ], scale());
  }

  runner.pickers = [picker];
  return runner;
}
