// A run of a tab: sends the request, passes events on, and shows the cost, errors, and how to repeat the run.

import { ApiError, events } from './api.js';
import { clearErrors, errorAt, wrong } from './fields.js';
import { values } from './link.js';

/** Runs that take at most this long start by themselves after a change. */
const QUICK = 6; // seconds
/** How often a request to a busy server is repeated. */
const TRIES = 8;

const number = (x, digits = 2) => (x >= 100 ? Math.round(x) : Number(x.toPrecision(digits))).toLocaleString('en');

/** A time for people. */
export function seconds(s) {
  if (s < 0.0995) return `${Math.max(1, Math.round(s * 1000))} ms`;
  if (s < 99.5) return `${number(s)} s`;
  return s < 5400 ? `${Math.round(s / 60)} min` : `${number(s / 3600)} h`;
}

/** A number with its noun. */
export const plural = (n, word) => `${n.toLocaleString('en')} ${word}${n === 1 ? '' : 's'}`;

const pause = (ms, signal) => new Promise((resolve, reject) => {
  const timer = setTimeout(resolve, ms);
  signal.addEventListener('abort', () => { clearTimeout(timer); reject(signal.reason); }, { once: true });
});

const ahead = (others) => (others ? `Waiting for ${plural(others, 'other run')}` : 'Next in line');

export class Runner {
  #section;
  #task;
  #controller = null;
  #ran = null;
  #timer = 0;

  /**
   * `task` describes the tab: `word` is on its button, `doing` is shown while it runs. `path` and `body()` make the request, sent as a `query` or
   * posted; `body()` is null while something is missing. `work()` is in images × calls. `on` has a function for each event, which gets its data and
   * that body. `download()` gives `{ name, blob }`. `looks()` gives the fields, by name, that only select the viewed part of a result.
   */
  constructor(section, task) {
    this.#section = section;
    this.#task = task;
    this.form = section.querySelector('form');
    this.go = this.#fill('.go', '#go');
    this.result = this.#fill('.result', '#result');
    this.go.querySelector('.word').textContent = task.word;
    this.form.addEventListener('submit', (event) => {
      event.preventDefault();
      this.start();
    });
    this.form.addEventListener('input', () => this.guess());
    this.form.addEventListener('change', (event) => {
      this.guess();
      if (event.target.type === 'file' || event.target.dataset.silent !== undefined) return;
      this.soon();
    });
    this.go.querySelector('.stop').addEventListener('click', () => this.stop());
    this.#copies('.link', () => this.link());
    this.#copies('.copy', () => this.result.querySelector('pre').textContent);
  }

