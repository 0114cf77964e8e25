// Sampling: images that sharpen as x̂₀ comes step by step.

import { blobOf, decode, Grid, Mosaic } from './pictures.js';
import { Runner } from './runner.js';
import { TimeLine } from './skips.js';

const rounded = (x) => (x === 0 ? '0' : Math.abs(x) < 1e-3 ? x.toExponential(2) : x.toFixed(4));

export function sample(section, changed) {
  const form = section.querySelector('form');
  const mosaic = new Mosaic(section.querySelector('canvas'));
  const line = new TimeLine(section.querySelector('.skips'), seek);
  const replayButton = section.querySelector('.replay');
  const readout = section.querySelector('.readout p');
  const table = section.querySelector('.table');
  let plan = null;
  let frames = []; // base64 of x̂₀ at step 1, 2, …, some of which may not have come; then of the images
  let drawing = Promise.resolve();
  let wanted = 0;
  let replay = 0;

  const value = (name) => form.elements[name].value;
  // A link may point at one step of a run; another run begins with none.
  for (const event of ['submit', 'change']) form.addEventListener(event, () => { form.elements.step.value = ''; });
  const runner = new Runner(section, {
    word: 'Sample',
    doing: 'Sampling',
    path: '/v1/stream',
    query: true,
    changed,
    work: () => value('n') * value('steps') * (value('guidance') && !form.elements.guidance.disabled ? 2 : 1),
    body: request,
    summary: (done) => `${done.n ?? plan.n} images in ${plan.times.length} steps`,
    download: (done) => ({ name: `skipstone-seed-${value('seed')}.png`, blob: blobOf(done.png) }),
    on: {
      plan: begin,
      step: (step) => arrive(plan.times.indexOf(step.t) + 1, step.png),
      done: finish,
      stopped: () => { replayButton.disabled = frames.length < 2; },
    },
  });

  function request() {
    const all = Object.fromEntries(['model', 'spacing', 'solver', 'clip', 'sigma'].map((name) => [name, value(name)]));
    for (const name of ['steps', 'n', 'seed', 'eta', 'class', 'guidance']) {
      const field = form.elements[name];
      if (!field.disabled && field.value !== '') all[name] = Number(field.value);
    }
    if (!all.sigma) delete all.sigma;
    return all;
  }

  function begin(data) {
    stopReplay();
    replayButton.disabled = true;
    plan = { ...data, n: data.n ?? Number(value('n')) };
    frames = [];
    const { height, width, timesteps } = runner.model;
    mosaic.expect(Grid.blank(plan.n, plan.columns, width, height));
    line.plan(plan.times, timesteps ?? 1000);
    readout.textContent = '';
    fillTable();
  }

  function fillTable() {
    table.hidden = !plan.rows?.length;
    table.querySelector('tbody').replaceChildren(...(plan.rows ?? []).map((row, i) => {
      const tr = document.createElement('tr');
      const cells = [row.t, row.s ?? 'image', rounded(row.alpha_t), rounded(row.alpha_s), rounded(row.sigma), rounded(row.x0), rounded(row.eps)];
      tr.append(Object.assign(document.createElement('th'), { scope: 'row', textContent: i + 1 }));
      for (const text of cells) tr.insertCell().textContent = text;
      return tr;
    }));
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

  /** Somebody wants to see frame k. */
  function seek(k) {
    stopReplay();
    form.elements.step.value = k < frames.length ? k : '';
    changed();
    show(k);
  }

  /** Draws frame k, and only the newest wanted where many are asked for. */
  function show(k) {
    wanted = k;
    say(k);
    drawing = drawing.then(async () => {
      const frame = frames.slice(0, k).findLast(Boolean);
      if (k !== wanted || !frame) return;
      const grid = new Grid(await decode(frame), plan.n, plan.columns, plan.tile);
      if (k === wanted) mosaic.show(grid);
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
    mosaic.canvas.setAttribute('aria-label', image ? `${plan.n} sampled images` : `What the network takes ${plan.n} images for, ${text}`);
    table.querySelectorAll('tbody tr').forEach((tr, i) => tr.classList.toggle('now', i === k - 1));
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

  const eta = form.elements.eta;
  const noise = () => {
    const named = form.elements.sigma.value !== '';
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
