// The time line: a stone that skips over water, from noise at t = T − 1 to the image. It touches the water at every network
// call. Past touches can be selected.

const SVG = 'http://www.w3.org/2000/svg';
const HEIGHT = 76;
const WATER = 58;
const EDGE = 10;
/** More hops than these would be too small to see and become a line. */
const HOPS = 200;

function element(name, attributes, parent) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  parent?.append(made);
  return made;
}

export class TimeLine {
  #box;
  #range;
  #svg;
  #times = [];
  #span = 1000;
  #there = 0;
  #seen;
  #width = 0;

  /** `seen(k)` is called when the visitor selects frame k: 1… are network calls, the last is the image. */
  constructor(box, seen) {
    this.#box = box;
    this.#range = box.querySelector('input');
    this.#svg = box.querySelector('svg');
    this.#seen = seen;
    this.#range.addEventListener('input', () => this.#go(Number(this.#range.value)));
    box.addEventListener('pointerdown', (event) => {
      if (!this.#there || event.button) return;
      box.setPointerCapture(event.pointerId);
      this.#range.focus({ focusVisible: false });
      this.#point(event);
    });
    box.addEventListener('pointermove', (event) => {
      if (box.hasPointerCapture(event.pointerId)) this.#point(event);
    });
    new ResizeObserver(() => {
      if (this.#width !== box.clientWidth) this.#draw();
    }).observe(box);
  }

  /** Starts a new run with network calls at `times`, out of `span` timesteps. */
  plan(times, span) {
    [this.#times, this.#span, this.#there] = [times, span, 0];
    Object.assign(this.#range, { max: 1, value: 1, disabled: true });
    this.#draw();
  }

  /** Number of frames. */
  get there() {
    return this.#there;
  }

  get shown() {
    return Number(this.#range.value);
  }

  /** Adds frame `k`: a call, or after the last call the image. */
  arrive(k) {
    const follows = this.shown >= this.#there || !this.#there;
    this.#there = k;
    Object.assign(this.#range, { max: k, disabled: false });
    if (follows) this.#range.value = k;
    this.#mark(true);
    return follows;
  }

  /** Shows frame `k` as the current one. */
  set(k) {
    this.#range.value = k;
    this.#mark(false);
  }

  /** Describes the current frame for screen readers. */
  say(text) {
    this.#range.setAttribute('aria-valuetext', text);
  }

  #go(k) {
    this.set(k);
    this.#seen(k);
  }

  #x(k) {
    // The image lies one beyond time 0, where a = 1.
    return this.#place(k > this.#times.length ? -1 : this.#times[k - 1]);
  }

  #place(t) {
    return EDGE + ((this.#span - 1 - t) / this.#span) * (this.#width - 2 * EDGE);
  }

  #point(event) {
    const x = event.clientX - this.#box.getBoundingClientRect().left;
    let best = 1;
    for (let k = 2; k <= this.#there; k += 1) {
      if (Math.abs(this.#x(k) - x) < Math.abs(this.#x(best) - x)) best = k;
    }
    if (best !== this.shown) this.#go(best);
  }

  #hop(from, to) {
    const [a, b] = [this.#x(from), this.#x(to)];
    const top = Math.min(WATER - 8, 5 + (b - a) * 0.75);
    return `M${a.toFixed(1)} ${WATER}Q${((a + b) / 2).toFixed(1)} ${(WATER - 2 * top).toFixed(1)} ${b.toFixed(1)} ${WATER}`;
  }

  #draw() {
    this.#width = this.#box.clientWidth;
    if (!this.#width) return;
    const svg = this.#svg;
    svg.setAttribute('viewBox', `0 0 ${this.#width} ${HEIGHT}`);
    svg.replaceChildren();
    element('line', { class: 'water', x1: 0, x2: this.#width, y1: WATER, y2: WATER }, svg);
    const label = (x, anchor, text) => {
      element('text', { x, y: HEIGHT - 3, 'text-anchor': anchor }, svg).textContent = text;
    };
    label(0, 'start', `${this.#span - 1} noise`);
    label(this.#width, 'end', 'image 0');
    for (const quarter of [3, 2, 1]) {
      const t = Math.round((quarter * this.#span) / 4);
      label(this.#place(t), 'middle', t);
    }
    const last = this.#times.length + 1;
    if (last > HOPS) {
      for (const kind of ['there', 'past']) element('line', { class: `hop ${kind}`, x1: EDGE, x2: EDGE, y1: WATER, y2: WATER }, svg);
    } else if (last > 1) {
      for (let k = 1; k < last; k += 1) element('path', { class: 'hop', d: this.#hop(k, k + 1) }, svg);
      for (let k = 1; k <= last; k += 1) element('ellipse', { class: 'touch', cx: this.#x(k), cy: WATER, rx: 2.5, ry: 1.2 }, svg);
    }
    if (last > 1) element('circle', { class: 'stone', cx: this.#x(1), cy: WATER - 3, r: 5 }, svg);
    this.#mark(false);
  }

  /** Colours past touches. With `fresh`, the newest touch makes a ring. */
  #mark(fresh) {
    const stone = this.#svg.querySelector('.stone');
    if (!stone) return;
    const [at, there] = [this.shown, this.#there];
    stone.classList.toggle('there', there > 0);
    stone.setAttribute('cx', this.#x(at).toFixed(1));
    if (this.#times.length >= HOPS) {
      this.#svg.querySelector('.hop.there').setAttribute('x2', this.#x(Math.max(1, there)));
      this.#svg.querySelector('.hop.past').setAttribute('x2', this.#x(at));
      return;
    }
    this.#svg.querySelectorAll('.hop').forEach((hop, i) => {
      hop.classList.toggle('there', i + 2 <= there);
      hop.classList.toggle('past', i + 2 <= Math.min(at, there));
    });
    this.#svg.querySelectorAll('.touch').forEach((touch, i) => touch.classList.toggle('there', i + 1 <= there));
    if (!fresh) return;
    const ring = element('ellipse', { class: 'ring', cx: this.#x(there), cy: WATER, rx: 11, ry: 4 }, this.#svg);
    setTimeout(() => ring.remove(), 1000);
  }
}
