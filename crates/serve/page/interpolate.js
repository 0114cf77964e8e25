// Interpolation: a square of images between four latents, or a line between two pictures, and a point that moves in it.

import { events } from './api.js';
import { anySeed, diceButton } from './fields.js';
import { blobOf, decode, Grid, Mosaic } from './pictures.js';
import { Picker } from './pick.js';
import { Runner } from './runner.js';

/** How long the point must rest before the image at the point is requested. */
const REST = 220; // ms

const clamp = (x) => Math.min(1, Math.max(0, x));

export function interpolate(section, changed) {
  const form = section.querySelector('form');
  const plane = section.querySelector('.plane .frame');
  const dot = plane.querySelector('i');
  const mosaic = new Mosaic(plane.querySelector('canvas'), { room: section.querySelector('.plane'), most: 0.6 });
  const large = new Mosaic(section.querySelector('.large canvas'), { room: section.querySelector('.large'), most: 0.42, largest: 10 });
  const caption = section.querySelector('figcaption');
  const field = form.elements.at;
  const picks = section.querySelector('.picks');
  let sheet = null; // columns, rows, and the grid once it has arrived
  let point = [0.5, 0.5];
  let refine = null;
  let timer = 0;
  let exact = new Map();

  const ofImages = () => form.elements.between.value === 'images';
  const points = () => Number(form.elements.points.value);
  const runner = new Runner(section, {
    word: 'Interpolate',
    doing: 'Interpolating',
    path: '/v1/interpolate',
    changed,
    work: () => form.elements.steps.value * (ofImages() ? points() + 4 : points() ** 2),
    body: request,
    looks: () => ({ at: field.value }),
    summary: (done) => `${done.columns * done.rows} images between ${ofImages() ? 'two pictures' : 'four seeds'}`,
    download: (done) => ({ name: 'skipstone-between.png', blob: blobOf(done.file ?? done.png) }),
    on: { plan: begin, step: draw, done: finish },
  });
  const pickers = ['First picture', 'Second picture'].map((title) => new Picker(picks, {
    name: 'images',
    title,
    picked: (error) => runner.picked(error),
  }));

  async function request() {
    const one = { model: form.elements.model.value, steps: Number(form.elements.steps.value), points: points() };
    if (!ofImages()) return { ...one, seeds: [...form.elements.seeds].map((seed) => Number(seed.value)) };
    const blobs = await Promise.all(pickers.map((picker) => picker.blob()));
    if (blobs.some((blob) => !blob)) {
      runner.say('Choose two pictures.');
      return null;
    }
    const body = new FormData();
    for (const [name, value] of Object.entries(one)) body.append(name, value);
    blobs.forEach((blob) => body.append('image', blob, 'image.png'));
    return body;
  }

  /** The request of the grid, with a single point in its place. The form may have changed since. */
  function pointOf(body, at) {
    if (!(body instanceof FormData)) return { ...body, at };
    const one = new FormData();
    for (const [name, value] of body) one.append(name, value);
    one.append('at', at.join(','));
    return one;
  }

  function begin(plan, body) {
    clearTimeout(timer);
    refine?.abort();
    exact = new Map();
    sheet = { columns: plan.columns, rows: plan.rows ?? 1, tile: plan.tile, grid: null, body };
    const { width, height } = runner.model;
    mosaic.expect(Grid.blank(sheet.columns * sheet.rows, sheet.columns, width, height));
    large.expect(Grid.blank(1, 1, width, height));
    place();
  }

  async function draw({ png }) {
    const mine = sheet;
    const bitmap = await decode(png);
    if (mine !== sheet) return;
    sheet.grid = new Grid(bitmap, sheet.columns * sheet.rows, sheet.columns, sheet.tile);
    mosaic.show(sheet.grid);
    place();
    await near();
  }

  async function finish(done) {
    const mine = sheet;
    await draw(done);
    if (mine === sheet) rest();
  }

  /** The tile nearest to the point, and whether the point is exactly on it. */
  function nearest() {
    const [x, y] = [point[0] * (sheet.columns - 1), point[1] * (sheet.rows - 1)];
    const [column, row] = [Math.round(x), Math.round(y)];
    return { column, row, on: Math.abs(x - column) < 1e-6 && Math.abs(y - row) < 1e-6 };
  }

  /** Enlarges the nearest tile. */
  async function near() {
    const { column, row, on } = nearest();
    const asked = point;
    const there = exact.get(String(point));
    const image = there ? new Grid(await decode(there), 1, 1) : await sheet.grid.image(row * sheet.columns + column);
    if (asked === point) showLarge(image, on || Boolean(there));
  }

  function showLarge(image, right) {
    large.show(image);
    caption.textContent = right ? words() : `${words()}, nearest image`;
  }

  function words() {
    const share = (x) => `${Math.round(x * 100)} %`;
    return sheet?.rows > 1 ? `${share(point[0])} across, ${share(point[1])} down` : `${share(point[0])} of the way`;
  }

  /** Moves the dot to the point. */
  function place() {
    if (!sheet || !plane.clientWidth) return;
    const { w, h, step } = mosaic.layout();
    dot.style.left = `${w / 2 + point[0] * (sheet.columns - 1) * (w + step)}px`;
    dot.style.top = `${h / 2 + point[1] * (sheet.rows - 1) * (h + step)}px`;
    dot.hidden = false;
    plane.setAttribute('aria-valuenow', Math.round(point[0] * 100));
    plane.setAttribute('aria-valuetext', words());
  }

  function move(to) {
    if (!sheet?.grid) return;
    point = [clamp(to[0]), sheet.rows > 1 ? clamp(to[1]) : 0];
    place();
    near();
    clearTimeout(timer);
    timer = setTimeout(rest, REST);
  }

  /** Requests the image at the point once the point rests. */
  async function rest() {
    field.value = point.map((x) => Number(x.toFixed(4))).join(',');
    changed();
    refine?.abort();
    if (nearest().on || exact.has(String(point))) return;
    const [asked, mine] = [point, new AbortController()];
    refine = mine;
    try {
      const at = sheet.rows > 1 ? asked : [asked[0]];
      for await (const { event, data } of events({ path: '/v1/interpolate' }, pointOf(sheet.body, at), mine.signal)) {
        if (mine.signal.aborted) return;
        if (event !== 'done') continue;
        exact.set(String(asked), data.tiles[0]);
        if (asked === point) showLarge(new Grid(await decode(data.tiles[0]), 1, 1), true);
      }
    } catch (error) {
      // The nearest tile stays. A busy server needs no message here.
      if (mine.signal.aborted || error.status === 429) return;
      if (asked === point) caption.textContent = `${words()}, nearest image; ${error.message}`;
    }
  }

  function toPoint(event) {
    const box = mosaic.canvas.getBoundingClientRect();
    const { w, h, step } = mosaic.layout();
    const along = (x, size, count) => (count > 1 ? (x - size / 2) / ((count - 1) * (size + step)) : 0);
    move([along(event.clientX - box.left, w, sheet.columns), along(event.clientY - box.top, h, sheet.rows)]);
  }

  plane.addEventListener('pointerdown', (event) => {
    if (!sheet?.grid || event.button) return;
    plane.setPointerCapture(event.pointerId);
    toPoint(event);
  });
  plane.addEventListener('pointermove', (event) => {
    if (plane.hasPointerCapture(event.pointerId)) toPoint(event);
  });
  plane.addEventListener('keydown', (event) => {
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!way || !sheet?.grid) return;
    event.preventDefault();
    // One tile at a time, or with the shift key a fifth of one.
    const [across, down] = [sheet.columns - 1, Math.max(1, sheet.rows - 1)];
    const fine = event.shiftKey ? 5 : 1;
    const snap = (x, count) => Math.round(x * count * fine) / (count * fine);
    move([snap(point[0] + way[0] / (across * fine), across), snap(point[1] + way[1] / (down * fine), down)]);
  });
  new ResizeObserver(place).observe(plane);

  const between = () => {
    section.classList.toggle('line', ofImages());
    picks.hidden = !ofImages();
    const { n } = runner.limits;
    const [label, most] = ofImages() ? ['Points of the line', n] : ['Points per side', Math.floor(Math.sqrt(n))];
    for (const seed of form.elements.seeds) seed.disabled = ofImages();
    for (const image of form.elements.images) image.disabled = !ofImages();
    const field = form.elements.points;
    field.labels[0].textContent = label;
    field.max = most;
    if (field.value > most) field.value = most;
    field.dispatchEvent(new Event('skip:set'));
  };
  for (const radio of form.querySelectorAll('[name=between]')) {
    radio.addEventListener('input', between);
    radio.addEventListener('skip:set', between);
  }
  field.addEventListener('skip:set', () => {
    const [u, v] = field.value.split(',').map(Number);
    point = field.value ? [clamp(u || 0), clamp(v || 0)] : [0.5, 0.5];
  });
  section.querySelectorAll('.corner').forEach((corner) => {
    const seed = corner.querySelector('input');
    corner.append(diceButton(`Another ${corner.textContent.trim().toLowerCase()}`, () => {
      seed.value = anySeed();
      seed.dispatchEvent(new Event('change', { bubbles: true }));
    }));
  });
  // The corners are outside the form's element, so their events do not bubble through it.
  section.querySelector('.plane').addEventListener('change', () => runner.soon());
  runner.pickers = pickers;
  return runner;
}