  #fill(place, template) {
    const box = this.#section.querySelector(place);
    box.append(document.querySelector(template).content.cloneNode(true));
    return box;
  }

  #copies(selector, text) {
    const button = this.result.querySelector(selector);
    const word = button.textContent;
    button.addEventListener('click', async () => {
      try {
        await navigator.clipboard.writeText(text());
        button.textContent = 'Copied';
      } catch {
        // A page that came by http from another machine may not write to the clipboard.
        window.prompt('Copy this:', text());
      }
      setTimeout(() => { button.textContent = word; }, 1500);
    });
  }

  get model() {
    return this.models?.find((model) => model.id === this.form.elements.model.value) ?? this.models?.[0];
  }

  /** Estimated seconds of the run, from the last run or else from the server's measurement. */
  estimate() {
    const { model } = this;
    return model ? (this.#task.work() * (model.rate ?? model.ms_per_call)) / 1000 : NaN;
  }

  guess() {
    const s = this.estimate();
    this.go.querySelector('.guess').textContent = s > 0 ? `about ${seconds(s)}` : '';
  }

  /** Starts the run after a moment without changes, if it is quick. */
  soon() {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      this.#task.changed();
      if (this.estimate() <= QUICK) this.start();
    }, 150);
  }

  /** The request of the shown result, and the part of it being viewed. The form may have changed since. */
  get shown() {
    const all = new Map(this.#ran ?? values(this.form));
    for (const [name, value] of Object.entries(this.#task.looks?.() ?? {})) {
      if (value === '') all.delete(name);
      else all.set(name, String(value));
    }
    return all;
  }

  /** Handles the choice of another picture, or of a file that is not one. */
  picked(error) {
    clearErrors(this.form);
    this.fail(error ?? null);
    if (!error) this.soon();
  }

  stop() {
    clearTimeout(this.#timer);
    this.#controller?.abort();
  }

  /** Runs the request of the form, replacing any current run. */
  async start() {
    this.stop();
    const controller = new AbortController();
    this.#controller = controller;
    this.#task.changed();
    clearErrors(this.form);
    this.fail(null);
    try {
      const mistake = wrong(this.form);
      const asked = values(this.form);
      const body = mistake ? this.fail(mistake) : await this.#task.body();
      controller.signal.throwIfAborted();
      if (!body) return;
      this.#ran = asked;
      this.#busy(true);
      const begun = performance.now();
      for await (const { event, data } of this.#ask(body, controller.signal)) {
        controller.signal.throwIfAborted();
        this.say(event === 'queued' ? ahead(data.position) : `${this.#task.doing}…`);
        await this.#task.on[event]?.(data, body);
        controller.signal.throwIfAborted();
        if (event === 'plan') this.command(data.command);
        if (event === 'done') await this.#finish(data, (performance.now() - begun) / 1000);
      }
    } catch (error) {
      if (this.#controller !== controller) return;
      if (controller.signal.aborted) this.#stopped();
      else this.fail(error);
      if (!controller.signal.aborted && !(error instanceof ApiError)) console.error(error);
    } finally {
      if (this.#controller === controller) this.#busy(false);
    }
  }

  #stopped() {
    this.say('Stopped');
    this.#forget();
    this.#task.on.stopped?.();
  }

  /** The events of the run. If the server is busy, the request is repeated when the server says so. */
  async* #ask(body, signal) {
    for (let left = TRIES; ; left -= 1) {
      try {
        yield* events(this.#task, body, signal);
        return;
      } catch (error) {
        if (error.status !== 429 || left === 1) throw error;
        const wait = Math.max(1, error.retryAfter);
        this.say(`The server is busy. Trying again in ${seconds(wait)}`);
        await pause(wait * 1000, signal);
      }
    }
  }

  async #finish(data, elapsed) {
    const took = data.seconds ?? elapsed;
    const work = this.#task.work();
    if (this.model && work) this.model.rate = (took * 1000) / work;
    this.guess();
    this.say(this.#task.summary(data));
    if (data.command) this.command(data.command);
    this.#cost(took, data.calls, data.ddpm_seconds);
    const file = await this.#task.download(data);
    const link = this.result.querySelector('.download');
    if (link.href) URL.revokeObjectURL(link.href);
    link.href = URL.createObjectURL(file.blob);
    link.download = file.name;
    this.result.querySelector('.take').hidden = false;
  }

  /** Shows the time of this run beside that of 1000 steps of DDPM. */
  #cost(took, calls, ddpm) {
    const box = this.result.querySelector('.cost');
    box.hidden = false;
    const most = Math.max(took, ddpm ?? 0);
    const bar = (row, s, n, about) => {
      row.querySelector('i').style.width = `${Math.max(0.4, (100 * s) / most)}%`;
      row.querySelector('dd').textContent = `${about}${seconds(s)} · ${plural(n, 'network call')}`;
    };
    bar(box.querySelector('.ours'), took, calls, '');
    const theirs = box.querySelector('.ddpm');
    theirs.hidden = ddpm === undefined;
    box.querySelector('.bar').hidden = theirs.hidden;
    if (ddpm !== undefined) bar(theirs, ddpm, this.model?.timesteps ?? 1000, 'about ');
  }

  #busy(is) {
    this.#section.setAttribute('aria-busy', String(is));
    this.go.querySelector('.stop').hidden = !is;
    // The texts are those of the last run until this one ends.
    for (const part of this.result.querySelectorAll('.take, .cost')) part.inert = is;
    if (is) this.say('Sending the request…');
  }

  /** Hides the buttons and the cost, because there is no result. */
  #forget() {
    for (const part of this.result.querySelectorAll('.take, .cost')) part.hidden = true;
  }

  say(text) {
    const status = this.result.querySelector('.status');
    // Setting the same text again would make screen readers repeat it.
    if (status.textContent !== text) status.textContent = text;
  }

  command(text) {
    for (const part of this.result.querySelectorAll('.copy, pre')) part.hidden = !text;
    this.result.querySelector('pre').textContent = text ?? '';
  }

  /** Shows an error beside its field, or below the pictures; null removes it. */
  fail(error) {
    const note = this.result.querySelector('.error');
    const shown = error && error.field && errorAt(this.form, error.field, error.message);
    note.hidden = !error || Boolean(shown);
    note.textContent = note.hidden ? '' : error.message;
    if (!error) return;
    this.say('');
    this.#forget();
  }
}
