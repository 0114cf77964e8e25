// Sampling: images that sharpen as x̂₀ arrives step by step.

import { blobOf, decode, Grid, Mosaic } from './pictures.js';
import { plural, Runner } from './runner.js';
import { TimeLine } from './skips.js';

/** Descriptions of noise other than η. */
const NOISES = {
  hat: 'The larger of DDPM’s two variances',
  analytic: 'The variance that fits the network best',
};

const rounded = (x) => (x === 0 ? '0' : Math.abs(x) < 1e-3 ? x.toExponential(2) : x.toFixed(4));

export function sample(section, changed) {
  const form = section.querySelector('form');
  const mosaic = new Mosaic(section.querySelector('canvas'));
  const line = new TimeLine(section.querySelector('.skips'), seek);
  const replayButton = section.querySelector('.replay');
  const readout = section.querySelector('.readout p');
  const table = section.querySelector('.table');
  const body = table.querySelector('tbody');
  let plan = null;
  let frames = []; // base64 of x̂₀ at step 1, 2, … (some may be missing), then of the images
  let drawing = Promise.resolve();
  let wanted = 0;
  let replay = 0;

  const value = (name) => form.elements[name].value;
  // A link may select a step of a run. Another run begins without a selection.
  for (const event of ['submit', 'change']) form.addEventListener(event, () => { form.elements.step.value = ''; });
  const runner = new Runner(section, {
    word: 'Sample',
    doing: 'Sampling',
    path: '/v1/stream',
    query: true,
    changed,
    work: () => value('n') * value('steps') * (value('guidance') && !form.elements.guidance.disabled ? 2 : 1),
    body: request,
    summary: () => `${plural(plan.n, 'image')} in ${plural(plan.times.length, 'step')}${plan.note ? `. Note: ${plan.note}` : ''}`,
    looks: () => ({ step: frames.length && line.shown < frames.length ? line.shown : '' }),
    download: (done) => ({ name: `skipstone-seed-${value('seed')}.png`, blob: blobOf(done.png) }),
    on: {
      plan: begin,
      step: (step) => arrive(plan.times.indexOf(step.t) + 1, step.png),
      done: finish,
      stopped: () => { replayButton.disabled = frames.length < 2; },
    },
  });

  function request() {
    const names = ['model', 'steps', 'sigma', 'eta', 'n', 'seed', 'spacing', 'solver', 'clip', 'class', 'guide', 'guidance'];
    const all = names.map((name) => form.elements[name]).map((field, i) => [names[i], field.disabled ? '' : field.value]);
    return Object.fromEntries(all.filter(([, value]) => value !== ''));
  }

  function begin(data) {
    stopReplay();
    replayButton.disabled = true;
    plan = data;
    frames = [];
    const { height, width, timesteps } = runner.model;
    mosaic.expect(Grid.blank(plan.n, plan.columns, width, height));
    line.plan(plan.times, timesteps ?? 1000);
    readout.textContent = '';
    fillTable();
  }

  /** Writes the table when it is opened. */
  function fillTable() {
    table.hidden = !plan.rows?.length;
    if (table.hidden || !table.open) return body.replaceChildren();
    body.replaceChildren(...plan.rows.map((row, i) => {
      const tr = document.createElement('tr');
      const cells = [row.t, row.s ?? 'image', ...[row.alpha_t, row.alpha_s, row.sigma, row.x0, row.eps].map(rounded)];
      tr.append(Object.assign(document.createElement('th'), { scope: 'row', textContent: i + 1 }));
      for (const text of cells) tr.insertCell().textContent = text;
      return tr;
    }));
    mark(line.shown);
  }

  /** Marks the row of step k. */
  function mark(k) {
    body.querySelector('.now')?.classList.remove('now');
    body.rows[k - 1]?.classList.add('now');
  }

  async function arrive(k, png) {
    if (k < 1) return;
    frames[k - 1] = png;
    if (line.arrive(k)) await show(k);
  }

  async function finish(done) {
    await arrive(plan.times.length + 1, done.png);
    replayButton.disabled = false;
    const step = Number(value('step'));
    if (!step || step >= frames.length) return;
    line.set(step);
    await show(step);
  }

  /** Shows frame k at the visitor's request. */
  function seek(k) {
    stopReplay();
    form.elements.step.value = k < frames.length ? k : '';
    changed();
    show(k);
  }

  /** Draws frame k. If many are requested, only the newest is drawn. */
  function show(k) {
    wanted = k;
    say(k);
    drawing = drawing.then(async () => {
      // A missing frame is replaced by the last one before it, under that one's name.
      const there = frames.slice(0, k).findLastIndex(Boolean);
      if (k !== wanted || there < 0) return;
      const grid = new Grid(await decode(frames[there]), plan.n, plan.columns, plan.tile);
      if (k !== wanted) return;
      mosaic.show(grid);
      say(there + 1);
    });
    return drawing;
  }

  function say(k) {
    const image = k > plan.times.length;
    const t = plan.times[k - 1];
    const text = image ? 'the images' : `step ${k} of ${plan.times.length}, t = ${t}`;
    const row = plan.rows?.[k - 1];
    readout.textContent = image ? 'The images, t = 0' : `x̂₀ at step ${k} of ${plan.times.length} · t = ${t}${row ? ` · σ = ${rounded(row.sigma)}` : ''}`;
    line.say(text);
    mosaic.canvas.setAttribute('aria-label', image ? plural(plan.n, 'sampled image') : `Prediction of ${plural(plan.n, 'image')}, ${text}`);
    mark(k);
  }

  function stopReplay() {
    clearInterval(replay);
    replay = 0;
    replayButton.textContent = 'Replay';
  }

  replayButton.addEventListener('click', () => {
    if (replay) return stopReplay();
    replayButton.textContent = 'Pause';
    let k = line.shown >= frames.length ? 0 : line.shown;
    const stride = Math.max(1, Math.round(frames.length / 120));
    replay = setInterval(() => {
      k = Math.min(frames.length, k + stride);
      line.set(k);
      show(k);
      if (k === frames.length) stopReplay();
    }, Math.max(40, Math.min(400, 3000 / frames.length)));
  });

  table.addEventListener('toggle', () => plan && fillTable());

  const eta = form.elements.eta;
  const hint = section.querySelector('[data-field=sigma] .hint');
  const noise = () => {
    const name = form.elements.sigma.value;
    const named = name !== '';
    hint.hidden = !named;
    hint.textContent = NOISES[name] ?? '';
    eta.closest('.field').hidden = named;
    eta.disabled = named;
    eta.dispatchEvent(new Event('skip:set'));
  };
  form.querySelectorAll('[name=sigma]').forEach((radio) => {
    radio.addEventListener('input', noise);
    radio.addEventListener('skip:set', noise);
  });
  return runner;
}
