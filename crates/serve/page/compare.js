// Comparison: the same latents, with a cell for each number of steps and amount of noise.

import { values } from './link.js';
import { decode, Grid, paint, sheet } from './pictures.js';
import { plural, Runner } from './runner.js';

const GAP = 2; // css pixels between the images of a cell

export function compare(section, changed) {
  const form = section.querySelector('form');
  const table = section.querySelector('.matrix');
  const room = section.querySelector('.scroll');
  let plan = null;
  let cells = new Map();

  const list = (name) => (values(form).get(name) ?? '').split(',').filter(Boolean).map(Number);
  const key = (steps, eta) => `${steps}/${eta}`;
  const runner = new Runner(section, {
    word: 'Compare',
    doing: 'Comparing',
    path: '/v1/compare',
    changed,
    work: () => list('steps').reduce((sum, s) => sum + s, 0) * list('eta').length * form.elements.n.value,
    body: request,
    summary: () => `${plural(cells.size, 'run')} from the same ${plural(plan.n, 'latent')}`,
    download: async () => ({ name: 'skipstone-compare.png', blob: await print() }),
    on: { plan: begin, cell: fill, done: () => runner.command([...cells.values()].map((cell) => cell.command).join('\n')) },
  });

  function request() {
    const all = { model: form.elements.model.value, spacing: form.elements.spacing.value, steps: list('steps'), eta: list('eta') };
    for (const name of ['steps', 'eta']) {
      if (all[name].length) continue;
      runner.fail({ field: name, message: 'choose at least one' });
      return null;
    }
    const [count, n] = [all.steps.length * all.eta.length, Number(form.elements.n.value)];
    const most = runner.limits.n;
    if (count * n > most) {
      runner.fail({ field: 'n', message: `${count} cells of ${plural(n, 'image')} are ${count * n}; at most ${most} in all` });
      return null;
    }
    for (const name of ['n', 'seed', 'class', 'guide', 'guidance']) {
      const field = form.elements[name];
      if (!field.disabled && field.value !== '') all[name] = name === 'guide' ? field.value : Number(field.value);
    }
    return all;
  }

  function begin(data) {
    plan = data;
    cells = new Map();
    table.replaceChildren();
    const head = table.createTHead().insertRow();
    const heading = (text, scope) => Object.assign(document.createElement('th'), { textContent: text, scope });
    head.append(document.createElement('td'), ...plan.eta.map((eta) => heading(`η = ${eta}`, 'col')));
    const body = table.createTBody();
    const blank = Grid.blank(plan.n, plan.columns, runner.model.width, runner.model.height);
    for (const steps of plan.steps) {
      const row = body.insertRow();
      row.append(heading(`S = ${steps}`, 'row'));
      for (const eta of plan.eta) {
        const canvas = document.createElement('canvas');
        canvas.setAttribute('role', 'img');
        canvas.setAttribute('aria-label', `${steps} steps, η = ${eta}, not there yet`);
        row.insertCell().append(canvas);
        cells.set(key(steps, eta), { canvas, grid: blank });
      }
    }
    draw();
  }

  async function fill(data) {
    const cell = cells.get(key(data.steps, data.eta));
    if (!cell) return;
    cell.command = data.command;
    cell.grid = new Grid(await decode(data.png), plan.n, plan.columns, plan.tile);
    cell.canvas.setAttribute('aria-label', `${data.steps} steps, η = ${data.eta}`);
    cell.canvas.parentElement.title = `${data.calls} calls, ${data.seconds.toFixed(2)} s`;
    draw();
  }

  /** Draws all cells at the largest scale at which the matrix fits. */
  function draw() {
    if (!plan || !room.clientWidth) return;
    const ratio = window.devicePixelRatio || 1;
    const gap = Math.round(GAP * ratio);
    const each = ((room.clientWidth - 72) / plan.eta.length - 14) * ratio - gap * (plan.columns - 1);
    const scale = Math.floor(Math.min(each / (plan.columns * runner.model.width), 3 * ratio));
    for (const { canvas, grid } of cells.values()) paint(canvas, grid, Math.max(1, scale), gap);
  }

  function print() {
    const bitmaps = plan.steps.map((steps) => plan.eta.map((eta) => cells.get(key(steps, eta)).grid.bitmap));
    const scale = 2 / (plan.tile?.scale ?? 1);
    return sheet(plan.steps.map((s) => `S = ${s}`), plan.eta.map((eta) => `η = ${eta}`), bitmaps, Math.max(1, scale));
  }

  /** Limits the images per cell; more cells allow fewer. */
  const bound = () => {
    const n = form.elements.n;
    n.max = Math.max(1, Math.floor(runner.limits.n / Math.max(1, list('steps').length * list('eta').length)));
    n.dispatchEvent(new Event('skip:set'));
  };
  for (const box of form.querySelectorAll('.chips')) {
    box.addEventListener('input', bound);
    box.addEventListener('skip:set', bound, true);
  }

  let known = 0;
  new ResizeObserver(() => {
    if (known === room.clientWidth) return;
    known = room.clientWidth;
    draw();
  }).observe(room);
  return runner;
}
